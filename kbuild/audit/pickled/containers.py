"""Opens what files are packed in, by their content: compression, zip, tar. What is damaged is read as far as it goes.

A loader of pickles stops reading at their end. So a wrong checksum, a flag that says "encrypted", bytes before or after
the archive, or another name in its directory keep a scanner out, and not the loader: none of them counts here.
Formats: RFC 1950, 1952; PKWARE's APPNOTE.TXT 4.3.7; RFC 8878; POSIX.1 "ustar Interchange Format".
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import zstandard

from kbuild.audit.pickled.effort import Effort, TooMuch, Unreadable

# Bytes that are given to a reader at once: 128 MiB may come out of so many (zstd), and what only looks like a beginning
# ends there.
_CHUNK = 1 << 12
# What only looks like a beginning is rare (gzip's: 32 in 2**32 places), and each takes time to see through.
_ATTEMPTS = 64
_LOCAL = struct.Struct("<4s5H3I2H")
_ZIP = b"PK\x03\x04"
_ANY_ZIP = re.compile(rb"PK(?:\x03\x04|\x01\x02|\x07\x08|\x05\x06)")
_OVERLAPPING = 4  # how often the bytes of an archive may be read because its directory says so
_DESCRIPTOR, _ENCRYPTED = 0x08, 0x01
_STORED = 0
_DAMAGE = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error, zstandard.ZstdError, tarfile.TarError)
_CLOSED = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x89LZO\x00": "lzo", b"BLOSC": "blosc"}
# gzip, bz2, xz, zstd and lz4, by what random bytes seldom are.
PACKED = re.compile(rb"\x1f\x8b\x08[\0-\x1f]|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18")
_ZFILE = 21  # bytes of its header
_ZSTD_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What was packed; ``fault`` tells that it is not all there."""

    name: str
    data: bytes
    fault: str | None = None


def open_container(data: bytes, effort: Effort) -> Iterator[Part]:
    """What is in ``data``, nothing where it is no container. Raises Unreadable for what is not opened, or TooMuch."""
    for part in _parts(data, effort):
        effort.open()
        yield part


def _parts(data: bytes, effort: Effort) -> Iterator[Part]:
    for magic, name in _CLOSED.items():
        if data.startswith(magic):
            raise Unreadable(f"it is packed with {name}, which is not opened")
    if _ZIP in data:
        yield from _zip_members(data, effort)
        yield from _otherwise_packed(data, effort)
    if is_tar(data):
        yield from _tar_members(data, effort)
        return
    opened = _decompress(_after_zfile_header(data), effort)
    if opened is not None:
        yield opened[0]
    yield from _packed_later(data, 1 if opened is None else len(data) - opened[1], effort)


def _after_zfile_header(data: bytes) -> bytes:
    """joblib's oldest format (``numpy_pickle_compat.py``): ZF, the size in hexadecimal figures, a zlib stream."""
    if not data.startswith(b"ZF0x"):
        return data
    return data[_ZFILE + (data[_ZFILE : _ZFILE + 1] == b" ") :]


def _packed_later(data: bytes, begin: int, effort: Effort) -> Iterator[Part]:
    """Compressed data after something else, which a loader passes over."""
    for number, match in enumerate(PACKED.finditer(data, begin)):
        if number == _ATTEMPTS:
            raise Unreadable(f"compressed data may begin in more than {_ATTEMPTS} places of it: not all are tried")
        try:
            part = _decompress(data[match.start() :], effort)
        except TooMuch:
            raise
        except Unreadable:
            continue  # bytes that only look like a beginning
        if part is not None and part[0].data:
            yield Part(name=f"@{match.start()}", data=part[0].data)


def is_tar(data: bytes) -> bool:
    """By the checksum of its first header, which all tar formats have."""
    if len(data) < tarfile.BLOCKSIZE:
        return False
    try:
        tarfile.TarInfo.frombuf(data[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar_members(data: bytes, effort: Effort) -> Iterator[Part]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield Part(name=f"!{member.name}", data=_taken(content.read(effort.left + 1), effort))
            end = tar.offset
    except Unreadable:
        raise
    except _DAMAGE as error:
        raise Unreadable(f"the archive cannot be read: {error}") from error
    yield from _packed_later(data, end, effort)


def _zip_members(data: bytes, effort: Effort) -> Iterator[Part]:
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
                yield Part(name=f"!{name}", data=b"", fault="it says that it is encrypted")
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
                yield Part(name=f"!{name}", data=_taken(data[begin:end], effort))
                after = max(begin, end)
        at = data.find(_ZIP, max(after, at + 4))


def _otherwise_packed(data: bytes, effort: Effort) -> Iterator[Part]:
    """Members whose own header and the directory tell different methods: zipfile believes the directory."""
    if data.count(b"PK\x01\x02") > effort.parts:
        raise TooMuch("the directory of its archive is endless")  # it would be held as objects
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            members = opened.infolist()
    except (*_DAMAGE, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return  # the members were read by their own headers
    left = _OVERLAPPING * len(data)
    for member in members:
        at = member.header_offset
        if not 0 <= at <= len(data) - _LOCAL.size or data[at : at + 4] != _ZIP:
            continue
        _, _, _, method, _, _, _, _, _, name_size, extra = _LOCAL.unpack_from(data, at)
        begin = at + _LOCAL.size + name_size + extra
        content = memoryview(data)[begin : begin + member.compress_size]
        if method != member.compress_type:
            left -= len(content)
            if left < 0:
                raise TooMuch("its directory names the same bytes again and again")
        if method != member.compress_type and member.compress_type != _STORED:
            yield _inflate(f"!{member.filename}", member.compress_type, content, effort)[0]
        elif method != member.compress_type:
            yield Part(name=f"!{member.filename}", data=_taken(bytes(content), effort))


def _next_zip(data: bytes, begin: int) -> int:
    found = _ANY_ZIP.search(data, begin)
    return len(data) if found is None else found.start()


def _inflate(name: str, method: int, content: memoryview, effort: Effort) -> tuple[Part, int]:
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
            return Part(name=name, data=b"", fault=f"it cannot be decompressed: {error}"), 0
        content = content[4 + size :]
    elif method == 93:
        make = zstandard.ZstdDecompressor().decompressobj
    else:
        return Part(name=name, data=b"", fault=f"it is packed by method {method}, which is not opened"), 0
    data, fault, rest = _run(make, content, effort)
    return Part(name=name, data=data, fault=fault), len(content) - rest


def is_zlib(data: bytes) -> bool:
    """Whether it begins as a zlib stream of any window (RFC 1950): one of 500 beginnings does."""
    return len(data) > 5 and data[0] & 0x0F == 8 and data[0] <= 0x78 and int.from_bytes(data[:2], "big") % 31 == 0


def _decompress(data: bytes, effort: Effort) -> tuple[Part, int] | None:
    """What comes out, and how many bytes are left after it; None for what is not compressed."""
    make: Callable[[], Any] | None = None
    sure = True
    if data.startswith(b"\x1f\x8b"):
        make = partial(zlib.decompressobj, 31)
    elif data.startswith(b"BZh"):
        make = bz2.BZ2Decompressor
    elif data.startswith((b"\xfd7zXZ\x00", b"]\x00")):
        make = lzma.LZMADecompressor
    elif data.startswith(b"\x28\xb5\x2f\xfd") or _ZSTD_SKIPPED.match(data):
        make = zstandard.ZstdDecompressor().decompressobj
        data = _without_skipped(data)
    elif data.startswith(b"\x04\x22\x4d\x18"):
        make = _lz4()
    elif is_zlib(data):
        make, sure = zlib.decompressobj, False
    if make is None:
        return None
    whole, fault, view = io.BytesIO(), None, memoryview(data)
    rest = len(data)
    while rest:
        effort.open()  # of frames that hold nothing there may be any number
        piece, fault, rest = _run(make, view[len(data) - rest :], effort)
        whole.write(piece)
        if fault is not None or view[len(data) - rest :][:2] != data[:2]:
            break
    content = whole.getvalue()
    if not sure and (fault is not None or not content):
        return None  # two bytes that only look like a zlib header
    if not content and fault is not None:
        raise Unreadable(f"it cannot be decompressed: {fault}")
    return Part(name="", data=content, fault=fault), rest


def _run(make: Callable[[], Any], view: memoryview, effort: Effort) -> tuple[bytes, str | None, int]:
    """What it gives, why it is not whole, and how many bytes it left.

    Given in pieces, the last one byte by byte where it is damaged: what came before a wrong checksum counts.
    """
    found, reader = io.BytesIO(), make()
    at = 0
    while at < len(view):
        end = min(len(view), at + _CHUNK)
        try:
            _write(found, reader.decompress(bytes(view[at:end])), effort)
        except Unreadable:
            raise
        except _DAMAGE as error:
            reader = make()
            found = io.BytesIO()
            with contextlib.suppress(*_DAMAGE):
                found.write(reader.decompress(bytes(view[:at])))
                for one in range(at, end):
                    found.write(reader.decompress(bytes(view[one : one + 1])))
            return found.getvalue(), str(error) or type(error).__name__, 0
        if reader.eof:
            return found.getvalue(), None, len(reader.unused_data or b"") + len(view) - end
        at = end
    return found.getvalue(), "it has no proper end", 0


def _without_skipped(data: bytes) -> bytes:
    """zstd's skippable frames carry nothing (RFC 8878, 3.1.2)."""
    at = 0
    while _ZSTD_SKIPPED.match(data, at):
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    return data[at:]


def _lz4() -> Callable[[], Any]:
    try:
        from lz4.frame import LZ4FrameDecompressor  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise Unreadable("it is compressed with lz4, which is not installed here (pip install lz4)") from error
    made: Callable[[], Any] = LZ4FrameDecompressor
    return made


def _write(file: io.BytesIO, data: bytes, effort: Effort) -> None:
    effort.expand(len(data))
    file.write(data)


def _taken(data: bytes, effort: Effort) -> bytes:
    effort.expand(len(data))
    return data
