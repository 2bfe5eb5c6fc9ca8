"""What stands in the way of a platform, all of it at once: a solver names only the first thing that it misses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.version import Version

from kbuild.environment.index.package_indexes import IndexFile, releases_of
from kbuild.environment.index.wheel_tags import fits
from kbuild.environment.requirements import exact_version
from kbuild.errors import KbuildError, PlatformError
from kbuild.platform import Platform

_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class WithoutWheel:
    """A release of which no index has a wheel for a platform; ``sdist`` where a source distribution is there."""

    name: str
    version: Version
    sdist: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({'only a source distribution' if self.sdist else 'no wheel'})"


def find_without_wheel(
    pins: Mapping[str, Requirement], python: str, platform: Platform, *, files: Callable[[str], list[IndexFile]]
) -> tuple[WithoutWheel, ...]:
    """Which of the exactly pinned releases have no wheel for ``platform``, in order of their names.

    ``files`` asks the indexes; a release that they do not have at all is left out, for it is another fault. Raises
    IndexUnavailable.
    """
    versions = {name: exact_version(pin.specifier) for name, pin in sorted(pins.items())}
    wanted = {name: version for name, version in versions.items() if version is not None}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(wanted, pool.map(lambda name: releases_of(files(name)), wanted), strict=True))
    without = []
    for name, version in wanted.items():
        here = found[name].get(version, [])
        if here and not any(fits(file, python, platform) for file in here):
            sdist = any(not file.endswith(".whl") for file in here)
            without.append(WithoutWheel(name=name, version=version, sdist=sdist))
    return tuple(without)


def platform_error(
    platform: Platform, of_channel: KbuildError | None, without: tuple[WithoutWheel, ...]
) -> PlatformError:
    """The one error for everything that ``platform`` lacks: what its channels fail with, and packages without wheel."""
    lacks, remedies = [], []
    if of_channel is not None:
        lacks.append(f"no interpreter, because {of_channel.message}")
        remedies.append(f"name a conda channel, or a folder of one, that has python for {platform.conda_subdir}")
        remedies[-1] += " (--channel)"
    if without:
        lacks.append(", ".join(map(str, without)))
        remedies.append(f"put wheels of {', '.join(each.name for each in without)} for it on your package index")
    return PlatformError(
        f"an image for {platform} cannot be assembled here: {'; '.join(lacks)}", hint="; ".join(remedies)
    )
