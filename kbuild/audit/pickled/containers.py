"""Opens what files are packed in, by their content: compression, zip, tar. What is damaged is read as far as it goes.

A loader of pickles stops reading at their end. So a wrong checksum, a flag that says "encrypted", bytes before or after
the archive, or another name in its directory keep a scanner out, and not the loader: none of them counts here.
Formats: RFC 1950, 1952; PKWARE's APPNOTE.TXT 4.3.7; RFC 8878; POSIX.1 "ustar Interchange Format";
SQLite's fileformat2.html.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import itertools
import lzma
import re
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import zstandard

from kbuild.audit.pickled.compressed import (
    DAMAGE,
    PACKED,
    Opened,
    PackedPart,
    decompress,
    inflate_alone,
    run,
    taken,
)
from kbuild.audit.pickled.effort import Effort, TooMuch, Unreadable

# What only looks like a beginning is rare (gzip's: 32 in 2**32 places), and each takes time to see through.
_ATTEMPTS = 64
_LOCAL = struct.Struct("<4s5H3I2H")
_ZIP = b"PK\x03\x04"
_ANY_ZIP = re.compile(rb"PK(?:\x03\x04|\x01\x02|\x07\x08|\x05\x06)")
_OVERLAPPING = 4  # how often the bytes of an archive may be read because its directory says so
_DESCRIPTOR, _ENCRYPTED, _UTF_8 = 0x08, 0x01, 0x800
_STORED = 0
_CLOSED = {
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x89LZO\x00": "lzo", b"BLOSC": "blosc",
    b"\x9e\xa8b2frame\0": "blosc2", b"LZIP\x01": "lzip", b"LRZI\0": "lrzip", b"zPQ": "zpaq", b"MSCF\0\0\0\0": "cab",
    b"\xff\x06\0\0sNaPpY": "snappy", b"\xce\xb2\xcf\x81": "brotli", b"xar!\0\x1c\0": "xar",
    b"\x02\x21\x4c\x18": "lz4 of its oldest format",
    **dict.fromkeys((bytes([n]) + b"\xb5\x2f\xfd" for n in (0x1E, *range(0x22, 0x28))), "zstd of before 0.8"),
    **dict.fromkeys((b"\x1f\x9d" + bytes([0x80 | bits]) for bits in range(9, 17)), "compress"),
}  # fmt: skip
_STEPS = 50_000  # thousands of steps of SQLite's machine
_SQLITE = b"SQLite format 3\0"
_ZFILE = 21  # bytes of its header


def open_container(data: bytes, effort: Effort) -> Iterator[PackedPart]:
    """What is in ``data``, nothing where it is no container. Raises Unreadable for what is not opened, or TooMuch."""
    for part in _parts(data, effort):
        effort.open()
        yield part


def _parts(data: bytes, effort: Effort) -> Iterator[PackedPart]:
    for magic, name in _CLOSED.items():
        if data.startswith(magic):
            raise Unreadable(f"it is packed with {name}, which is not opened")
    if _ZIP in data:
        yield from _zip_members(data, effort)
        yield from _otherwise_packed(data, effort)
    if data.startswith(_SQLITE):
        yield from _overflowing(data, effort)
    if is_tar(data):
        yield from _tar_members(data, effort)
        return
    content = _after_zfile_header(data)
    opened = decompress(content, effort)
    if opened is not None:
        yield opened.part
        yield from _apart(content, opened)
        if opened.sure:
            return
    elif _ZIP not in data:
        alone = inflate_alone(data, effort)
        if alone is not None:
            yield PackedPart(name="", data=alone)
    yield from _packed_later(data, 1, effort)


def _apart(data: bytes, opened: Opened) -> Iterator[PackedPart]:
    """What readers of the frames pass over, each as a file of its own."""
    for place, content in opened.skipped:
        yield PackedPart(name=f"@{place}", data=content)
    if opened.rest:
        place = len(data) - opened.rest
        yield PackedPart(name=f"@{place}", data=data[place:])


def _after_zfile_header(data: bytes) -> bytes:
    """joblib's oldest format (``numpy_pickle_compat.py``): ZF, the size in hexadecimal figures, a zlib stream."""
    if not data.startswith(b"ZF0x"):
        return data
    return data[_ZFILE + (data[_ZFILE : _ZFILE + 1] == b" ") :]


def _packed_later(data: bytes, begin: int, effort: Effort) -> Iterator[PackedPart]:
    """Compressed data after something else, which a loader passes over."""
    for number, match in enumerate(PACKED.finditer(data, begin)):
        if number == _ATTEMPTS:
            raise Unreadable(f"compressed data may begin in more than {_ATTEMPTS} places of it: not all are tried")
        try:
            opened = decompress(data[match.start() :], effort)
        except TooMuch:
            raise
        except Unreadable:
            continue  # bytes that only look like a beginning
        if opened is not None:
            if opened.part.data:
                yield PackedPart(name=f"@{match.start()}", data=opened.part.data)
            yield from (PackedPart(name=f"@{match.start() + place}", data=each) for place, each in opened.skipped)


def is_tar(data: bytes) -> bool:
    """By the checksum of its first header, which all tar formats have."""
    if len(data) < tarfile.BLOCKSIZE:
        return False
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar_members(data: bytes, effort: Effort) -> Iterator[PackedPart]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                # What is of no type that it knows is a file to it.
                is_file = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
                content = tar.extractfile(member) if is_file else None
                if content is not None:
                    yield PackedPart(name=f"!{member.name}", data=taken(content.read(effort.left + 1), effort))
            end = tar.offset
    except Unreadable:
        raise
    except DAMAGE as error:
        raise Unreadable(f"the archive cannot be read: {error}") from error
    rest = data[end:].lstrip(b"\0")
    if rest:
        yield PackedPart(name=f"@{len(data) - len(rest)}", data=taken(rest, effort))


def _overflowing(data: bytes, effort: Effort) -> Iterator[PackedPart]:
    """Values of SQLite that do not fit into a page, which it cuts (``fileformat2.html``, 1.6); others lie there whole.

    Of a database that others wrote only its own tables are read, and nothing that its schema would have called.
    """
    size = int.from_bytes(data[16:18], "big")
    least = (65_536 if size == 1 else size) - int.from_bytes(data[20:21], "big") - 35
    left = len(data)
    with contextlib.closing(sqlite3.connect(":memory:")) as opened:
        opened.text_factory = bytes
        # What its schema has computed is bounded: the size of a value, and the steps of all.
        opened.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(len(data), 1 << 20))
        steps = itertools.count()
        opened.set_progress_handler(lambda: next(steps) >= _STEPS, 1000)
        try:
            # A journal of the other kind would be looked for in another file.
            opened.deserialize(data[:18] + b"\1\1" + data[20:])
            opened.execute("PRAGMA trusted_schema = OFF")
            opened.execute("PRAGMA query_only = ON")
            wanted = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0"
            for (name,) in opened.execute(wanted).fetchall():
                table = name.replace(b'"', b'""').decode("utf-8", "surrogateescape")
                for row in opened.execute(f'SELECT * FROM "{table}"'):  # noqa: S608  a name, quoted
                    values = [each for each in row if isinstance(each, bytes)]
                    left -= sum(map(len, values))
                    if left < 0:
                        raise TooMuch("its tables have values that are not in it")
                    if sum(map(len, values)) + 9 * len(row) > least:
                        yield from (PackedPart(name=f"!{table}", data=taken(each, effort)) for each in values)
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            raise Unreadable(f"SQLite does not read it: {error}") from error


def _zip_members(data: bytes, effort: Effort) -> Iterator[PackedPart]:
    """Every member that begins anywhere: the directory at the end may leave some out, or name them otherwise."""
    at, view, damaged = data.find(_ZIP), memoryview(data), 0
    while at >= 0:
        after = at + 4
        if at + _LOCAL.size <= len(data):
            _, _, flags, method, _, _, _, packed, _, name_size, extra = _LOCAL.unpack_from(data, at)
            begin = at + _LOCAL.size + name_size + extra
            name = data[at + _LOCAL.size : at + _LOCAL.size + name_size].decode("utf-8", "replace")
            known = not flags & _DESCRIPTOR and packed != 0xFFFFFFFF and begin + packed <= len(data)
            if flags & _ENCRYPTED:
                yield PackedPart(name=f"!{name}", data=b"", fault="it says that it is encrypted")
            if method != _STORED:
                content = view[begin : begin + packed] if known else view[begin:]
                part, used = _inflate(f"!{name}", method, content, effort)
                yield part
                # Where it ends counts, not where it says so: another member may lie there.
                after = begin if part.fault is not None else begin + used
                damaged += part.fault is not None
                if damaged > _ATTEMPTS:
                    raise TooMuch(f"more than {_ATTEMPTS} members of its archive are damaged, and not all were tried")
            else:
                end = begin + packed if known and packed else _next_zip(data, begin)
                yield PackedPart(name=f"!{name}", data=taken(data[begin:end], effort))
                after = max(begin, end)
        at = data.find(_ZIP, max(after, at + 4))


def _otherwise_packed(data: bytes, effort: Effort) -> Iterator[PackedPart]:
    """Members whose own header and the directory tell different methods or names: loaders believe the directory."""
    if data.count(b"PK\x01\x02") > effort.parts:
        raise TooMuch("the directory of its archive is endless")  # it would be held as objects
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            members = opened.infolist()
    except (*DAMAGE, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return  # the members were read by their own headers
    left = _OVERLAPPING * len(data)
    for member in members:
        at = member.header_offset
        if not 0 <= at <= len(data) - _LOCAL.size or data[at : at + 4] != _ZIP:
            continue
        _, _, _, method, _, _, _, _, _, name_size, extra = _LOCAL.unpack_from(data, at)
        begin = at + _LOCAL.size + name_size + extra
        name = data[at + _LOCAL.size : at + _LOCAL.size + name_size]
        same = method == member.compress_type and name == member.orig_filename.encode(
            "utf-8" if member.flag_bits & _UTF_8 else "cp437", "replace"
        )
        content = memoryview(data)[begin : begin + member.compress_size]
        if not same:
            left -= len(content)
            if left < 0:
                raise TooMuch("its directory names the same bytes again and again")
        if not same and member.compress_type != _STORED:
            yield _inflate(f"!{member.filename}", member.compress_type, content, effort)[0]
        elif not same:
            yield PackedPart(name=f"!{member.filename}", data=taken(bytes(content), effort))


def _next_zip(data: bytes, begin: int) -> int:
    found = _ANY_ZIP.search(data, begin)
    return len(data) if found is None else found.start()


def _inflate(name: str, method: int, content: memoryview, effort: Effort) -> tuple[PackedPart, int]:
    if method == 8:
        make: Callable[[], Any] = partial(zlib.decompressobj, -15)
    elif method == 12:
        make = bz2.BZ2Decompressor
    elif method == 14:
        size = int.from_bytes(content[2:4], "little")
        try:
            # As zipfile does: the member's properties are read by no public name.
            filters = [lzma._decode_filter_properties(lzma.FILTER_LZMA1, bytes(content[4 : 4 + size]))]  # type: ignore[attr-defined]
            make = partial(lzma.LZMADecompressor, lzma.FORMAT_RAW, filters=filters)
        except lzma.LZMAError as error:
            return PackedPart(name=name, data=b"", fault=f"it cannot be decompressed: {error}"), 0
        content = content[4 + size :]
    elif method == 93:
        make = zstandard.ZstdDecompressor().decompressobj
    else:
        return PackedPart(name=name, data=b"", fault=f"it is packed by method {method}, which is not opened"), 0
    data, fault, rest = run(make, content, effort)
    return PackedPart(name=name, data=data, fault=fault), len(content) - rest
