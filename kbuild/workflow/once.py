"""What several builds of one process have in common: work that one of them does and the others take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

from kbuild.digest import Digest
from kbuild.errors import InvalidReference

_Value = TypeVar("_Value")
_KEPT_FOR = 600.0  # seconds
MOST_KEYS = 10_000
"""So much finished work is remembered; 100 bytes each."""


class _Common:
    """What also builds have in common that follow each other."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.locks: dict[str, threading.Lock] = {}
        self.done: set[str] = set()
        self.kept: dict[Hashable, tuple[float, Any]] = {}


class Shared:
    """Safe for threads. Between processes nothing is shared: there, the same work is done twice at worst."""

    def __init__(self, common: _Common | None = None) -> None:
        self._common = common or _Common()
        self._values: dict[str, Any] = {}
        self._names: dict[str, Digest] = {}
        self._told: dict[str, set[Hashable]] = {}

    def next_build(self) -> Shared:
        """For another build of a process that runs on and on: names are free again, and what a base's name means is
        asked anew. What is done is done, and what is ``kept`` lasts for ten minutes."""
        common = self._common
        with common.guard:
            made = time.monotonic() - _KEPT_FOR
            for key in [key for key, (since, _) in common.kept.items() if since < made]:
                del common.kept[key]
            if len(common.done) > MOST_KEYS:
                for key in common.done:
                    common.locks.pop(key, None)
                common.done.clear()
        return Shared(common)

    @contextmanager
    def leading(self, keys: Iterable[str]) -> Iterator[bool]:
        """The first to come with a key does what belongs to it alone; once that has ended well nobody waits any more.

        Tells whether any of the keys is new. What fails is left to the next one that waits.
        """
        with ExitStack() as held:
            # In one order for all: two that want the same keys never wait for each other.
            mine = [key for key in sorted(set(keys)) if self._lead(key, held)]
            yield bool(mine)
            with self._common.guard:
                self._common.done.update(mine)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """One at a time."""
        with self._common.guard:
            lock = self._common.locks.setdefault(key, threading.Lock())
        with lock:
            yield

    def once(self, key: str, make: Callable[[], _Value]) -> _Value:
        """The value of this key, made by the first that asks."""
        with self.alone(f"once {key}"):
            if key not in self._values:
                self._values[key] = make()
        return cast(_Value, self._values[key])

    def kept(self, key: Hashable, make: Callable[[], _Value]) -> _Value:
        """As ``once``, but also for the builds that follow; ``make`` does no work worth waiting for."""
        with self._common.guard:
            if key not in self._common.kept:
                self._common.kept[key] = time.monotonic(), make()
            return cast(_Value, self._common.kept[key][1])

    def is_news(self, key: str, things: Iterable[Hashable]) -> bool:
        """Whether any of these was not asked about with the key before."""
        with self._common.guard:
            told = self._told.setdefault(key, set())
            before = len(told)
            told.update(things)
            return len(told) > before

    def claim(self, name: str, digest: Digest) -> None:
        """Take a name for an image; raises InvalidReference where another image of this process has it."""
        with self._common.guard:
            taken = self._names.setdefault(name, digest)
        if taken != digest:
            raise InvalidReference(
                f"{name} is already the name of another of these images, {taken}",
                hint="tell the models apart with more placeholders, such as {name}:{version} or {model_id}",
            )

    def _lead(self, key: str, held: ExitStack) -> bool:
        with self._common.guard:
            if key in self._common.done:
                return False
            lock = self._common.locks.setdefault(key, threading.Lock())
        lock.acquire()
        with self._common.guard:
            done = key in self._common.done
        if done:
            lock.release()
            return False
        held.callback(lock.release)
        return True
