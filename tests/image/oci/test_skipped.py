"""Frames that are skipped, among those that zstandard writes: with and without their sizes and checksums."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import zstandard

from kbuild.image.oci.skipped import skipped_bytes

CONTENTS = [b"", b"a", b"\0" * 3_000_000, os.urandom(400_000), b"some words of it " * 60_000, bytes(70_000)]


def skipped(size: int, number: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + number, size) + bytes(size)


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("level", [1, 3, 19])
def test_skipped_frames_are_counted_wherever_they_lie(tmp_path: Path, level: int, sized: bool, checksum: bool) -> None:
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=sized)
    frames = [compressor.compress(each) for each in CONTENTS]
    frames += [(stream := compressor.compressobj()).compress(CONTENTS[3]) + stream.flush()]
    blob = tmp_path / "blob"
    blob.write_bytes(b"".join(frames))
    assert skipped_bytes(blob) == 0
    blob.write_bytes(skipped(5) + b"".join(each + skipped(3, 15) for each in frames))
    assert skipped_bytes(blob) == 13 + 11 * len(frames)


def test_what_is_no_zstd_or_ends_early_is_read_to_there(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    for data in (b"", b"abc", b"\x1f\x8b\x08\0", zstandard.compress(CONTENTS[3])[:1000]):
        blob.write_bytes(data)
        assert skipped_bytes(blob) == 0
    blob.write_bytes(skipped(4) + b"what follows")
    assert skipped_bytes(blob) == 12
