"""The pickle streams inside a file, whatever they are wrapped in: compression, zip, tar, numpy's and joblib's formats.

To a scanner that looks at names, a compressed pickle, or one beside arrays, is no pickle at all.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import pickletools
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, cast

from kbuild.audit.checks.inert import InertReader

_ZIP = b"PK\x03\x04"
_NUMPY = b"\x93NUMPY"
_ZLIB_SECOND = frozenset({0x01, 0x5E, 0x9C, 0xDA})
_MAX_SIZE = 4 << 30
_MAX_DEPTH = 8
_CALLS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX"})
# RuntimeError: a member of a zip that asks for a password.
_DAMAGE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, kw_only=True, slots=True)
class PickleStream:
    """One pickle's opcodes. ``place`` is the way to it inside the file; ``fault`` says why it has no proper end."""

    place: str
    data: bytes
    fault: str | None = None


class Unreadable(ValueError):
    """A wrapping that cannot be opened; the text says why."""


def pickle_streams(data: bytes, *, expected: bool, place: str = "", depth: int = 0) -> Iterator[PickleStream]:
    """Every pickle in ``data``, also inside the bytes of others; nothing for what holds none.

    ``expected`` tells that it is to be a pickle by its name. Raises Unreadable.
    """
    if depth > _MAX_DEPTH:
        raise Unreadable(f"it is wrapped more than {_MAX_DEPTH} times")
    if data.startswith(_ZIP) or data[257:262] == b"ustar":
        for name, member in _members(data):
            yield from pickle_streams(member, expected=False, place=f"{place}!{name}", depth=depth + 1)
    elif (opened := _open_compressed(data)) is not None:
        yield from pickle_streams(_read_whole(opened), expected=expected, place=place, depth=depth + 1)
    elif data.startswith(_NUMPY):
        yield from _follow(data, _after_numpy_header(data), expected=False, place=place, depth=depth)
    else:
        yield from _follow(data, 0, expected=expected, place=place, depth=depth)


def _follow(data: bytes, begin: int, *, expected: bool, place: str, depth: int) -> Iterator[PickleStream]:
    """The pickles that follow each other from ``begin`` on."""
    number = 0
    while begin < len(data):
        has_header = data[begin] == 0x80 and begin + 1 < len(data) and data[begin + 1] <= pickle.HIGHEST_PROTOCOL
        reader = InertReader(data, begin)
        # What is neither named as a pickle nor begins as one is one only if it is so to its end and does something.
        stream, fault = reader.run()
        if not has_header and (number or not expected) and (fault is not None or not _calls(stream)):
            return
        name = f"{place}#{number}" if number else place
        yield PickleStream(place=name, data=stream, fault=fault)
        for inner in reader.inner:
            yield PickleStream(place=f"{name}>array", data=inner)
        for part in (stream, *reader.inner):
            for argument in _byte_arguments(part):
                yield from _nested(argument, name, depth)
        begin, number = reader.position, number + 1


def _nested(data: bytes, place: str, depth: int) -> list[PickleStream]:
    """Pickles in the bytes of a pickle. Those are mostly numbers: only what reads to its end and calls is one."""
    try:
        found = list(pickle_streams(data, expected=False, place=f"{place}>bytes", depth=depth + 1))
    except Unreadable:
        return []
    return [stream for stream in found if stream.fault is None and _calls(stream.data)]


def _calls(stream: bytes) -> bool:
    return any(opcode.name in _CALLS for opcode, _, _ in _opcodes(stream))


def _byte_arguments(stream: bytes) -> Iterator[bytes]:
    for _, argument, _ in _opcodes(stream):
        if isinstance(argument, bytes | bytearray) and len(argument) > 4:
            yield bytes(argument)
        elif isinstance(argument, str) and argument[:1] == "\x80":
            # Protocols below 3 have bytes as text in latin-1.
            yield argument.encode("latin-1", errors="replace")


def _opcodes(stream: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]:
    """The opcodes as far as they can be read, also those after the STOP of an inner pickle."""
    file = io.BytesIO(stream)
    while file.tell() < len(stream):
        try:
            yield from pickletools.genops(file)
        except Exception:  # noqa: BLE001 - whatever a damaged stream leads to: its fault is told elsewhere
            return


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        if data.startswith(_ZIP):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for info in archive.infolist():
                    with archive.open(info) as file:
                        yield info.filename, _limited(file)
        else:
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    if content is not None:
                        yield member.name, _limited(content)
    except Unreadable:
        raise
    except _DAMAGE as error:
        raise Unreadable(f"the archive cannot be read: {error}") from error


def _open_compressed(data: bytes) -> IO[bytes] | None:
    file = io.BytesIO(data)
    if data.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(file))
    if data.startswith(b"BZh"):
        return bz2.open(file)
    if data.startswith((b"\xfd7zXZ\x00", b"]\x00\x00")):
        return lzma.open(file)
    if len(data) > 2 and data[0] == 0x78 and data[1] in _ZLIB_SECOND:
        return _zlib(data)
    if data.startswith(b"\x04\x22\x4d\x18"):
        raise Unreadable("it is compressed with lz4")
    return None


def _zlib(data: bytes) -> IO[bytes] | None:
    try:
        return io.BytesIO(zlib.decompressobj().decompress(data, _MAX_SIZE))
    except zlib.error:
        return None  # two bytes that only look like a zlib header


def _read_whole(file: IO[bytes]) -> bytes:
    try:
        with file:
            return _limited(file)
    except Unreadable:
        raise
    except _DAMAGE as error:
        raise Unreadable(f"it cannot be decompressed: {error}") from error


def _limited(file: IO[bytes]) -> bytes:
    content = file.read(_MAX_SIZE + 1)
    if len(content) > _MAX_SIZE:
        raise Unreadable(f"it holds more than {_MAX_SIZE >> 30} GiB")
    return content


def _after_numpy_header(data: bytes) -> int:
    """Where the data of an ``.npy`` file begins (numpy's ``lib/format.py``); its end where it holds no objects."""
    width = 2 if data[6:7] == b"\x01" else 4
    begin = 8 + width
    end = begin + int.from_bytes(data[8:begin], "little")
    return end if b"O" in data[begin:end] else len(data)
