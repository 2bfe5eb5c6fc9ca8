"""Where the files of packages are kept in the cache; apart from what fetches them, for most builds fetch nothing."""

from __future__ import annotations

from pathlib import Path

from kbuild.digest import Digest, digest_file
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import CacheDamaged
from kbuild.files import mark_used


def cache_path(package: LockedPackage, cache: Path) -> Path:
    """Where the package's file is or would be."""
    return cache / Digest(package.sha256).hex / package.filename


def cached_package(package: LockedPackage, cache: Path) -> Path | None:
    """The package's file in the cache, None where it is not there; files come there checked and are not read again."""
    path = cache_path(package, cache)
    mark_used(path.parent)
    return path if path.is_file() else None


def check_download(path: Path, package: LockedPackage) -> None:
    """Raises CacheDamaged where a file is not the locked one any more; asked before it is unpacked."""
    if digest_file(path).hex != package.sha256:
        raise CacheDamaged(f"{path} of the cache does not have the sha256 that {package.name} is locked with")
