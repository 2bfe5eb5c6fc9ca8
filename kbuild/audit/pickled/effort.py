"""How much one file may ask for: what is made to be endless is unchecked after seconds, a file of GiB after minutes.

The bounds are of a file with all that is packed in it, however deep; honest models stay far below them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LARGEST = 2 << 30
"""Bytes of a file that is looked into: it is held in memory, and each GiB takes the better part of a minute."""
_EXPANDED, _TIMES = 1 << 29, 16  # bytes that may come out of any file, and out of one more for each byte of its own
_MOST = 4 << 30
_PARTS = (
    100_000  # members of archives, frames of compressed data, pickles that follow each other, texts that are packed
)
_BUILT = 128 << 20  # of 8 bytes each: what the objects of its pickles take
_TRIES = 1 << 20  # looks at what was met before, beside one for each byte of the file's own
_PROBE = 32  # looks that it takes to begin to read
_READ = 1 << 20  # bytes read in vain there, beside twice the file's own
_LONGEST = 64 << 20  # of both, of the largest files


class Unreadable(ValueError):
    """A wrapping that cannot be opened; the text says why."""


class TooMuch(Unreadable):
    """There is more to try than is tried: what was not looked at may be anything."""


def read_whole(path: Path) -> bytes:
    """A file's bytes; raises TooMuch, and OSError."""
    size = path.stat().st_size
    if size > LARGEST:
        raise TooMuch(f"it has {size >> 20} MiB, and no more than {LARGEST >> 20} are looked into")
    return path.read_bytes()


@dataclass(slots=True)
class Effort:
    """What is left of it for a file of ``size`` bytes. Everything raises TooMuch where nothing is."""

    size: int
    _expanded: int = field(init=False)
    _parts: int = field(init=False)
    _built: int = field(init=False)
    _tries: int = field(init=False)
    _read: int = field(init=False)

    def __post_init__(self) -> None:
        self._expanded = min(_MOST, _EXPANDED + _TIMES * self.size)
        self._parts, self._built = _PARTS, _BUILT
        self._tries = min(_LONGEST, _TRIES + self.size)
        self._read = min(_LONGEST, _READ + 2 * self.size)

    @property
    def left(self) -> int:
        """Bytes that may still come out of it."""
        return self._expanded

    @property
    def parts(self) -> int:
        """Parts that may still be looked at."""
        return self._parts

    def expand(self, size: int) -> None:
        """Bytes came out of it."""
        self._expanded -= size
        if self._expanded < 0:
            raise TooMuch(f"more than {min(_MOST, _EXPANDED + _TIMES * self.size) >> 20} MiB come out of it")

    def open(self) -> None:
        """One more part of it is looked at."""
        self._parts -= 1
        if self._parts < 0:
            raise TooMuch(f"it has more than {_PARTS} parts")

    def build(self, words: int) -> None:
        """An object of so many words is held."""
        self._built -= words
        if self._built < 0:
            raise TooMuch(f"its objects would take more than {_BUILT >> 17} MiB")

    def look(self, times: int) -> None:
        """At bytes or objects that were met before."""
        self._tries -= times
        if self._tries < 0:
            raise TooMuch("too much of it may be read in too many ways")

    def probe(self, size: int) -> None:
        """So many bytes were read where a pickle might have begun."""
        self.look(_PROBE)
        self._read -= size
        if self._read < 0:
            raise TooMuch("it has too many places where a pickle may begin")
