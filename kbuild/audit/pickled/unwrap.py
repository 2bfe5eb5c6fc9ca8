"""The pickle streams inside a file, whatever they are wrapped in and wherever they begin.

To a scanner that looks at names, a compressed pickle, or one beside arrays, is no pickle at all.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace

from kbuild.audit.hidden.configured import called_by_configurations
from kbuild.audit.pickled.beginnings import find_beginnings
from kbuild.audit.pickled.compressed import PackedPart, is_lzma_alone, is_zlib, may_inflate
from kbuild.audit.pickled.containers import open_container
from kbuild.audit.pickled.effort import Effort, TooMuch, Unreadable
from kbuild.audit.pickled.inert import InertReader
from kbuild.audit.pickled.keras import holds_code, names_in_config
from kbuild.audit.pickled.numbers_alone import NUMPY, after_arrays, is_filtered, is_tensors, other_files
from kbuild.audit.pickled.ordinary import is_importable
from kbuild.audit.pickled.programs import CONSTANTS, SOURCE, calls_of, graph_calls, names_files, runs_package
from kbuild.audit.pickled.standins import EXTENSION, TOO_DEEP
from kbuild.audit.pickled.texts import decoded, is_written, objects_in

__all__ = ["PickleStream", "Unreadable", "pickle_streams"]

_PICKLES = (".pkl", ".pickle", ".joblib", "/data")  # members of archives that are to be pickles
_MAX_DEPTH = 8
# What every pickle has that does anything: a module's name in one of three ways. A number of copyreg's leads nowhere
# where no pickle names copyreg. Else what is packed, and other formats.
_SIGN = re.compile(
    rb"[ci][A-Za-z_][\w.]*\n|PK\x03\x04|\x1f\x8b\x08|\xfd7zXZ|\A\]\0|BZh|\x28\xb5\x2f\xfd"
    rb"|\x04\x22\x4d\x18|[\x50-\x5f]\x2a\x4d\x18|\"class_name|ustar|ZF0x|SQLite"
)
_STRING = re.compile(rb"[\x8c\x8dXVSUT]")


@dataclass(frozen=True, kw_only=True, slots=True)
class PickleStream:
    """One pickle: ``named`` are the modules and names that loading it would import, ``constructed`` what of it
    gets arguments, ``bound`` the methods that it holds, by what made their objects, ``filled`` what made objects
    of which items are set, ``problems`` what else is odd.

    ``place`` is the way to it inside the file; ``fault`` says why it has no proper end, ``data`` is then the rest.
    With ``closed`` it is a container that could not be opened whole. ``other`` tells that it is how another loader than
    the one it was written for would read it: of a clean file that makes names of nothing, and of modules that are none
    where it is ``noisy``. ``code`` tells of a layer of Keras that holds code.
    """

    place: str
    named: tuple[tuple[str, str], ...]
    problems: tuple[str, ...] = ()
    constructed: tuple[tuple[str, str], ...] = ()
    bound: tuple[tuple[str, str], ...] = ()
    filled: tuple[str, ...] = ()
    fault: str | None = None
    data: bytes = b""
    closed: bool = False
    other: bool = False
    noisy: bool = False
    code: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """The way to some bytes inside a file, how often they are wrapped, and what is left of the file's effort."""

    name: str
    depth: int
    effort: Effort

    def inside(self, name: str) -> _Place:
        """Of what is packed in these; raises TooMuch."""
        if self.depth >= _MAX_DEPTH:
            raise TooMuch(f"it is wrapped more than {_MAX_DEPTH} times")
        return replace(self, name=self.name + name, depth=self.depth + 1)

    def beside(self, name: str) -> _Place:
        """Of another pickle in the same bytes."""
        return replace(self, name=self.name + name)


def pickle_streams(data: bytes, *, expected: bool) -> Iterator[PickleStream]:
    """Every pickle in ``data``, also inside the bytes of others; nothing for what holds none.

    ``expected`` tells that it is to be a pickle by its name. Raises Unreadable.
    """
    yield from _streams(data, _Place(name="", depth=0, effort=Effort(len(data))), expected=expected)


def _streams(data: bytes, at: _Place, *, expected: bool = False) -> Iterator[PickleStream]:
    if is_tensors(data):
        # A text's opcode and its length may be the size of the header, and bytes of a tensor the rest of a pickle.
        reader = InertReader(data, 0, at.effort)
        fault = reader.run()
        if reader.calls or reader.named:
            yield from _told(reader, data, 0, fault, at)
        return
    if holds_code(data):
        yield PickleStream(place=at.name, named=(), code=True)
    parts, sources, told, seen = 0, 0, set[object](), set[PickleStream]()
    refused: Unreadable | None = None
    try:
        for part in open_container(data, at.effort):
            parts, sources = parts + 1, sources + part.name.endswith(".py")
            if part.fault is not None:
                yield PickleStream(place=at.name + part.name, named=(), fault=part.fault, closed=True)
            if SOURCE.fullmatch(part.name) and CONSTANTS.search(data):
                yield from _script(part, at)
            awaited = expected and (not part.name.startswith("!") or part.name.endswith(_PICKLES))
            for stream in list(_streams(part.data, at.inside(part.name), expected=awaited)):
                told |= {*stream.named, *stream.problems}
                seen.add(replace(stream, place=""))
                yield stream
    except Unreadable as error:
        refused = error  # it may be a pickle all the same
    if refused is None and is_filtered(data, at.effort):
        refused = Unreadable("HDF5 keeps some of it packed by its filters, which are not read")
    names, problems = names_in_config(data, at.effort)
    problems |= dict.fromkeys(
        (*names_files(data), *graph_calls(data), *other_files(data), *runs_package(data, sources))
    )
    for others, odd in (objects_in(data, at.effort), called_by_configurations(data)):
        names, problems = names | others, problems | odd
    if (names.keys() | problems.keys()) - told:
        yield PickleStream(place=at.name, named=tuple(names), problems=tuple(problems))
    if data.startswith(NUMPY):
        begin, objects = after_arrays(data)
        yield from _follow(data, begin, at, expected=objects and begin < len(data))
    else:
        streams = _follow(data, 0, at, expected=expected and not parts and refused is None)
        # What an archive holds as it is was read as its member.
        yield from (each for each in streams if each.fault is not None or replace(each, place="") not in seen)
    yield from _encoded(data, at)
    if refused is not None:
        raise refused


def _script(part: PackedPart, at: _Place) -> Iterator[PickleStream]:
    try:
        problems = tuple(calls_of(part.data))
    except ValueError as error:
        yield PickleStream(place=at.name + part.name, named=(), fault=str(error), closed=True)
    else:
        if problems:
            yield PickleStream(place=at.name + part.name, named=(), problems=problems)


def _follow(data: bytes, begin: int, at: _Place, *, expected: bool) -> Iterator[PickleStream]:
    """The pickles that follow each other from ``begin`` on, and those that begin later after something else."""
    number = 0
    told: set[tuple[str, str]] = set()
    while begin < len(data):
        has_header = data[begin] == 0x80 and begin + 1 < len(data) and data[begin + 1] <= pickle.HIGHEST_PROTOCOL
        at.effort.open()
        reader = InertReader(data, begin, at.effort)
        # What is neither named as a pickle nor begins as one is one only if it is so to its end and does something.
        fault = reader.run()
        if not has_header and (number or not expected) and (fault is not None or not reader.calls):
            break
        # After the pickles of torch's oldest format lie its numbers: 128 of them look like a header.
        if number and fault not in (None, TOO_DEEP) and not reader.named and not reader.calls:
            break
        told |= reader.named.keys()
        yield from _told(reader, data, begin, fault, at.beside(f"#{number}") if number else at)
        begin, number = (reader.position if fault is None else begin + 1), number + 1
        if fault is not None:
            break
    yield from _later(data, begin, at, told)


def _told(reader: InertReader, data: bytes, begin: int, fault: str | None, at: _Place) -> Iterator[PickleStream]:
    yield _stream(reader, at.name, fault, data[begin:] if fault is not None else b"")
    if reader.skipped or fault is not None:
        # What joblib takes for an array's bytes is code to a plain unpickler.
        plain = InertReader(data, begin, at.effort, skip=False)
        plain.run()
        problems = tuple(plain.problems)
        if reader.objects and plain.begun is not None:
            problems = plain.begun  # joblib counts the memo anew there: what is read takes other objects for its own
        found = ((plain.named, reader.named), (plain.bound, reader.bound), (plain.filled, reader.filled))
        if any(set(more) - set(known) for more, known in found) or set(problems) - set(reader.problems):
            other = replace(_stream(plain, at.name, None), problems=problems)
            yield replace(other, other=True, noisy=reader.objects)
        for text in plain.texts if fault is not None else ():
            yield from _nested(text, at)
    for loaded in reader.loaded.values():
        at.effort.open()
        yield from list(_streams(loaded, at.inside(">loaded"), expected=True))
    for text in reader.texts:
        if id(text) not in reader.loaded:
            yield from _nested(text, at)


def _stream(reader: InertReader, place: str, fault: str | None, data: bytes = b"") -> PickleStream:
    named, made = tuple(reader.named), tuple(reader.constructed)
    read = PickleStream(place=place, named=named, constructed=made, bound=tuple(reader.bound), fault=fault, data=data)
    return replace(read, problems=tuple(reader.problems), filled=tuple(reader.filled))


def _later(data: bytes, begin: int, at: _Place, told: Set[tuple[str, str]]) -> Iterator[PickleStream]:
    """Pickles after bytes that are none: what reads to its end and calls something is one.

    One without an end has done its harm before that is seen: what it called of a module that there is counts too.
    """
    end, same = begin, set[int]()
    for first in find_beginnings(data, begin, at.effort):
        if first < end or first in same:
            continue
        probe = InertReader(data, first, at.effort, probe=True)
        done = probe.run() is None
        at.effort.probe(probe.reached - first)
        same = {*(place for place in same if place > first), *probe.same}
        if done and probe.calls and probe.named:  # without a name it takes numbers of copyreg's, as random bytes may
            reader = InertReader(data, first, at.effort)
            reader.run()
            yield from _told(reader, data, first, None, at.beside(f"@{first}"))
            end = reader.position
        elif probe.calls and any(is_importable(module) for module, _ in probe.named):
            named = tuple(name for name in probe.named if is_importable(name[0]) and name not in told)
            if named:
                yield PickleStream(place=f"{at.name}@{first}", named=named, other=True, noisy=True)


def _encoded(data: bytes, at: _Place) -> Iterator[PickleStream]:
    """Pickles written in letters and figures, as texts of JSON and YAML hold them."""
    for name, content in decoded(data, at.effort):
        yield from _proper(content, at, name)


def _letters(text: str) -> bytes:
    try:
        return text.encode("latin-1")  # protocols below 3 have bytes as text in latin-1
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _nested(value: bytes | str, at: _Place) -> Iterator[PickleStream]:
    """Pickles in the bytes and texts of a pickle."""
    yield from _proper(value if isinstance(value, bytes) else _letters(value), at, ">bytes")


def _proper(data: bytes, at: _Place, name: str) -> list[PickleStream]:
    """Those bytes are mostly numbers: only what reads to its end and names something is a pickle."""
    found: list[PickleStream] = []
    if is_written(data):
        # Looked at by itself too: in the pickle around it a letter may stand before it.
        for kind, content in decoded(data, at.effort):
            at.effort.expand(len(content))
            if is_written(content) or _may_hold_pickles(content):
                found += _proper(content, at.inside(name), kind)
    elif _may_hold_pickles(data):
        at.effort.open()
        try:
            found += _streams(data, at.inside(name))
        except TooMuch:
            raise
        except Unreadable:
            return []
    return [kept for each in found if (kept := _kept(each)) is not None]


def _kept(stream: PickleStream) -> PickleStream | None:
    """Of one without a proper end what is of modules that are there: it calls before it is seen to have none."""
    problems = tuple(each for each in stream.problems if not each.startswith(EXTENSION))
    if stream.code or (stream.fault is None and (stream.named or problems)):
        return stream
    named = tuple(each for each in stream.named if is_importable(each[0]))
    return replace(stream, fault=None, other=True, noisy=True, named=named) if stream.fault and named else None


def _may_hold_pickles(data: bytes) -> bool:
    """Whether anything in it is worth a look: most texts are words, and there may be millions of them."""
    if _SIGN.search(data) is not None or is_zlib(data) or may_inflate(data) or is_lzma_alone(data):
        return True
    named = data.rfind(b"\x93")
    return named >= 0 and _STRING.search(data, 0, named) is not None
