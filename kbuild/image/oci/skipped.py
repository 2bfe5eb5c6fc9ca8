"""Frames of a layer that every reader skips (RFC 8878, 3.1.2): what anybody has put there is in no file of it."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_SKIPPED, _SKIPPED_MASK, _FRAME = 0x184D2A50, 0xFFFFFFF0, 0xFD2FB528
_DICTIONARY, _CONTENT = (0, 1, 2, 4), (0, 2, 4, 8)  # bytes of their fields, by the frame's flags
_REPEATED = 1  # a block that is one byte, so many times


def skipped_bytes(blob: Path) -> int:
    """How many bytes of a zstd file lie in such frames; of what is none no more is counted. Raises OSError."""
    found = 0
    with blob.open("rb") as file:
        while len(magic := file.read(4)) == 4:
            number = int.from_bytes(magic, "little")
            if number & _SKIPPED_MASK == _SKIPPED:
                size = int.from_bytes(file.read(4), "little")
                file.seek(size, 1)
                found += 8 + size
            elif number != _FRAME or not _pass(file):
                break
    return found


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
