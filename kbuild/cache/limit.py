"""The limit of a cache: whoever is about to write much asks, and what nobody needs goes first."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kbuild.cache.entries import list_cache, other_bytes
from kbuild.cache.locks import waiting_lock
from kbuild.cache.prune import prune_cache, used_since_then
from kbuild.cache.room import keeping
from kbuild.cache.sessions import CacheSession, live_sessions
from kbuild.errors import CacheInUse, CacheTooSmall, ConfigurationError
from kbuild.files import mark_used

DEFAULT_LIMIT = 20 * 10**9
"""Bytes a cache may hold when nothing else is said."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNASKED = 16 * 10**6
_FEWEST = 1000
# Seconds that a measure is believed for, where it leaves much room.
_BELIEVED = 10.0


class CacheKeeper:
    """A ``Keeper`` of a cache; for several threads."""

    def __init__(self, cache: Path, session: CacheSession) -> None:
        self.session = session
        self._cache = cache
        self._lock = threading.RLock()
        self._limit: int | None = None
        self._stated = 0
        self._free, self._measured = 0, -_BELIEVED
        self._wrote = False

    @contextmanager
    def limited(self, limit: int) -> Iterator[None]:
        """Hold the limit in the block, and see to it at its end: small things are written without asking."""
        if self._limit is not None:
            yield
            return
        # Directories and records are written without asking: some megabytes of an environment, however small the limit.
        self._stated, self._limit = limit, limit - max(limit // 100, min(limit // 50, _UNASKED))
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
        with self._lock:
            self.session.begin_again()
        for path in needed:
            mark_used(path)

    def reserve(self, size: int, ahead: int = 0) -> int:
        """See ``room.Keeper``."""
        with self._lock:
            limit = self._limit
            if limit is None:
                return size
            self._wrote = True
            fresh = time.monotonic() - self._measured < _BELIEVED
            # What others write meanwhile is not known: only where there is much room a measure is believed for long.
            if fresh and size + ahead <= self._free - limit // 8:
                return self._take(size + ahead)
            with waiting_lock(self._cache / ".room"):
                self._make_room(size, limit)
                return self._take(size + min(ahead, (self._free - size) // 2))

    def _take(self, size: int) -> int:
        self._free -= size
        self.session.reserved += size
        self.session.write()
        return size

    def release(self, size: int) -> None:
        """See ``room.Keeper``."""
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
        needed = other + sum(entry.size for entry in entries if used_since_then(entry.used, oldest)) + reserved + size
        if needed <= limit < taken + reserved + size:
            prune_cache(self._cache, limit=max(0, limit - reserved - size))
            taken = self._taken()
            needed = taken + reserved + size
        self._free, self._measured = limit - taken - reserved, time.monotonic()
        if self._free < size:
            raise CacheTooSmall(
                f"{self._cache} may hold {self._stated / 1e9:.2f} GB, and what runs now needs {needed / 1e9:.2f} GB of "
                "it at once",
                hint=f"allow at least that much: KBUILD_CACHE_LIMIT='{needed * 1.05 / 1e9 + 0.1:.1f} GB'",
            )

    def _taken(self) -> int:
        return sum(entry.size for entry in list_cache(self._cache)) + other_bytes(self._cache)


def parse_limit(text: str) -> int:
    """As ``parse_size`` for what a cache may hold: a few bytes, which nobody means by 5 or 20, are no limit."""
    size = parse_size(text)
    if text.strip().isdigit() and 0 < size < _FEWEST:
        raise ConfigurationError(f"{text!r} is a number of bytes, too few for a cache", hint=f"write it as {size} GB")
    return size


def parse_size(text: str) -> int:
    """Read ``20 GB``, ``500M`` or a number of bytes; raises ConfigurationError."""
    number = text.strip().upper().removesuffix("B").rstrip()
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        value = float(number.removesuffix(unit) if unit else number)
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not a size", hint="write it as 20 GB") from error
    value *= _UNITS[unit]
    if not 0 <= value < 1e18:
        raise ConfigurationError(f"{text!r} is not a size", hint="write it as 20 GB")
    return int(value)
