"""What stands in the way of a platform, all of it at once: a solver names only the first thing that it misses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from kbuild.environment.index.package_indexes import IndexFile, version_of
from kbuild.environment.index.wheel_tags import fits, supported_tags, wanted_glibc
from kbuild.environment.requirements import exact_version
from kbuild.environment.target import Target
from kbuild.errors import BaseImageError, KbuildError, PackageNotFound, PlatformError
from kbuild.platform import Platform, host_platform

_THREADS = 8
Files = Callable[[str], list[IndexFile]]


@dataclass(frozen=True, kw_only=True, slots=True)
class WithoutWheel:
    """A release of which no place has a wheel for the target; ``sdist`` where a source distribution is there.

    ``glibc`` is the oldest C library that its wheels want, where that alone stands in the way; ``python`` what its
    files say of Python where that does; ``older`` the newest release that has a wheel.
    """

    name: str
    version: Version
    sdist: bool
    glibc: str | None = None
    python: str | None = None
    older: Version | None = None

    def __str__(self) -> str:
        if self.glibc is not None:
            why = f"wheels for glibc {self.glibc} or newer only"
        elif self.python is not None:
            why = f"for Python {self.python} only"
        else:
            why = "only a source distribution" if self.sdist else "no wheel"
        return f"{self.name} {self.version} ({why})"


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedFiles:
    """Which files are of use: those for this Python, platform and C library."""

    python: str
    platform: Platform
    glibc: str

    def find_without_wheel(self, pins: Mapping[str, Requirement], files: Files) -> tuple[WithoutWheel, ...]:
        """Which of the exactly pinned releases have no wheel, in order of their names.

        ``files`` asks the indexes; a release that they do not have at all is left out, for it is another fault. Raises
        IndexUnavailable.
        """
        versions = {name: exact_version(pin.specifier) for name, pin in sorted(pins.items())}
        wanted = {name: version for name, version in versions.items() if version is not None}
        with ThreadPoolExecutor(_THREADS) as pool:
            found = dict(zip(wanted, pool.map(files, wanted), strict=True))
        judged = (self.judge(name, found[name], SpecifierSet(f"==={version}")) for name, version in wanted.items())
        return tuple(each for each in judged if each is not None)

    def judge(self, name: str, files: Iterable[IndexFile], specifier: SpecifierSet) -> WithoutWheel | None:
        """Why no release that ``specifier`` allows has a wheel: of the newest one; None where one has, or none is."""
        releases: dict[Version, list[IndexFile]] = {}
        for file in files:
            version = version_of(file.filename)
            if version is not None:
                releases.setdefault(version, []).append(file)
        having = [version for version, each in releases.items() if any(map(self._is_of_use, each))]
        here = [version for version in releases if _allows(specifier, version)]
        if not here or any(_allows(specifier, version) for version in having):
            return None
        newest = max(here)
        wheels = [file for file in releases[newest] if file.filename.endswith(".whl")]
        fitting = [file for file in wheels if fits(file.filename, self.python, self.platform)]
        says = next((each.requires_python for each in releases[newest] if not self._is_for_python(each)), None)
        older = max((version for version in having if version < newest and not version.is_prerelease), default=None)
        return WithoutWheel(
            name=name,
            version=newest,
            sdist=any(not file.filename.endswith(".whl") for file in releases[newest]),
            glibc=self._oldest(fitting) if fitting and says is None else None,
            python=says,
            older=older,
        )

    def _is_of_use(self, file: IndexFile) -> bool:
        return self._is_for_python(file) and fits(file.filename, self.python, self.platform, self.glibc)

    def _is_for_python(self, file: IndexFile) -> bool:
        try:
            wanted = SpecifierSet(file.requires_python or "")
        except InvalidSpecifier:
            return True
        return wanted.contains(self.python, prereleases=True)

    def _oldest(self, wheels: Iterable[IndexFile]) -> str | None:
        supported = supported_tags(self.python, self.platform)
        needs = [wanted_glibc(parse_wheel_filename(file.filename)[3], supported) for file in wheels]
        return None if None in needs else ".".join(map(str, min(need for need in needs if need is not None)))


def _allows(specifier: SpecifierSet, version: Version) -> bool:
    return specifier.contains(version, prereleases=True)


def unfit_error(without: tuple[WithoutWheel, ...], wanted: WantedFiles, target: Target) -> KbuildError:
    """The error for releases that are there and of no use; what to choose instead."""
    if wanted.platform != host_platform():
        return platform_error(wanted.platform, None, without)
    older = [f"{each.name} {each.older}" for each in without if each.older is not None]
    other = f"an older version ({', '.join(older)}), and log the model with it" if older else ""
    if all(each.glibc is not None for each in without):
        told = "; ".join(f"{each.name} {each.version} has {str(each).partition('(')[2][:-1]}" for each in without)
        newest = max((str(each.glibc) for each in without), key=Version)
        return BaseImageError(
            f"{told}, and the base {target.base} has glibc {wanted.glibc}",
            hint=target.remedy(newest) + (f"; or {other}" if other else ""),
        )
    return PackageNotFound(
        f"nothing for Python {wanted.python} on {wanted.platform} with glibc {wanted.glibc}:"
        f" {', '.join(map(str, without))}",
        hint=f"choose {other}" if other else "put wheels of it on your package index, or in a folder (PIP_FIND_LINKS)",
    )


def withdrawn_error(name: str, files: Iterable[IndexFile], specifier: SpecifierSet) -> PackageNotFound | None:
    """The error where all that a specifier allows was withdrawn (PEP 592): who asks for such a release names it."""
    allowed = [
        (version, file)
        for file in files
        if (version := version_of(file.filename)) is not None and _allows(specifier, version)
    ]
    if not allowed or any(file.yanked is None for _, file in allowed):
        return None
    newest, file = max(allowed, key=lambda each: each[0])
    why = f": {file.yanked}" if file.yanked else ""
    return PackageNotFound(
        f"every release of {name} that is asked for was withdrawn (yanked) by its authors{why}",
        hint=f"ask for another one, or for exactly that: {name}=={newest}",
    )


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
