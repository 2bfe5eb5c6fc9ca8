"""Platforms: the only place that knows OCI's, conda's and the kernel's names for them.

OCI image-spec, image-index.md "platform" (``linux/amd64``); conda's subdirs (``linux-64``); uname(2) (``x86_64``).
"""

from __future__ import annotations

import platform as _host
from dataclasses import dataclass

from kbuild.errors import PlatformError

_SUBDIRS = {("linux", "amd64"): "linux-64", ("linux", "arm64"): "linux-aarch64"}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and an architecture by their OCI names."""

    os: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``linux/amd64``, or conda's ``linux-64`` for it; raises PlatformError naming the known ones."""
        os, _, architecture = text.partition("/")
        if text in _SUBDIRS.values():
            return cls.from_conda_subdir(text)
        if (os, architecture) not in _SUBDIRS:
            raise PlatformError(f"unknown platform {text!r}", hint=f"known are {_known()}")
        return cls(os, architecture)

    @classmethod
    def parse_list(cls, text: str) -> tuple[Platform, ...]:
        """Read ``linux/amd64,linux/arm64``: sorted, each once. Raises PlatformError as ``parse`` does."""
        return tuple(sorted({cls.parse(part.strip()) for part in text.split(",")}))

    @classmethod
    def from_conda_subdir(cls, subdir: str) -> Platform:
        """Read ``linux-64``; raises PlatformError naming the known ones."""
        for (os, architecture), known in _SUBDIRS.items():
            if known == subdir:
                return cls(os, architecture)
        raise PlatformError(f"no image can be built for conda platform {subdir!r}", hint=f"known are {_known()}")

    @property
    def conda_subdir(self) -> str:
        """conda's name, such as ``linux-64``."""
        return _SUBDIRS[self.os, self.architecture]

    @property
    def machine(self) -> str:
        """What the kernel, and so wheels and conda packages, call the processor, such as ``x86_64``."""
        return _MACHINES[self.architecture]


def known_platforms() -> tuple[Platform, ...]:
    """Every platform that images can be built for, sorted."""
    return tuple(sorted(Platform(*pair) for pair in _SUBDIRS))


def host_platform() -> Platform:
    """The Linux platform of this machine's processor (images are Linux wherever they are built)."""
    machine = _host.machine().lower()
    # Other systems have OCI's names for them.
    found = next((name for name, known in _MACHINES.items() if machine in (name, known)), None)
    if found is None:
        raise PlatformError(f"no image can be built for this machine's processor {machine!r}", hint="give --platform")
    return Platform("linux", found)


def _known() -> str:
    return ", ".join("/".join(pair) for pair in _SUBDIRS)
