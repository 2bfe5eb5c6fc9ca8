"""What several builds of one process have in common: work that one of them does and the others take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

from kbuild.digest import Digest
from kbuild.errors import InvalidReference

_Value = TypeVar("_Value")


class Shared:
    """Safe for threads. Between processes nothing is shared: there, the same work is done twice at worst."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._done: set[str] = set()
        self._values: dict[str, Any] = {}
        self._names: dict[str, Digest] = {}

    @contextmanager
    def leading(self, keys: Iterable[str]) -> Iterator[bool]:
        """The first to come with a key does what belongs to it alone; once that has ended well nobody waits any more.

        Tells whether any of the keys is new. What fails is left to the next one that waits.
        """
        with ExitStack() as held:
            # In one order for all: two that want the same keys never wait for each other.
            mine = [key for key in sorted(set(keys)) if self._lead(key, held)]
            yield bool(mine)
            with self._guard:
                self._done.update(mine)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """One at a time."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            yield

    def once(self, key: str, make: Callable[[], _Value]) -> _Value:
        """The value of this key, made by the first that asks."""
        with self.leading([key]) as first:
            if first:
                self._values[key] = make()
        return cast(_Value, self._values[key])

    def claim(self, name: str, digest: Digest) -> None:
        """Take a name for an image; raises InvalidReference where another image of this process has it."""
        with self._guard:
            taken = self._names.setdefault(name, digest)
        if taken != digest:
            raise InvalidReference(
                f"{name} is already the name of another of these images, {taken}",
                hint="tell the models apart with more placeholders, such as {name}:{version} or {model_id}",
            )

    def _lead(self, key: str, held: ExitStack) -> bool:
        with self._guard:
            if key in self._done:
                return False
            lock = self._locks.setdefault(key, threading.Lock())
        lock.acquire()
        with self._guard:
            done = key in self._done
        if done:
            lock.release()
            return False
        held.callback(lock.release)
        return True
