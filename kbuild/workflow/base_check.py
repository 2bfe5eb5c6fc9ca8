"""Whether what is locked can run on the base: told before anything is fetched or built for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.version import Version

from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.target import Target
from kbuild.environment.virtual import Lack, find_lacks, virtual_packages
from kbuild.errors import BaseImageError
from kbuild.plan.base import ResolvedBase
from kbuild.platform import Platform
from kbuild.progress import at_most

_SHOWN = 5


def check_base(
    base: ResolvedBase,
    wheels_glibc: Mapping[LockedPackage, tuple[int, int]],
    packages: Sequence[LockedPackage],
    platform: Platform,
) -> None:
    """Raises BaseImageError naming what the base lacks.

    ``wheels_glibc`` is the C library that each wheel promises to run with. Of a base whose C library is not known,
    only that goes unchecked.
    """
    needs = {package: ".".join(map(str, need)) for package, need in wheels_glibc.items()}
    newer = {
        package: need
        for package, need in sorted(needs.items(), key=lambda item: (Version(item[1]), item[0]), reverse=True)
        if base.glibc is not None and Version(need) > Version(base.glibc)
    }
    if newer:
        told = [f"{package.name} {package.version} is locked as a wheel for {need}" for package, need in newer.items()]
        raise BaseImageError(
            f"base image {base.name} has glibc {base.glibc}, but {at_most(told, _SHOWN)}",
            hint=f"{Target().remedy(next(iter(newer.values())))}; or lock for this one: kbuild lock --force --base",
        )
    unknown = ("__glibc",) if base.glibc is None else ()
    lacks = find_lacks(packages, virtual_packages(platform, base.glibc), ignored=unknown)
    if lacks:
        told = [f"{each.package.name} {each.package.version} wants {each.wanted}{_there(each)}" for each in lacks]
        raise BaseImageError(
            f"base image {base.name} cannot run what is locked: {at_most(told, _SHOWN)}", hint=_remedy(lacks)
        )


def _there(lack: Lack) -> str:
    return ", which the image does not have" if lack.there is None else f", and the image has {lack.there}"


def _remedy(lacks: Sequence[Lack]) -> str:
    if all(lack.name == "__glibc" for lack in lacks):
        return "choose a newer base with --base"
    names = ", ".join(sorted({lack.package.name for lack in lacks}))
    return f"pin builds of {names} that run on every processor and without a driver, and lock again with --force"
