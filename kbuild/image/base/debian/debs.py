"""A base image assembled from Debian packages: pinned by sha256, and the same bytes from the same pins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from kbuild.cache.room import room_for
from kbuild.cache.tree import cached_tree, normalise_tree, writing
from kbuild.digest import Digest, digest_json
from kbuild.errors import BaseImageError
from kbuild.image.base.debian import archive as archives
from kbuild.image.base.debian.archive import Fetch, download_package, read_release
from kbuild.image.base.debian.deb import RECIPE, STICKY, lay_out
from kbuild.image.base.debian.offers import read_offers
from kbuild.image.base.debian.sources import Archive, find_archives
from kbuild.image.base.debian.suites import Suite
from kbuild.managers.debversion import version_key
from kbuild.plan.base import BaseKind, BasePackage, ResolvedBase
from kbuild.platform import Platform
from kbuild.process import Runner
from kbuild.progress import Progress, how_many

# How many times its bytes a package may need when it is unpacked.
_UNPACKED = 6
_PARALLEL = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirrors:
    """Where a suite's packages come from and by what means: ``mirror`` is what the user configured (see
    ``find_archives``), ``allow_unsigned`` takes lists whose signature cannot be checked."""

    cache: Path
    run: Runner
    progress: Progress
    mirror: str | None = None
    allow_unsigned: bool = False
    fetch: Fetch = archives.fetch

    def archives(self, suite: Suite) -> Sequence[Archive]:
        """The archives that have the suite."""
        return find_archives(suite, mirror=self.mirror or "")


def resolve_debs_base(
    suite: Suite, platform: Platform, mirrors: Mirrors, *, recorded: ResolvedBase | None = None
) -> ResolvedBase:
    """Assemble a base; its ``path`` is a read-only directory below the cache to be copied to ``/``.

    ``recorded`` is the base of an earlier build, whose packages are taken again. Without it the newest of the suite and
    its updates are. Raises BaseImageError and HashMismatch.
    """
    cache = mirrors.cache
    with writing("the base image", cache):
        if recorded is None:
            packages, unsigned = pick_packages(suite, platform, mirrors)
        else:
            packages = tuple(sorted(recorded.packages, key=lambda package: package.name))
            unsigned = recorded.unsigned
        digest = base_digest(platform, packages)

        def make(root: Path) -> None:
            uris = list(dict.fromkeys(source.uri for source in mirrors.archives(suite)))
            with ThreadPoolExecutor(_PARALLEL) as pool:
                files = list(pool.map(lambda package: download_package(package, uris, cache, mirrors.fetch), packages))
            mirrors.progress.note(f"unpacking {how_many(len(packages), 'package')} of {suite}")
            with room_for(root, _UNPACKED * sum(file.stat().st_size for file in files)):
                lay_out({package.name: file.read_bytes() for package, file in zip(packages, files, strict=True)}, root)
            normalise_tree(root, sticky=STICKY)

        path = cached_tree(cache / "bases" / digest.hex, make)
    return ResolvedBase(
        kind="debs",
        name=str(suite),
        digest=digest,
        path=path,
        packages=packages,
        glibc=glibc_version(packages),
        unsigned=unsigned,
    )


def pick_packages(suite: Suite, platform: Platform, mirrors: Mirrors) -> tuple[tuple[BasePackage, ...], bool]:
    """The newest version of each package of a suite's base, sorted by name, and whether a list was not proved.

    Raises BaseImageError if one is missing, and as ``read_release`` does.

    The archives are always asked what is newest; lists that did not change are not read again, see ``read_offers``.
    """
    mirrors.progress.note(f"reading the package lists of {suite}")

    def offers(source: Archive) -> tuple[list[BasePackage], bool]:
        release = read_release(
            source,
            fetch=mirrors.fetch,
            run=mirrors.run,
            progress=mirrors.progress,
            allow_unsigned=mirrors.allow_unsigned,
        )
        if release is None:
            return [], True
        offered = read_offers(
            release,
            suite.components,
            platform.architecture,
            suite.packages,
            fetch=mirrors.fetch,
            cache=mirrors.cache / "package-lists",
        )
        return offered, release.signed

    newest: dict[str, BasePackage] = {}
    unsigned = False
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for offered, signed in pool.map(offers, mirrors.archives(suite)):
            unsigned = unsigned or not signed
            for package in offered:
                known = newest.get(package.name)
                if known is None or version_key(package.version) > version_key(known.version):
                    newest[package.name] = package
    missing = [name for name in suite.packages if name not in newest]
    if missing:
        raise BaseImageError(f"{suite} has no {', '.join(missing)} for {platform.architecture} on this mirror")
    return tuple(newest[name] for name in sorted(newest)), unsigned


def base_digest(platform: Platform, packages: Sequence[BasePackage]) -> Digest:
    """Depends on the pins and on the recipe that lays them out."""
    pins = [[package.name, package.version, package.architecture, package.sha256] for package in packages]
    return digest_json([RECIPE, platform.architecture, pins])


def glibc_version(packages: Sequence[BasePackage]) -> str | None:
    """The C library's version, ``2.36``, from that of libc6."""
    for package in packages:
        if package.name == "libc6" and (match := re.match(r"(?:\d+:)?(\d+\.\d+)", package.version)):
            return match[1]
    return None


def base_record(base: ResolvedBase) -> dict[str, object]:
    """What to keep beside the lock, so that the same base can be had again; JSON values only."""
    return {
        "kind": base.kind,
        "name": base.name,
        "digest": str(base.digest),
        "reference": base.reference,
        "glibc": base.glibc,
        "packages": [asdict(package) for package in base.packages],
        **({"unsigned": True} if base.unsigned else {}),
    }


def parse_base_record(value: object) -> ResolvedBase:
    """Read a base record; ``path`` is None, for files do not travel. Raises BaseImageError naming the bad field."""
    record = _table(value, "base")
    kind = next((known for known in get_args(BaseKind) if known == record.get("kind")), None)
    if kind is None:
        raise BaseImageError(f"base.kind: {record.get('kind')!r} is none of {', '.join(get_args(BaseKind))}")
    packages = record.get("packages", [])
    if not isinstance(packages, list):
        raise BaseImageError("base.packages: not a list")
    try:
        digest = Digest.parse(_text(record, "base.digest"))
    except ValueError as error:
        raise BaseImageError(f"base.digest: {error}") from error
    return ResolvedBase(
        kind=kind,
        name=_text(record, "base.name"),
        digest=digest,
        reference=_text(record, "base.reference") if record.get("reference") is not None else None,
        glibc=_text(record, "base.glibc") if record.get("glibc") is not None else None,
        packages=tuple(_package(package, f"base.packages[{index}]") for index, package in enumerate(packages)),
        unsigned=record.get("unsigned", False) is not False,
    )


def _package(value: object, where: str) -> BasePackage:
    table = _table(value, where)
    sha256 = _text(table, f"{where}.sha256")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise BaseImageError(f"{where}.sha256: {sha256!r} is not a SHA-256")
    return BasePackage(
        name=_text(table, f"{where}.name"),
        version=_text(table, f"{where}.version"),
        architecture=_text(table, f"{where}.architecture"),
        sha256=sha256,
        filename=_text(table, f"{where}.filename"),
    )


def _table(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BaseImageError(f"{where}: not a table")
    return value


def _text(table: dict[str, object], where: str) -> str:
    value = table.get(where.rpartition(".")[2])
    if not isinstance(value, str) or not value:
        raise BaseImageError(f"{where}: {'missing' if value is None else 'not a text'}")
    return value
