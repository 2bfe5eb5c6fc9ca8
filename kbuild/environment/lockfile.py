"""Lockfile: conda-lock's unified format (version 1) as a value.

Format: https://conda.github.io/conda-lock/output/#unified-lockfile and conda-lock's
``conda_lock/lockfile/v1/models.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kbuild.digest import Digest, digest_bytes
from kbuild.platform import Platform


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class LockedPackage:
    """One package of one platform, by url and sha256. ``url`` may name environment variables (``$KBUILD_CHANNEL``)."""

    name: str
    version: str
    manager: Literal["conda", "pip"]
    platform: Platform
    url: str
    sha256: str
    dependencies: tuple[tuple[str, str], ...] = ()

    @property
    def filename(self) -> str:
        """The last part of the url, without query or fragment."""
        return self.url.split("#", 1)[0].split("?", 1)[0].rsplit("/", 1)[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lockfile:
    """A parsed lockfile together with its exact bytes."""

    content: bytes
    packages: tuple[LockedPackage, ...]
    platforms: tuple[Platform, ...]
    channels: tuple[str, ...]
    input_digest: Digest | None

    @property
    def digest(self) -> Digest:
        """The digest of the file's bytes."""
        return digest_bytes(self.content)

    def for_platform(self, platform: Platform) -> tuple[LockedPackage, ...]:
        """The packages of one platform, sorted by manager and name."""
        return tuple(
            sorted((p for p in self.packages if p.platform == platform), key=lambda p: (p.manager, p.name))
        )
