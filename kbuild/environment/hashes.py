"""The hashes that requirement lines name (``--hash=sha256:…``), compared with what a lock pins."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbuild.environment.lockfile import SDIST_MARK, LockedPackage, Lockfile
from kbuild.environment.requirements import marker_environment
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import HashMismatch
from kbuild.platform import Platform
from kbuild.progress import at_most


def check_hashes(lockfile: Lockfile, spec: EnvironmentSpec) -> None:
    """Raises HashMismatch naming every locked package that is another file than its requirement allows."""
    wrong = []
    for platform in spec.platforms:
        allowed = allowed_hashes(spec.hashes, spec.python, platform)
        for package in lockfile.for_platform(platform):
            named = allowed.get(canonicalize_name(package.name)) if package.manager == "pip" else None
            if named is not None and _files(package).isdisjoint(named):
                told = at_most([f"sha256:{each}" for each in named], 3)
                wrong.append(f"{package.filename} is sha256:{package.sha256}, the requirement allows {told}")
    if wrong:
        raise HashMismatch(
            f"the lock is not what the requirements name by hash: {'; '.join(wrong)}",
            hint="add the hash of that file if it is the one you want (pip hash FILE), or ask for another version",
        )


def allowed_hashes(
    hashes: Iterable[tuple[str, Collection[str]]], python: str, platform: Platform
) -> dict[str, list[str]]:
    """The sha256 of the files that requirement lines name, by package, of the lines that hold on the target."""
    environment = marker_environment(python, platform)
    allowed: dict[str, set[str]] = {}
    for text, named in hashes:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            allowed.setdefault(canonicalize_name(requirement.name), set()).update(named)
    return {name: sorted(found) for name, found in sorted(allowed.items())}


def _files(package: LockedPackage) -> set[str]:
    """The sha256 of the locked file, and of the source distribution that it was built from."""
    source = package.url.partition(SDIST_MARK)[2]
    return {package.sha256, source} if source else {package.sha256}
