"""Room in a folder that has a limit: who is about to write much says how much, and what nobody needs goes first.

Whoever limits a folder registers a ``Keeper`` for it, which is its process's for that folder, as a lock is; everywhere
else nothing is limited. Room is held until what was written is an entry of the folder, or gone again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

# Streams of unknown length reserve a quarter of what they have ahead, at least this much: asking may mean to measure.
_STEP = 1 << 22
_BLOCK = 4096


class Keeper(Protocol):
    """Keeps a folder within its limit."""

    def reserve(self, size: int, ahead: int = 0) -> int:
        """Make room for ``size`` more bytes, and for up to ``ahead`` more where that costs nobody anything.

        Returns what was reserved. Raises CacheTooSmall.
        """

    def release(self, size: int) -> None:
        """What was reserved is written, or will not be."""


_KEEPERS: dict[str, Keeper] = {}
_GUARD = threading.Lock()


@contextmanager
def keeping(folder: Path, keeper: Keeper) -> Iterator[None]:
    """Ask ``keeper`` for what this process writes below ``folder`` meanwhile, unless another one is asked already."""
    with _GUARD:
        mine = _KEEPERS.setdefault(str(folder), keeper) is keeper
    try:
        yield
    finally:
        if mine:
            with _GUARD:
                del _KEEPERS[str(folder)]


class Room:
    """What one writer has reserved."""

    def __init__(self, keepers: list[Keeper]) -> None:
        self._granted = [(keeper, 0) for keeper in keepers]
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes that were asked for so far."""
        return self._used

    @property
    def limited(self) -> bool:
        """Whether anybody limits the place: else nobody has to know how much is written."""
        return bool(self._granted)

    def add(self, size: int, *, ahead: int = _STEP) -> None:
        """Before ``size`` more bytes are written; more may follow, for ``ahead`` bytes of which nobody has to be asked.

        Raises CacheTooSmall.
        """
        self._used += size
        for number, (keeper, granted) in enumerate(self._granted):
            if self._used > granted:
                more = keeper.reserve(self._used - granted, max(ahead, granted // 4))
                self._granted[number] = keeper, granted + more

    def add_file(self, size: int) -> None:
        """As ``add`` for a file: whole blocks."""
        self.add(-(-size // _BLOCK) * _BLOCK)

    def _release(self) -> None:
        for keeper, granted in self._granted:
            keeper.release(granted)


@contextmanager
def room_for(path: Path, size: int = 0) -> Iterator[Room]:
    """Room for ``size`` bytes below or at ``path``, held for the block, which may ask for more of it.

    Raises CacheTooSmall where it cannot be made within the limit of a folder that holds ``path``.
    """
    with _GUARD:
        keepers = [_KEEPERS[each] for each in map(str, [path, *path.parents]) if each in _KEEPERS]
    room = Room(keepers)
    try:
        if size:
            room.add(size, ahead=0)
        yield room
    finally:
        room._release()
