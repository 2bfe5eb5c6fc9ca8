"""Where in a file pickles may begin, by what those that do anything have near their beginning."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from kbuild.audit.pickled.effort import Effort
from kbuild.audit.pickled.ordinary import is_package

# Where a pickle may begin: its header, or what names a class or function in the oldest protocols and in the newest.
# Apart, for together they would be looked for at every byte.
_HEADER = re.compile(rb"\x80[\x02-\x05]")
# What is one may also stand in what looks like another.
_GLOBAL = re.compile(rb"(?=[ci]([A-Za-z_][\w.]{0,200}+)\n[A-Za-z_][\w.]{0,200}+\n)")
_WORD = rb"(?:\x8c[\x01-\x7f]|X[\x01-\x7f]\0\0\0)[A-Za-z_][\w.]*(?:\x94|q[\0-\xff]|r[\0-\xff]{4})?"
_NAMED = re.compile(_WORD + _WORD + rb"\Z")
_WORD_ALONE = re.compile(b"(?=" + _WORD + b")")
_WINDOW = 1 << 20  # bytes in which they are looked for at once
_NAMES = 300  # bytes of a module's and a class's name
_MARKS = 8  # that are tried before an INST


def find_beginnings(data: bytes, begin: int, effort: Effort) -> Iterator[int]:
    """In their order, by and by: of a file of beginnings nobody can hold all. Raises TooMuch."""
    for first in range(begin, len(data), _WINDOW):
        yield from _within(data, begin, first, min(first + _WINDOW, len(data)), effort)


def _within(data: bytes, begin: int, first: int, last: int, effort: Effort) -> list[int]:
    found = {match.start() for match in _HEADER.finditer(data, first, min(last + 1, len(data)))}
    for match in _GLOBAL.finditer(data, first, min(last + 2 * _NAMES, len(data))):
        start = match.start()
        if start >= last:
            break
        if data[start - 1 : start].islower() and not is_package(match[1].partition(b".")[0].decode("ascii")):
            continue  # the inside of a word, as in a list of words
        marked = data[start - 1 : start] == b"(" and start > begin
        found.add(start - marked)  # INST and OBJ have a mark before the name
        if data[start : start + 1] == b"i":
            # INST: what it is called with stands between the two.
            found |= _marks_before(data, begin, start)
    words: list[int] | None = None
    at = data.find(b"\x93", first, last)
    while at >= 0:
        effort.look(1)
        named = _NAMED.search(data[max(begin, at - _NAMES) : at])
        if named is not None:
            found.add(max(begin, at - _NAMES) + named.start())
        else:
            if words is None:
                words = [each.start() for each in _WORD_ALONE.finditer(data, max(begin, first - _NAMES), last)]
            # Its names come out of the memo.
            nearest = bisect_left(words, at - _NAMES)
            found |= set(words[nearest : bisect_left(words, at)][:_MARKS])
        at = data.find(b"\x93", at + 1, last)
    return sorted(found)


def _marks_before(data: bytes, begin: int, at: int) -> set[int]:
    found: set[int] = set()
    least = max(begin, at - _NAMES)
    place = data.rfind(b"(", least, at)
    while place >= 0 and len(found) < _MARKS:
        found.add(place)
        place = data.rfind(b"(", least, place)
    return found
