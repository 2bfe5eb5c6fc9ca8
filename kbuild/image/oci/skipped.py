"""Bytes of a layer that every reader skips: frames of zstd (RFC 8878, 3.1.2), and what gzip's headers may hold
(RFC 1952, 2.3). What anybody has put there is in no file of it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import BinaryIO

from kbuild.image.oci.media import Compression

_SKIPPED, _SKIPPED_MASK, _FRAME = 0x184D2A50, 0xFFFFFFF0, 0xFD2FB528
_DICTIONARY, _CONTENT = (0, 1, 2, 4), (0, 2, 4, 8)  # bytes of their fields, by the frame's flags
_REPEATED = 1  # a block that is one byte, so many times
_GZIP = b"\x1f\x8b"
_SUM, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16  # gzip's flags of a header
_TRAILER = 8
_READ = 1 << 20


def skipped_bytes(blob: Path, compression: Compression) -> int:
    """How many bytes of a packed layer no reader gives; of what is not packed so no more is counted. Raises OSError.

    Of zstd the headers of blocks are read alone, gzip is unpacked.
    """
    with blob.open("rb") as file:
        if compression == "gzip":
            return _of_gzip(file)
        return _of_zstd(file) if compression == "zstd" else 0


def _of_zstd(file: BinaryIO) -> int:
    found = 0
    while len(magic := file.read(4)) == 4:
        number = int.from_bytes(magic, "little")
        if number & _SKIPPED_MASK == _SKIPPED:
            size = int.from_bytes(file.read(4), "little")
            file.seek(size, 1)
            found += 8 + size
        elif number != _FRAME or not _pass(file):
            break
    return found


def _of_gzip(file: BinaryIO) -> int:
    found = 0
    while (start := file.read(10))[:2] == _GZIP and len(start) == 10:
        began, flags = file.tell(), start[3]
        if flags & _EXTRA:
            file.seek(int.from_bytes(file.read(2), "little"), 1)
        for flag in (_NAME, _COMMENT):
            while flags & flag and file.read(1) not in (b"\0", b""):
                pass
        file.seek(2 if flags & _SUM else 0, 1)
        found += file.tell() - began
        if not _pass_deflated(file):
            break
    return found


def _pass_deflated(file: BinaryIO) -> bool:
    """Go to the end of a member; False where it has none."""
    reader = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = b""
    try:
        while not reader.eof:
            rest = reader.unconsumed_tail or file.read(_READ)
            if not rest:
                return False
            reader.decompress(rest, _READ)
    except zlib.error:
        return False
    file.seek(_TRAILER - len(reader.unused_data), 1)
    return True


def _pass(file: BinaryIO) -> bool:
    """Go to the end of a frame, by the headers of its blocks (RFC 8878, 3.1.1)."""
    flags = int.from_bytes(file.read(1), "little")
    alone = flags >> 5 & 1
    size = _CONTENT[flags >> 6] or alone
    file.seek((1 - alone) + _DICTIONARY[flags & 3] + size, 1)
    while len(header := file.read(3)) == 3:
        block = int.from_bytes(header, "little")
        file.seek(1 if block >> 1 & 3 == _REPEATED else block >> 3, 1)
        if block & 1:
            file.seek(4 if flags & 4 else 0, 1)
            return True
    return False
