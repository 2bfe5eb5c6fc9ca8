"""What goes when the cache is full: what nobody uses, what is easily had again first."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from kbuild.cache.entries import KINDS, SCRATCH, TREES, CacheEntry, list_cache, look_into, other_bytes, sizes_of_gone
from kbuild.cache.locks import telling, waiting_lock
from kbuild.cache.scratch import is_left_over
from kbuild.cache.sessions import live_sessions
from kbuild.cache.tree import SEEN
from kbuild.errors import CacheInUse

# Small files that say what was found out once: removing them makes no room. They go when nobody asked for a year.
# What base a model without a run was first built on is no such thing: nothing else tells it, and it stays.
ANSWERS = (
    "package-lists",
    "base-facts",
    "layer-members",
    "lock-packages",
    "registries",
    "yanked",
    "slim",
    "loading",
    "splits",
    "versions",
)
_FETCHED = ("downloads", "debs", "bases", "pulled", "remote", "models")
_FORGOTTEN = 365 * 86400 * 10**9


def prune_cache(cache: Path, *, limit: int, also: Collection[Path] = ()) -> list[CacheEntry]:
    """Remove the entries in ``also``, what killed commands left and answers that nobody asked for in a year; then the
    least recently used entries of each worth (unpacked images, then what builds made, then what was fetched, answers
    last), until the cache is within ``limit`` bytes.

    What is in use stays. What a tree in ``also`` was packed into may be damaged too: then no layer and no image is
    known by what it was made from any more, and the next builds make them again. Returns what was removed. Raises
    CacheInUse while somebody else prunes for long or may only read the cache, and for ``also`` while others work.
    """
    if not cache.is_dir():
        return []
    with telling(cache), waiting_lock(cache / ".lock"):
        running = live_sessions(cache)
        if also and running:
            raise CacheInUse(f"another kbuild works with {cache}")
        oldest = min((each.began for each in running), default=time.time_ns())
        _remove_leftovers(cache, oldest)
        if any(path.parent.name in TREES for path in also):
            for record in [*cache.glob("*/keys/*"), *cache.glob("images/plans/*")]:
                _remove(record)
        removed: list[CacheEntry] = []
        kept: set[Path] = set()
        forgotten = time.time_ns() - _FORGOTTEN
        while True:
            # What is linked elsewhere makes no room: so it is measured again until it is enough.
            entries = [entry for entry in list_cache(cache) if entry.path not in kept]
            total = sum(entry.size for entry in list_cache(cache)) + other_bytes(cache)
            doomed = {*also, *(entry.path for entry in entries if entry.kind in ANSWERS and entry.used < forgotten)}
            before = len(removed)
            for entry in sorted(entries, key=lambda entry: (entry.path not in doomed, _worth(entry.kind))):
                if entry.path not in doomed and total <= limit:
                    break
                if _take_away(entry, oldest):
                    total -= entry.size
                    removed.append(entry)
                else:
                    kept.add(entry.path)
            if len(removed) == before:
                break
        for path in sizes_of_gone(cache):
            path.unlink(missing_ok=True)
    return removed


def _worth(kind: str) -> int:
    """What goes first when room is needed: what a moment makes again, then what a build does, then what only a
    network gives; answers, which make no room, last."""
    if kind in ANSWERS:
        return 3
    return 0 if kind == "unpacked" else 2 if kind in _FETCHED else 1


def _take_away(entry: CacheEntry, oldest: int) -> bool:
    """Remove an entry, unless somebody uses it or began to use it just now."""
    path = entry.path
    try:
        if _used_since(path, oldest):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return not os.path.lexists(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Out of sight first: whatever happens while it is being removed, nobody finds half of it.
        hidden = path.with_name(f".removed-{path.name}")
        path.rename(hidden)
        if _used_since(hidden, oldest):  # marked in that very moment
            hidden.rename(path)
            return False
        _remove(hidden)
    except OSError:  # in use, or another user's
        return not os.path.lexists(path)
    finally:
        os.close(descriptor)
    return True


def _used_since(path: Path, oldest: int) -> bool:
    return used_since_then(path.lstat().st_atime_ns, oldest)


def used_since_then(used: int, oldest: int) -> bool:
    """Whether what was used then may be in use by whoever began at ``oldest``, both in nanoseconds since 1970."""
    # What was used in a future that another clock knew says nothing.
    return oldest <= used < time.time_ns() + 60 * 10**9


def _remove_leftovers(cache: Path, oldest: int) -> None:
    """Temporary folders that nobody holds, and temporary files from before all who work now."""
    for pattern in SCRATCH:
        for path in cache.glob(pattern):
            if is_left_over(path):
                _remove(path)
    folders = {parent for pattern in KINDS.values() for parent in cache.glob(pattern)}
    hidden = [path for folder in folders for path in folder.glob(".*")]
    hidden += [
        each
        for path in cache.glob("downloads/[!.]*")
        for each in map(Path, look_into(path))
        if each.name.startswith(".")
    ]
    for pattern in ("layers/keys/.*", "packs/keys/.*", "sizes/*/.*", "sizes/*/*/.*", "seals/*/.*"):
        hidden += cache.glob(pattern)
    for path in hidden:
        with contextlib.suppress(FileNotFoundError):
            if is_left_over(path) if path.is_dir() else path.lstat().st_ctime_ns < oldest:
                _remove(path)
    for seal in cache.glob("seals/*/*"):
        if not (cache / seal.parent.name.replace(".", "/") / seal.name.removesuffix(SEEN)).exists():
            _remove(seal)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # another user's stays
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
