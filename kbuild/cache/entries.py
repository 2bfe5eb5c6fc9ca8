"""What is in the cache, how large it is, and what was used least recently.

When something was used last is its access time, set whenever it is taken; modification times belong to the content.
Trees do not change, so their sizes are written down, in ``sizes/``: a list of the cache reads no tree twice.
"""

# ruff: noqa: PTH208
# os on strings takes a third of the time of pathlib, over tens of thousands of files

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.notes import write_whole

KINDS = {
    "downloads": "downloads",
    "wheels": "wheels",
    "interpreters": "interpreters",
    "bases": "bases",
    "debs": "debs",
    "pulled": "pulled",
    "remote": "remote",
    "layers": "layers/sha256",
    "packs": "packs/sha256",
    "images": "images",
    "unpacked": "unpacked/*",
    "package-lists": "package-lists",
    "base-facts": "base-facts",
    "layer-members": "layer-members",
    "lock-packages": "lock-packages",
    "yanked": "yanked",
    "registries": "registries",
    "slim": "slim",
    "loading": "loading",
    "splits": "splits",
    "models": "models",
    "versions": "versions",
}
"""What there is, and the folder below the cache whose members are its entries."""

TREES = ("interpreters", "wheels", "bases")
"""Directories that are made from packages, and packed into layers."""

SCRATCH = ("work-*", "tar-*", "run-*", "audit-*", "diff-*")
"""Folders of commands that run."""

# Records in images/, kept while what they lead to is there.
_RECORDS = frozenset({"references", "plans", "verdicts", "profiles"})
_MEASURED_ONCE = (*TREES, "unpacked")
_SIZE = ".size"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """A thing that is removed whole. ``size`` in bytes on disk, what others share with it left out; ``used`` in
    nanoseconds since 1970."""

    kind: str
    path: Path
    size: int
    used: int


def list_cache(cache: Path) -> list[CacheEntry]:
    """Every entry, the least recently used first. Files that are linked twice count where they are met first."""
    seen: set[tuple[int, int]] = set()
    found = []
    for kind, folder in KINDS.items():
        for parent in sorted(cache.glob(folder)):
            for path in sorted(parent.iterdir()) if parent.is_dir() else ():
                if path.name not in _RECORDS and not path.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        used = path.lstat().st_atime_ns
                        size = _size_once(cache, path) if kind in _MEASURED_ONCE else size_of(path, seen)
                        found.append(CacheEntry(kind=kind, path=path, size=size, used=used))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def other_bytes(cache: Path) -> int:
    """Bytes on disk of what is no entry: folders of commands that run, records, packages of captured interpreters.

    Files that are links to entries count nothing, temporary ones beside entries are reserved by who writes them.
    """
    total = 0
    kinds = {folder.partition("/")[0] for folder in KINDS.values()}
    for path in cache.iterdir():
        if (path / _SIZE).is_file():
            total += _stated(path)
        elif path.name not in kinds:
            total += _own_bytes(path)
    return total


def state_size(folder: Path, size: int) -> None:
    """Write down how many bytes on disk a folder has of its own, for ``other_bytes``."""
    (folder / _SIZE).write_text(str(size))


def _stated(folder: Path) -> int:
    try:
        return int((folder / _SIZE).read_text())
    except (FileNotFoundError, ValueError):
        return 0  # it has gone meanwhile


def sizes_of_gone(cache: Path) -> list[Path]:
    """The sizes that are written down of trees that are there no more."""
    return [path for path in cache.glob("sizes/**/*") if path.is_file() and not _tree_of(cache, path).exists()]


def _tree_of(cache: Path, size: Path) -> Path:
    return cache / size.relative_to(cache / "sizes")


def _size_once(cache: Path, tree: Path) -> int:
    record = cache / "sizes" / tree.relative_to(cache)
    inode = tree.lstat().st_ino
    with contextlib.suppress(FileNotFoundError, ValueError):
        of, size = map(int, record.read_text().split())
        if of == inode:
            return size
    size = size_of(tree, set())
    with contextlib.suppress(OSError):  # a cache that may only be read
        write_whole(record, f"{inode} {size}".encode())
    return size


def size_of(path: Path, seen: set[tuple[int, int]]) -> int:
    """Bytes on disk, without files in ``seen``, which learns of those that are linked more than once."""
    total = 0
    pending = [str(path)]
    while pending:
        here = pending.pop()
        with contextlib.suppress(FileNotFoundError):  # a temporary file of another command
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode):
                pending += look_into(here)
            elif status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
    return total


def _own_bytes(path: Path) -> int:
    """Bytes on disk of directories and of files all of whose links are in here."""
    total = 0
    links: dict[tuple[int, int], int] = {}
    pending = [str(path)]
    while pending:
        here = pending.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode):
                pending += look_into(here)
            elif status.st_nlink > 1:
                key = (status.st_dev, status.st_ino)
                links[key] = links.get(key, 0) + 1
                if links[key] < status.st_nlink:
                    continue
            total += status.st_blocks * 512
    return total


def look_into(folder: str | Path) -> list[str]:
    """The paths in a folder. To look at a folder is to use it, for the file system: not for us."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_NOATIME", 0))
    except PermissionError:  # another user's: only its owner may look so
        return [f"{folder}/{name}" for name in os.listdir(folder)]
    try:
        return [f"{folder}/{name}" for name in os.listdir(descriptor)]
    finally:
        os.close(descriptor)
