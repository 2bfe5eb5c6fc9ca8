"""Opens what is compressed as one stream, by its content. What is damaged is read as far as it goes.

Formats: RFC 1950, 1951, 1952; RFC 8878; lz4's frame format; xz's file format 1.2.1 and its ``lzma-file-format.txt``.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import zstandard

from kbuild.audit.pickled.effort import Effort, Unreadable

# Bytes that are given to a reader at once: 128 MiB may come out of so many (zstd), and what only looks like a beginning
# ends there.
_CHUNK = 1 << 12
# RuntimeError is lz4's.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    lzma.LZMAError,
    zlib.error,
    zstandard.ZstdError,
    tarfile.TarError,
)
# gzip, bz2, xz, zstd and lz4, by what random bytes seldom are.
PACKED = re.compile(rb"\x1f\x8b\x08[\0-\x1f]|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18")
# A frame that carries nothing for readers of zstd and lz4 (RFC 8878, 3.1.2): what anybody has put there.
_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_ZERO = re.compile(rb"\0*+")
_ALONE = 13  # bytes of the header of LZMA's oldest format: properties, size of the dictionary, size of the content
_PROPERTIES, _LONGEST, _UNKNOWN = 225, 1 << 38, (1 << 64) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedPart:
    """What was packed; ``fault`` tells that it is not all there."""

    name: str
    data: bytes
    fault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What came out of the frames that follow each other, and the frames between them that readers skip, by their
    places. ``rest`` bytes come after all of them. ``sure`` tells that it is compressed, and may be nothing else."""

    part: PackedPart
    skipped: tuple[tuple[int, bytes], ...]
    rest: int
    sure: bool


def is_zlib(data: bytes) -> bool:
    """Whether it begins as a zlib stream of any window (RFC 1950): one of 500 beginnings does."""
    return len(data) > 5 and data[0] & 0x0F == 8 and data[0] <= 0x78 and int.from_bytes(data[:2], "big") % 31 == 0


def is_lzma_alone(data: bytes, at: int = 0) -> bool:
    """Whether LZMA's oldest format may begin there, which has no sign: by its sizes and a zero."""
    if data[at + _ALONE : at + _ALONE + 1] != b"\0" or data[at] >= _PROPERTIES:
        return False
    size = int.from_bytes(data[at + 5 : at + _ALONE], "little")
    return size == _UNKNOWN or size < _LONGEST


def decompress(data: bytes, effort: Effort) -> Opened | None:
    """None for what is not compressed. Frames of one file may be of several formats, with zeros between them: each
    reader takes some of that for one content."""
    whole, fault, view = io.BytesIO(), None, memoryview(data)
    skipped: list[tuple[int, bytes]] = []
    at, sure, frames = 0, False, 0
    while at < len(data) and fault is None:
        effort.open()  # of frames that hold nothing there may be any number
        if _SKIPPED.match(data, at):
            begin = at + 8
            at = min(begin + int.from_bytes(data[at + 4 : begin], "little"), len(data))
            skipped.append((begin, taken(data[begin:at], effort)))
            sure = True
            continue
        end = _ZERO.match(data, at).end() if frames else at  # type: ignore[union-attr]  # it matches nothing, too
        make, known = _reader(data, end)
        if make is None:
            at = end
            break
        piece, fault, rest = run(make, view[end:], effort)
        if not known and (fault is not None or not (piece or frames)):
            fault, at = None, end
            break  # bytes that only look like a beginning
        whole.write(piece)
        at, sure, frames = len(data) - rest, sure or known, frames + 1
    content = whole.getvalue()
    if not sure and not content:
        return None
    if not content and fault is not None and not skipped:
        raise Unreadable(f"it cannot be decompressed: {fault}")
    part = PackedPart(name="", data=content, fault=fault)
    return Opened(part=part, skipped=tuple(skipped), rest=len(data) - at, sure=sure)


def _reader(data: bytes, at: int) -> tuple[Callable[[], Any] | None, bool]:
    """What reads the frame that begins there, and whether that is sure."""
    if data.startswith(b"\x1f\x8b", at):
        return partial(zlib.decompressobj, 31), True
    if data.startswith(b"BZh", at):
        return bz2.BZ2Decompressor, True
    if data.startswith((b"\xfd7zXZ\x00", b"]\x00"), at):
        return lzma.LZMADecompressor, True
    if data.startswith(b"\x28\xb5\x2f\xfd", at):
        return zstandard.ZstdDecompressor().decompressobj, True
    if data.startswith(b"\x04\x22\x4d\x18", at):
        return _lz4(), True
    if is_zlib(data[at : at + 6]):
        return zlib.decompressobj, False
    if at < len(data) and is_lzma_alone(data, at):
        return partial(lzma.LZMADecompressor, lzma.FORMAT_ALONE), False
    return None, False


def may_inflate(data: bytes) -> bool:
    """Whether ``inflate_alone`` may give something, told from the beginning."""
    reader = zlib.decompressobj(-15)
    try:
        reader.decompress(data[:_CHUNK], _CHUNK)
    except zlib.error:
        return False
    # Of what gives more than it is read at once, the end is not seen here.
    return bool(data) and (
        len(data) > _CHUNK or bool(reader.unconsumed_tail) or (reader.eof and not reader.unused_data)
    )


def inflate_alone(data: bytes, effort: Effort) -> bytes | None:
    """What a DEFLATE stream gives that stands alone (RFC 1951). It has no sign to be known by: only what is one from
    its first byte to its last is."""
    if not may_inflate(data):
        return None
    content, fault, rest = run(partial(zlib.decompressobj, -15), memoryview(data), effort)
    return content if content and fault is None and not rest else None


def run(make: Callable[[], Any], view: memoryview, effort: Effort) -> tuple[bytes, str | None, int]:
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
        except DAMAGE as error:
            reader = make()
            found = io.BytesIO()
            with contextlib.suppress(*DAMAGE):
                found.write(reader.decompress(bytes(view[:at])))
                for one in range(at, end):
                    found.write(reader.decompress(bytes(view[one : one + 1])))
            return found.getvalue(), str(error) or type(error).__name__, 0
        if reader.eof:
            return found.getvalue(), None, len(reader.unused_data or b"") + len(view) - end
        at = end
    return found.getvalue(), "it has no proper end", 0


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


def taken(data: bytes, effort: Effort) -> bytes:
    effort.expand(len(data))
    return data
