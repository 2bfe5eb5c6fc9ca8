"""The pickle streams inside a file, whatever they are wrapped in and wherever they begin.

To a scanner that looks at names, a compressed pickle, or one beside arrays, is no pickle at all.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import pickle
import re
from bisect import bisect_left
from collections.abc import Iterator, Set
from dataclasses import dataclass

from kbuild.audit.checks.containers import TooMuch, Unreadable, open_container
from kbuild.audit.checks.inert import InertReader
from kbuild.audit.checks.standins import is_importable
from kbuild.audit.numbers_alone import after_numpy_header, is_tensors

__all__ = ["PickleStream", "Unreadable", "pickle_streams"]

_NUMPY = b"\x93NUMPY"
_MAX_DEPTH = 8
# Where a pickle may begin: its header, or what names a class or function in the oldest protocols and in the newest.
# Apart, for together they would be looked for at every byte.
_HEADER = re.compile(rb"\x80[\x02-\x05]")
_GLOBAL = re.compile(rb"[ci][A-Za-z_][\w.]{0,200}\n[A-Za-z_][\w.]{0,200}\n")
_WORD = rb"(?:\x8c[\x01-\x7f]|X[\x01-\x7f]\0\0\0)[A-Za-z_][\w.]*(?:\x94|q[\0-\xff]|r[\0-\xff]{4})?"
_NAMED = re.compile(_WORD + _WORD + rb"\Z")
_WORD_ALONE = re.compile(_WORD)
_NAMES = 300  # bytes of a module's and a class's name
_MARKS = 8  # that are tried before an INST
_EFFORT = 4 << 20  # bytes read in vain, beside twice the file's own
_SHORTEST = 16
# Between the lines of what is encoded, in texts and in texts of JSON.
_LINE_END = re.compile(rb"(?:\r?\n|(?:\\r)?\\n)[ \t]*(?=[\w+/-])")
_HEXADECIMAL = re.compile(rb"(?:80|63|28|1f8b|789c|504b|93)[0-9a-fA-F]{14,}")
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_MASK = bytes(1 if each in _LETTERS else 0 for each in range(256))
# Of a pickle (also of the oldest protocols' "c", "(" and "]"), zip, gzip, bz2, xz, zstd, lz4, zlib and npy.
_BASE64_BEGIN = (b"gA", b"Y", b"K", b"X", b"UEsD", b"H4sI", b"Qlp", b"/Td6", b"_Td6", b"KLUv", b"BCJN", b"e", b"k05V")


@dataclass(frozen=True, kw_only=True, slots=True)
class PickleStream:
    """One pickle: ``named`` are the modules and names that loading it would import, ``problems`` what else is odd.

    ``place`` is the way to it inside the file; ``fault`` says why it has no proper end, ``data`` is then the rest.
    With ``closed`` it is a container that could not be opened whole. ``other`` tells that it is how another loader than
    the one it was written for would read it: of a clean file that makes names of nothing, and of modules that are none
    where it is ``noisy``.
    """

    place: str
    named: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = ()
    fault: str | None = None
    data: bytes = b""
    closed: bool = False
    other: bool = False
    noisy: bool = False


def pickle_streams(
    data: bytes, *, expected: bool, place: str = "", depth: int = 0, encoded: bool = True
) -> Iterator[PickleStream]:
    """Every pickle in ``data``, also inside the bytes of others; nothing for what holds none.

    ``expected`` tells that it is to be a pickle by its name, ``encoded`` that nobody has looked for base64 in these
    bytes. Raises Unreadable.
    """
    if depth > _MAX_DEPTH:
        raise TooMuch(f"it is wrapped more than {_MAX_DEPTH} times")
    if is_tensors(data):
        # A text's opcode and its length may be the size of the header, and bytes of a tensor the rest of a pickle.
        reader = InertReader(data, 0)
        fault = reader.run()
        if reader.calls or reader.named:
            yield from _told(reader, data, 0, fault, place, depth)
        return
    parts = 0
    refused: Unreadable | None = None
    try:
        for part in open_container(data):
            parts += 1
            if part.fault is not None:
                yield PickleStream(place=place + part.name, named=(), fault=part.fault, closed=True)
            found = list(pickle_streams(part.data, expected=expected, place=f"{place}{part.name}", depth=depth + 1))
            yield from found
    except Unreadable as error:
        refused = error  # it may be a pickle all the same
    if data.startswith(_NUMPY):
        begin = after_numpy_header(data)
        yield from _follow(data, begin, expected=begin < len(data), place=place, depth=depth)
    else:
        yield from _follow(data, 0, expected=expected and not parts and refused is None, place=place, depth=depth)
    if encoded:
        yield from _encoded(data, place, depth)
    if refused is not None:
        raise refused


def _follow(data: bytes, begin: int, *, expected: bool, place: str, depth: int) -> Iterator[PickleStream]:
    """The pickles that follow each other from ``begin`` on, and those that begin later after something else."""
    number = 0
    told: set[tuple[str, str]] = set()
    while begin < len(data):
        has_header = data[begin] == 0x80 and begin + 1 < len(data) and data[begin + 1] <= pickle.HIGHEST_PROTOCOL
        reader = InertReader(data, begin)
        # What is neither named as a pickle nor begins as one is one only if it is so to its end and does something.
        fault = reader.run()
        if not has_header and (number or not expected) and (fault is not None or not reader.calls):
            break
        name = f"{place}#{number}" if number else place
        told |= reader.named.keys()
        yield from _told(reader, data, begin, fault, name, depth)
        begin, number = (reader.position if fault is None else begin + 1), number + 1
        if fault is not None:
            break
    yield from _later(data, begin, place, depth, told)


def _told(
    reader: InertReader, data: bytes, begin: int, fault: str | None, name: str, depth: int
) -> Iterator[PickleStream]:
    yield _stream(reader, name, fault, data[begin:] if fault is not None else b"")
    if reader.skipped or fault is not None:
        # What joblib takes for an array's bytes is code to a plain unpickler.
        plain = InertReader(data, begin, skip=False)
        plain.run()
        problems = tuple(plain.problems)
        if reader.objects and plain.begun is not None:
            problems = plain.begun  # joblib counts the memo anew there: what is read takes other objects for its own
        if set(plain.named) - set(reader.named) or set(problems) - set(reader.problems):
            named = tuple(plain.named)
            yield PickleStream(place=name, named=named, problems=problems, other=True, noisy=reader.objects)
        for text in plain.texts if fault is not None else ():
            yield from _nested(text, name, depth)
    for text in reader.texts:
        yield from _nested(text, name, depth)


def _stream(reader: InertReader, place: str, fault: str | None, data: bytes = b"") -> PickleStream:
    return PickleStream(place=place, named=tuple(reader.named), problems=tuple(reader.problems), fault=fault, data=data)


def _later(data: bytes, begin: int, place: str, depth: int, told: Set[tuple[str, str]]) -> Iterator[PickleStream]:
    """Pickles after bytes that are none: what reads to its end and calls something is one.

    One without an end has done its harm before that is seen: what it called of a module that there is counts too.
    """
    end, spent = begin, 0
    for at in _beginnings(data, begin):
        if at < end:
            continue
        probe = InertReader(data, at, probe=True)
        done = probe.run() is None
        spent += probe.reached - at
        if spent > _EFFORT + 2 * len(data):
            raise TooMuch("it has too many places where a pickle may begin")
        if done and probe.calls:
            reader = InertReader(data, at)
            reader.run()
            yield from _told(reader, data, at, None, f"{place}@{at}", depth)
            end = reader.position
        elif probe.calls and any(is_importable(module) for module, _ in probe.named):
            named = tuple(name for name in probe.named if is_importable(name[0]) and name not in told)
            if named:
                yield PickleStream(place=f"{place}@{at}", named=named, other=True, noisy=True)


def _beginnings(data: bytes, begin: int) -> list[int]:
    found = {match.start() for match in _HEADER.finditer(data, begin)}
    for match in _GLOBAL.finditer(data, begin):
        marked = data[match.start() - 1 : match.start()] == b"(" and match.start() > begin
        found.add(match.start() - marked)  # INST and OBJ have a mark before the name
        if data[match.start() : match.start() + 1] == b"i":
            # INST: what it is called with stands between the two.
            found |= _marks_before(data, begin, match.start())
    words = [match.start() for match in _WORD_ALONE.finditer(data, begin)]
    at = data.find(b"\x93", begin)
    while at >= 0:
        named = _NAMED.search(data[max(begin, at - _NAMES) : at])
        if named is not None:
            found.add(max(begin, at - _NAMES) + named.start())
        else:
            # Its names come out of the memo.
            first = bisect_left(words, at - _NAMES)
            found |= set(words[first : bisect_left(words, at)][:_MARKS])
        at = data.find(b"\x93", at + 1)
    return sorted(found)


def _marks_before(data: bytes, begin: int, at: int) -> set[int]:
    found: set[int] = set()
    least = max(begin, at - _NAMES)
    place = data.rfind(b"(", least, at)
    while place >= 0 and len(found) < _MARKS:
        found.add(place)
        place = data.rfind(b"(", least, place)
    return found


def _encoded(data: bytes, place: str, depth: int) -> Iterator[PickleStream]:
    """Pickles written in base64, as texts of JSON and YAML hold them."""
    mask = data.translate(_MASK)
    least = b"\x01" * _SHORTEST
    at, in_lines = mask.find(least), False
    while at >= 0:
        end = mask.find(b"\0", at)
        text = data[at : end if end >= 0 else len(data)]
        if _HEXADECIMAL.fullmatch(text):
            with contextlib.suppress(ValueError):
                yield from _proper(bytes.fromhex(text.decode()), f"{place}>hex", depth)
        if text.startswith(_BASE64_BEGIN):
            padded = text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(text) % 4)
            with contextlib.suppress(binascii.Error, ValueError):
                yield from _proper(base64.b64decode(padded), f"{place}>base64", depth)
        if data[at + len(text) : at + len(text) + 1] in (b"\r", b"\n", b"\\"):
            in_lines = True
        at = mask.find(least, at + len(text))
    joined = _LINE_END.sub(_joined, data) if in_lines else data
    if len(joined) != len(data):
        yield from _encoded(joined, place, depth)


def _joined(end: re.Match[bytes]) -> bytes:
    """Nothing in the place of an end of a line that may be one of base64."""
    line = end.string[max(0, end.start() - _SHORTEST) : end.start()]
    return b"" if len(line) == _SHORTEST and not line.translate(None, _LETTERS) else end[0]


def _nested(value: bytes | str, place: str, depth: int) -> Iterator[PickleStream]:
    """Pickles in the bytes and texts of a pickle."""
    if isinstance(value, str):
        try:
            value = value.encode("latin-1")  # protocols below 3 have bytes as text in latin-1
        except UnicodeEncodeError:
            return
    yield from _proper(value, f"{place}>bytes", depth, encoded=False)


def _proper(data: bytes, place: str, depth: int, *, encoded: bool = True) -> list[PickleStream]:
    """Those bytes are mostly numbers: only what reads to its end and names something is a pickle."""
    if depth >= _MAX_DEPTH:
        raise TooMuch(f"it is wrapped more than {_MAX_DEPTH} times")
    try:
        found = list(pickle_streams(data, expected=False, place=place, depth=depth + 1, encoded=encoded))
    except TooMuch:
        raise
    except Unreadable:
        return []
    return [stream for stream in found if stream.fault is None and (stream.named or stream.problems)]
