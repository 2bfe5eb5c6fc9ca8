"""The cache folder as a whole: who works with it, and what goes when it is full.

Everything in it can be made or fetched again. What any running command has used since it began stays, and what a
running container needs (``in_use``); everything else may go at any time, so whoever takes something marks it as used
first. A cache that a user may only read serves: its lock then tells others to leave all of it alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kbuild.cache.entries import KINDS, SCRATCH, TREES, CacheEntry, list_cache, look_into, other_bytes, sizes_of_gone
from kbuild.cache.sessions import Session, live_sessions
from kbuild.errors import CacheInUse, CacheTooSmall, ConfigurationError
from kbuild.refused import refused_by_system
from kbuild.room import keeping
from kbuild.scratch import is_left_over

DEFAULT_LIMIT = 20 * 10**9
"""Bytes a cache may hold when nothing else is said."""

# Small files that say what was found out once: removing them makes no room. They go when nobody asked for a year.
# What base a model without a run was first built on is no such thing: nothing else tells it, and it stays.
_ANSWERS = ("package-lists", "base-facts", "registries", "yanked", "slim", "splits", "versions")
_FETCHED = ("downloads", "debs", "bases", "pulled", "models")
_FORGOTTEN = 365 * 86400 * 10**9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
# Seconds that others who prune are waited for, and that a measure is believed, for what leaves much room.
_PATIENCE, _BELIEVED = 60.0, 10.0


def _worth(kind: str) -> int:
    """What goes first when room is needed: what a moment makes again, then what a build does, then what only a
    network gives; answers, which make no room, last."""
    if kind in _ANSWERS:
        return 3
    return 0 if kind == "unpacked" else 2 if kind in _FETCHED else 1


@contextmanager
def using_cache(cache: Path, *, limit: int | None = None) -> Iterator[None]:
    """Keep others from removing what is used in the cache meanwhile, and the cache within ``limit`` bytes.

    What this process is about to write is told by ``kbuild.room``. Raises OutputError for what is no folder, and for
    whatever the system refuses the block, with the cache and its size.
    """
    with _telling(cache), ExitStack() as stack:
        cache.mkdir(parents=True, exist_ok=True)
        keeper = stack.enter_context(_joined(cache))
        if keeper is None:
            stack.enter_context(_lock(cache, fcntl.LOCK_SH))
        elif limit is not None:
            stack.enter_context(keeper.limited(limit))
        yield


def begin_again(cache: Path, *needed: Path) -> None:
    """Of what this process has used in the cache so far it needs nothing more but ``needed``.

    Nothing happens where several parts of this process work with it.
    """
    with _GUARD:
        keeper, users = _JOINED.get(str(cache), (None, 0))
        if keeper is not None and users == 1:
            keeper.begin_again(needed)


_JOINED: dict[str, tuple[_Keeper, int]] = {}
_GUARD = threading.Lock()


@contextmanager
def _joined(cache: Path) -> Iterator[_Keeper | None]:
    """This process's keeper of the cache, one for all its parts; None for a cache that may only be read."""
    name = str(cache)
    with _GUARD:
        keeper, users = _JOINED.get(name, (None, 0))
        if keeper is None:
            try:
                keeper = _Keeper(cache, Session(cache))
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
        if keeper is not None:
            _JOINED[name] = (keeper, users + 1)
    if keeper is None:
        yield None
        return
    try:
        yield keeper
    finally:
        with _GUARD:
            users = _JOINED[name][1] - 1
            if users:
                _JOINED[name] = (keeper, users)
            else:
                del _JOINED[name]
                keeper.session.close()


class _Keeper:
    """See ``kbuild.room.Keeper``; for several threads."""

    def __init__(self, cache: Path, session: Session) -> None:
        self.session = session
        self._cache = cache
        self._lock = threading.RLock()
        self._limit: int | None = None
        self._free, self._measured = 0, -_BELIEVED
        self._wrote = False

    @contextmanager
    def limited(self, limit: int) -> Iterator[None]:
        """Hold the limit in the block, and see to it at its end: small things are written without asking."""
        if self._limit is not None:
            yield
            return
        # Directories and records are written without asking.
        self._limit = limit - limit // 100
        with keeping(self._cache, self):
            try:
                yield
            finally:
                self._limit = None
        if self._wrote and self._taken() > limit:
            with contextlib.suppress(CacheInUse):
                prune_cache(self._cache, limit=limit)

    def begin_again(self, needed: Sequence[Path]) -> None:
        """See the function of that name."""
        from kbuild.files import mark_used

        with self._lock:
            self.session.begin_again()
        for path in needed:
            mark_used(path)

    def reserve(self, size: int, ahead: int = 0) -> int:
        """See ``kbuild.room.Keeper``."""
        with self._lock:
            limit = self._limit
            if limit is None:
                return size
            self._wrote = True
            fresh = time.monotonic() - self._measured < _BELIEVED
            # What others write meanwhile is not known: only where there is much room a measure is believed for long.
            if fresh and size + ahead <= self._free - limit // 8:
                return self._take(size + ahead)
            with _waiting_lock(self._cache / ".room"):
                self._make_room(size, limit)
                return self._take(size + min(ahead, (self._free - size) // 2))

    def _take(self, size: int) -> int:
        self._free -= size
        self.session.reserved += size
        self.session.write()
        return size

    def release(self, size: int) -> None:
        """See ``kbuild.room.Keeper``."""
        with self._lock:
            self.session.reserved = max(0, self.session.reserved - size)
            self.session.write()

    def _make_room(self, size: int, limit: int) -> None:
        running = live_sessions(self._cache)
        reserved = sum(each.reserved for each in running)
        entries, other = list_cache(self._cache), other_bytes(self._cache)
        taken = other + sum(entry.size for entry in entries)
        oldest = min(each.began for each in running)
        # Nothing is thrown away for what would not fit all the same.
        needed = other + sum(entry.size for entry in entries if _since(entry.used, oldest)) + reserved + size
        if needed <= limit < taken + reserved + size:
            prune_cache(self._cache, limit=max(0, limit - reserved - size))
            taken = self._taken()
            needed = taken + reserved + size
        self._free, self._measured = limit - taken - reserved, time.monotonic()
        if self._free < size:
            raise CacheTooSmall(
                f"{self._cache} may hold {limit / 1e9:.2f} GB, and what runs now needs {needed / 1e9:.2f} GB of it "
                "at once",
                hint=f"allow at least that much: KBUILD_CACHE_LIMIT='{needed * 1.05 / 1e9 + 0.1:.1f} GB'",
            )

    def _taken(self) -> int:
        return sum(entry.size for entry in list_cache(self._cache)) + other_bytes(self._cache)


@contextmanager
def in_use(paths: Sequence[Path]) -> Iterator[None]:
    """Keep entries from being removed for the block, whoever runs it; a killed process gives them back by itself.

    Raises FileNotFoundError for one that is not there.
    """
    with ExitStack() as stack:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            path.stat()  # it may have been taken away before it was locked
        yield


@contextmanager
def _telling(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError | ConnectionError):
            raise
        raise refused_by_system(error, cache=cache) from error


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
    with _telling(cache), _waiting_lock(cache / ".lock"):
        running = live_sessions(cache)
        if also and running:
            raise CacheInUse(f"another kbuild works with {cache}")
        oldest = min((each.began for each in running), default=time.time_ns())
        _remove_leftovers(cache, oldest)
        if any(path.parent.name in TREES for path in also):
            for record in [*cache.glob("layers/keys/*"), *cache.glob("images/plans/*")]:
                _remove(record)
        removed: list[CacheEntry] = []
        kept: set[Path] = set()
        forgotten = time.time_ns() - _FORGOTTEN
        while True:
            # What is linked elsewhere makes no room: so it is measured again until it is enough.
            entries = [entry for entry in list_cache(cache) if entry.path not in kept]
            total = sum(entry.size for entry in list_cache(cache)) + other_bytes(cache)
            doomed = {*also, *(entry.path for entry in entries if entry.kind in _ANSWERS and entry.used < forgotten)}
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
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _waiting_lock(file: Path) -> Iterator[None]:
    """One at a time, of all processes; raises CacheInUse where others take longer than a prune does."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise CacheInUse(f"another kbuild works with {file.parent}") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


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
    return _since(path.lstat().st_atime_ns, oldest)


def _since(used: int, oldest: int) -> bool:
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
    for pattern in ("layers/keys/.*", "sizes/*/.*", "sizes/*/*/.*", "seals/*/.*"):
        hidden += cache.glob(pattern)
    for path in hidden:
        with contextlib.suppress(FileNotFoundError):
            if is_left_over(path) if path.is_dir() else path.lstat().st_ctime_ns < oldest:
                _remove(path)
    for seal in cache.glob("seals/*/*"):
        if not (cache / seal.parent.name / seal.name).exists():
            _remove(seal)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # another user's stays
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
