"""Built wheels in the documents of a lock, in the place of the source distributions that they were built from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kbuild.environment.built.built_wheels import WheelBuilds, wheel_url
from kbuild.environment.built.sdists import BuiltWheel
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import PlatformError
from kbuild.platform import Platform, host_platform
from kbuild.progress import Progress

Document = Mapping[str, Any]


def replace_sdists(
    builds: WheelBuilds,
    python: str,
    sdists: Sequence[LockedPackage],
    documents: Mapping[Platform, Document],
    progress: Progress,
) -> None:
    """conda-lock falls back to a source distribution where no wheel fits; an image is made of wheels alone. Raises what
    ``WheelBuilds.wheel_of`` does, and PlatformError for native code of another platform than this machine's."""
    bound = []
    for package in sdists:
        wheel = builds.wheel_of(package, python, progress)
        if not wheel.is_pure and package.platform != host_platform():
            bound.append(package)
            continue
        for entry in documents[package.platform]["package"]:
            if entry["manager"] == "pip" and entry["name"] == package.name:
                _put(entry, wheel)
    if bound:
        raise bound_to_platform(bound)


def build_ahead(
    builds: WheelBuilds,
    python: str,
    sdists: Iterable[LockedPackage],
    ready: Mapping[str, BuiltWheel],
    progress: Progress,
) -> dict[str, BuiltWheel]:
    """Wheels of source distributions that do not say by themselves what they depend on, by their urls on this machine:
    for a solver to read. Raises as ``replace_sdists``, also where all are ``ready`` and were of no use."""
    sdists = tuple(sdists)
    made = [builds.wheel_of(package, python, progress) for package in sdists]
    found = {_place(builds, wheel).as_uri(): wheel for wheel in made}
    if found.keys() <= ready.keys():
        raise bound_to_platform(sdists)
    return found


def name_built(documents: Iterable[Document], ready: Mapping[str, BuiltWheel], builds: WheelBuilds) -> None:
    """Have entries that are wheels of ``build_ahead`` say what they were built from, and forget those that no document
    has."""
    used = set()
    for document in documents:
        for entry in document["package"]:
            wheel = ready.get(str(entry["url"])) if entry["manager"] == "pip" else None
            if wheel is not None:
                _put(entry, wheel)
                used.add(wheel.sha256)
    ahead = {wheel.sha256 for wheel in ready.values()}
    builds.made[:] = [wheel for wheel in builds.made if wheel.sha256 in used or wheel.sha256 not in ahead]


def bound_to_platform(packages: Iterable[LockedPackage]) -> PlatformError:
    """The error for source distributions with native code that would have to be built on another machine."""
    names = sorted({f"{package.name} {package.version} for {package.platform}" for package in packages})
    return PlatformError(
        f"only a source distribution with native code, which builds for {host_platform()} here: {', '.join(names)}",
        hint="build its wheel on such a machine (pip wheel) and offer it on your package index",
    )


def _place(builds: WheelBuilds, wheel: BuiltWheel) -> Path:
    return (builds.channel / "wheels" / wheel.sha256 / wheel.filename).resolve()


def _put(entry: dict[str, Any], wheel: BuiltWheel) -> None:
    entry |= {"url": wheel_url(wheel), "hash": {"sha256": wheel.sha256}}
    needs = {} if wheel.glibc is None else {"__glibc": f">={wheel.glibc}"}
    entry["dependencies"] = {**entry.get("dependencies", {}), **needs}
