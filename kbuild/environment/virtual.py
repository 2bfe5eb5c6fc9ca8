"""What an image provides as conda's virtual packages, and which locked packages ask for more.

The image's base decides, never the machine that builds. Match specs are read by py-rattler, the library that conda's
own ecosystem reads them with. Format: conda's docs, "Managing virtual packages" and "Package match specifications".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import LockfileInvalid
from kbuild.platform import Platform

# Images do not bring a kernel. This is the oldest long-term one that conda-lock's own default assumes.
_KERNEL = "5.10"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """``package`` asks for ``wanted`` (``__glibc >=2.38``); ``there`` is what is provided, None for nothing."""

    package: LockedPackage
    name: str
    wanted: str
    there: str | None


def virtual_packages(platform: Platform, glibc: str | None) -> dict[str, str]:
    """Name and value of each virtual package, as conda-lock's file and ``CONDA_OVERRIDE_*`` have them.

    The value is a version, with a build string after a space where that matters: every processor of the architecture
    must do, so ``__archspec`` is its baseline. There is no ``__cuda``: the driver is the host's, and not known here.
    ``glibc`` None leaves it out.
    """
    found = {"__unix": "0", "__linux": _KERNEL, "__archspec": f"1 {platform.machine}"}
    return found if glibc is None else {**found, "__glibc": glibc}


def find_lacks(
    packages: Iterable[LockedPackage], provided: Mapping[str, str], *, ignored: Iterable[str] = ()
) -> list[Lack]:
    """Every virtual package that a conda package depends on and that is not provided as it wants it.

    ``ignored`` names those that nothing is known of. Raises LockfileInvalid for a dependency that cannot be read.
    """
    asked = [
        (package, name, text)
        for package in packages
        if package.manager == "conda"
        for name, text in package.dependencies
        if name.startswith("__") and name not in set(ignored)
    ]
    if not asked:
        return []
    records = {name: _record(name, value) for name, value in provided.items()}
    return [
        Lack(package=package, name=name, wanted=f"{name} {text}".strip(), there=provided.get(name))
        for package, name, text in asked
        if name not in records or not _matches(package, name, text, records[name])
    ]


def _record(name: str, value: str) -> object:
    from rattler import BuildString, PackageRecord  # takes long to import; most builds find everything made

    version, _, build = value.partition(" ")
    return PackageRecord(name, version, BuildString(build or "0"), 0, "noarch")


def _matches(package: LockedPackage, name: str, text: str, record: object) -> bool:
    from rattler import MatchSpec
    from rattler.exceptions import InvalidMatchSpecError

    try:
        # Lenient: conda-lock may write an exact version without an operator.
        return bool(MatchSpec(f"{name} {text}".strip(), strict=False).matches(record))
    except InvalidMatchSpecError as error:
        raise LockfileInvalid(
            f"{package.name} {package.version} depends on {name!r} {text!r}, which is not a match spec: {error}",
            hint="make the lock again with kbuild lock --force",
        ) from error
