"""Opens what is compressed as one stream, by its content. What is damaged is read as far as it goes.

Formats: RFC 1950, 1951, 1952; RFC 8878; lz4's frame format.
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
_ZSTD_SKIPPED = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedPart:
    """What was packed; ``fault`` tells that it is not all there."""

    name: str
    data: bytes
    fault: str | None = None


def is_zlib(data: bytes) -> bool:
    """Whether it begins as a zlib stream of any window (RFC 1950): one of 500 beginnings does."""
    return len(data) > 5 and data[0] & 0x0F == 8 and data[0] <= 0x78 and int.from_bytes(data[:2], "big") % 31 == 0


def decompress(data: bytes, effort: Effort) -> tuple[PackedPart, int] | None:
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
        piece, fault, rest = run(make, view[len(data) - rest :], effort)
        whole.write(piece)
        if fault is not None or view[len(data) - rest :][:2] != data[:2]:
            break
    content = whole.getvalue()
    if not sure and (fault is not None or not content):
        return None  # two bytes that only look like a zlib header
    if not content and fault is not None:
        raise Unreadable(f"it cannot be decompressed: {fault}")
    return PackedPart(name="", data=content, fault=fault), rest


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


def taken(data: bytes, effort: Effort) -> bytes:
    effort.expand(len(data))
    return data
