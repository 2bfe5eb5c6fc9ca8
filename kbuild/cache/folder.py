"""The cache folder as a whole: what is in it, what was used least recently, what is damaged.

Everything in it can be made or fetched again. Whoever works with it holds a shared lock on ``.lock``, which a killed
process gives back by itself; removing takes the lock alone. When something was used last is its access time, set
whenever it is taken; modification times belong to the content.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.tree import is_damaged
from kbuild.digest import digest_file

# os on strings takes a third of the time of pathlib, over tens of thousands of files
from kbuild.errors import CacheInUse, ConfigurationError
from kbuild.files import BYTES, native
from kbuild.model.kept import is_damaged_model
from kbuild.refused import refused_by_system

DEFAULT_LIMIT = 20 * 10**9
"""Bytes a cache may hold when nothing else is said."""

KINDS = {
    "downloads": "downloads",
    "wheels": "wheels",
    "interpreters": "interpreters",
    "bases": "bases",
    "debs": "debs",
    "pulled": "pulled",
    "layers": "layers/sha256",
    "images": "images",
    "unpacked": "unpacked/*",
    "package-lists": "package-lists",
    "base-facts": "base-facts",
    "registries": "registries",
    "slim": "slim",
    "splits": "splits",
    "models": "models",
    "versions": "versions",
}
"""What there is, and the folder below the cache whose members are its entries."""

# Directories that are made from packages, and packed into layers.
_TREES = ("interpreters", "wheels", "bases")
# Small files that say what was found out once: removing them makes no room. They go when nobody asked for a year.
# What base a model without a run was first built on is no such thing: nothing else tells it, and it stays.
_ANSWERS = ("package-lists", "base-facts", "registries", "slim", "splits", "versions")
_FETCHED = ("downloads", "debs", "bases", "pulled", "models")
_FORGOTTEN = 365 * 86400 * 10**9
# Records in images/, kept while what they lead to is there.
_RECORDS = frozenset({"references", "plans"})
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_MEASURED = ".measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheEntry:
    """A thing that is removed whole. ``size`` in bytes on disk, what others share with it left out; ``used`` in
    nanoseconds since 1970."""

    kind: str
    path: Path
    size: int
    used: int


def _worth(kind: str) -> int:
    """What goes first when room is needed: what a moment makes again, then what a build does, then what only a
    network gives; answers, which make no room, last."""
    if kind in _ANSWERS:
        return 3
    return 0 if kind == "unpacked" else 2 if kind in _FETCHED else 1


@contextmanager
def using_cache(cache: Path) -> Iterator[None]:
    """Keep others from removing what is in the cache meanwhile.

    A cache that this user may only read still serves what it holds. Raises OutputError for what is no folder, and for
    whatever the system refuses the block, with the cache and its size.
    """
    with _telling(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache, fcntl.LOCK_SH):
            yield


@contextmanager
def _telling(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError | ConnectionError):
            raise
        raise refused_by_system(error, cache=cache) from error


def list_cache(cache: Path) -> list[CacheEntry]:
    """Every entry, the least recently used first. Files that are linked twice count where they are met first."""
    seen: set[tuple[int, int]] = set()
    found = []
    for kind, folder in KINDS.items():
        for parent in sorted(cache.glob(folder)):
            for path in sorted(parent.iterdir()) if parent.is_dir() else ():
                if path.name not in _RECORDS and not path.name.startswith("."):
                    status = path.lstat()
                    size = _size(path, seen)
                    found.append(CacheEntry(kind=kind, path=path, size=size, used=status.st_atime_ns))
                    # To look at a folder is to use it, for the file system: not for us.
                    with contextlib.suppress(OSError):
                        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def prune_cache(cache: Path, *, limit: int, also: Collection[Path] = (), before: int | None = None) -> list[CacheEntry]:
    """Remove the entries in ``also``, what killed builds left and answers that nobody asked for in a year; then the
    least recently used entries of each worth (unpacked images, then what builds made, then what was fetched, answers
    last), until the rest is within ``limit`` bytes.

    What a tree in ``also`` was packed into may be damaged too: then no layer and no image is known by what it was made
    from any more, and the next builds make them again. With ``before`` only what was not used since (nanoseconds since
    1970). Returns what was removed. Raises CacheInUse while another command works with the cache.
    """
    if not cache.is_dir():
        return []
    with _telling(cache), _lock(cache, fcntl.LOCK_EX | fcntl.LOCK_NB):
        entries = list_cache(cache)
        _remove_leftovers(cache)
        if any(path.parent.name in _TREES for path in also):
            for record in [*cache.glob("layers/keys/*"), *cache.glob("images/plans/*")]:
                _remove(record)
        total = sum(entry.size for entry in entries)
        forgotten = time.time_ns() - _FORGOTTEN
        doomed = {*also, *(entry.path for entry in entries if entry.kind in _ANSWERS and entry.used < forgotten)}
        removed = []
        for entry in sorted(entries, key=lambda entry: (entry.path not in doomed, _worth(entry.kind))):
            recent = before is not None and entry.used >= before
            if entry.path not in doomed and total <= limit:
                break
            if entry.path not in doomed and recent:
                continue
            _remove(entry.path)
            total -= entry.size
            removed.append(entry)
        (cache / _MEASURED).touch()
    return removed


def keep_within(cache: Path, *, limit: int, every: float = 3600.0) -> None:
    """Prune now and then, after a build: at most once in ``every`` seconds, and not while others work.

    What was used in the last ``every`` seconds stays: it may be the very image that was just built.
    """
    marker = cache / _MEASURED
    now = time.time()
    if marker.exists() and now - marker.stat().st_mtime < every:
        return
    with contextlib.suppress(CacheInUse):
        prune_cache(cache, limit=limit, before=int((now - every) * 1e9))


def damaged(cache: Path) -> Iterator[tuple[Path, str]]:
    """Read what has a digest to be read against; tells each file that does not hold and why."""
    for path in sorted((cache / "downloads").glob("*/*")):
        if not path.name.startswith(".") and digest_file(path).hex != path.parent.name:
            yield path, "does not have the sha256 it was locked with"
    for path in sorted((cache / "layers/sha256").glob("[!.]*")):
        if digest_file(path).hex != path.name:
            yield path, "does not have its digest"
    for pattern in ("images/*/blobs/sha256/*", "pulled/*/blobs/sha256/*"):
        for path in sorted(cache.glob(pattern)):
            if digest_file(path).hex != path.name:
                yield path, "does not have its digest"
    for path in sorted((cache / "debs").glob("[!.]*.deb")):
        if digest_file(path).hex != path.stem:
            yield path, "does not have its digest"
    for path in sorted((cache / "models").glob("[!.]*")):
        if is_damaged_model(path):
            yield path, "is not the model that was fetched"
    for kind in _TREES:
        for tree in sorted((cache / kind).glob("[!.]*")):
            yield from _damaged_tree(tree)


def parse_size(text: str) -> int:
    """Read ``20 GB``, ``500M`` or a number of bytes; raises ConfigurationError."""
    number = text.strip().upper().removesuffix("B").rstrip()
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        value = float(number.removesuffix(unit) if unit else number)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is no size", hint="write it as 20 GB") from error
    value *= _UNITS[unit]
    if not 0 <= value < 1e18:
        raise ConfigurationError(f"{text!r} is no size", hint="write it as 20 GB")
    return int(value)


@contextmanager
def _lock(cache: Path, how: int) -> Iterator[None]:
    try:
        descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if how != fcntl.LOCK_SH or error.errno not in (errno.EROFS, errno.EACCES):
            raise
        # Whoever may only read it takes the lock all the same where the file is there, and on a read-only disk, where
        # nobody removes anything, the folder itself.
        name = cache / ".lock"
        descriptor = os.open(name if name.exists() else cache, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError as error:
            raise CacheInUse(f"another kbuild works with {cache}") from error
        yield
    finally:
        os.close(descriptor)


def _remove_leftovers(cache: Path) -> None:
    """Temporary files and folders: nobody works with the cache now, so all of them are of killed processes."""
    for pattern in ("work-*", "tar-*", "run-*"):
        for path in cache.glob(pattern):
            _remove(path)
    for folder in {parent for pattern in KINDS.values() for parent in cache.glob(pattern)}:
        for path in folder.glob(".*"):
            _remove(path)
    for path in [*cache.glob("downloads/*/.*"), *cache.glob("layers/keys/.*"), *cache.glob("images/*/.*.tmp")]:
        _remove(path)
    for seal in cache.glob("seals/*/*"):
        if not (cache / seal.parent.name / seal.name).exists():
            _remove(seal)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # Out of sight first: whatever happens while it is being removed, nobody finds half of it.
        hidden = path.with_name(f".removed-{path.name}")
        path.rename(hidden)
        shutil.rmtree(hidden)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path, seen: set[tuple[int, int]]) -> int:
    total = 0
    pending = [str(path)]
    while pending:
        here = pending.pop()
        with contextlib.suppress(FileNotFoundError):  # a temporary file of another command
            status = os.lstat(here)
            if stat.S_ISDIR(status.st_mode):
                pending += [entry.path for entry in os.scandir(here)]
            elif status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * 512
    return total


def _damaged_tree(tree: Path) -> Iterator[tuple[Path, str]]:
    """What is named in a RECORD that does not hold, else the tree itself where it is not what was made."""
    damage = is_damaged(tree)
    if damage is False:
        return
    named = [found for record in sorted(tree.glob("**/*.dist-info/RECORD")) for found in _damaged_wheel(record)]
    yield from named
    if damage and not named:
        yield tree, "is not what was installed: a file in it changed, is missing, or is one too many"


def _damaged_wheel(record: Path) -> Iterator[tuple[Path, str]]:
    """RECORD: the "Recording installed projects" specification."""
    with record.open(newline="", encoding=BYTES[0], errors=BYTES[1]) as lines:
        for name, stated, *_ in csv.reader(lines):
            algorithm, _, value = stated.partition("=")
            path = record.parent.parent / native(name)
            if algorithm != "sha256" or not value:
                continue
            if not path.is_file():
                yield path, "is missing"
            elif base64.urlsafe_b64encode(bytes.fromhex(digest_file(path).hex)).rstrip(b"=").decode() != value:
                yield path, "does not have the hash of its package's RECORD"
