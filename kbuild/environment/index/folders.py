"""Files of packages in the folders that pip's configuration names: find-links, and indexes that lie on this disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from kbuild.digest import digest_file
from kbuild.environment.index.package_indexes import page_files
from kbuild.environment.links import Page, flat_page, folder_page, is_local, local_path
from kbuild.errors import ConfigurationError


def digests_here(project: str, filename: str, places: Iterable[str]) -> set[str]:
    """The sha256 of each file of that name which those of the places have that are folders of this machine.

    ``project`` is the canonical name. What cannot be read has none.
    """
    found = set()
    for place in filter(is_local, dict.fromkeys(places)):
        for page in _pages(place, project):
            for file in page_files(page):
                path = local_path(file.url)
                if file.filename == filename and is_local(file.url) and path.is_file():
                    found |= _digests(path)
    return found


def _pages(place: str, project: str) -> Iterator[Page]:
    try:
        yield flat_page(place)
        if local_path(place).is_dir() and (page := folder_page(place, project)) is not None:
            yield page
    except ConfigurationError:
        return


def _digests(path: Path) -> set[str]:
    try:
        status = path.stat()
        return {_hashed(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)}
    except OSError:
        return set()


@lru_cache(maxsize=256)
def _hashed(path: Path, *_: int) -> str:
    """Many models have one wheel of a hundred megabytes."""
    return digest_file(path).hex
