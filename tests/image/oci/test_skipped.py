"""Frames that are skipped, among those that zstandard writes: with and without their sizes and checksums; and what
gzip's own program and Python's module write into headers."""

from __future__ import annotations

import gzip
import io
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
    assert skipped_bytes(blob, "zstd") == 0
    blob.write_bytes(skipped(5) + b"".join(each + skipped(3, 15) for each in frames))
    assert skipped_bytes(blob, "zstd") == 13 + 11 * len(frames)


def test_what_is_no_zstd_or_ends_early_is_read_to_there(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    for data in (b"", b"abc", b"\x1f\x8b\x08\0", zstandard.compress(CONTENTS[3])[:1000]):
        blob.write_bytes(data)
        assert skipped_bytes(blob, "zstd") == 0
    blob.write_bytes(skipped(4) + b"what follows")
    assert skipped_bytes(blob, "zstd") == 12


def packed(content: bytes, name: str = "") -> bytes:
    """As Python writes it: with the name of a file, where it has one."""
    data = io.BytesIO()
    with gzip.GzipFile(name, "wb", fileobj=data, mtime=0) as file:
        file.write(content)
    return data.getvalue()


def with_extra(member: bytes, extra: bytes) -> bytes:
    return member[:3] + bytes([member[3] | 4]) + member[4:10] + struct.pack("<H", len(extra)) + extra + member[10:]


def test_what_headers_of_gzip_hold_is_counted_in_each_member(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    plain = [packed(each) for each in CONTENTS]
    blob.write_bytes(b"".join(plain))
    assert gzip.decompress(blob.read_bytes()) == b"".join(CONTENTS) and skipped_bytes(blob, "gzip") == 0
    # A name of 4 letters with its zero, and an extra field of 7 bytes behind its length.
    held = [with_extra(packed(each, "name"), b"pickled") for each in CONTENTS]
    blob.write_bytes(plain[3] + b"".join(held))
    assert gzip.decompress(blob.read_bytes()) == CONTENTS[3] + b"".join(CONTENTS)
    assert skipped_bytes(blob, "gzip") == (5 + 2 + 7) * len(held)


def test_what_is_no_gzip_or_ends_early_is_read_to_there(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    for data in (b"", b"abc", packed(CONTENTS[3])[:1000], b"\x1f\x8b\x08\x08" + bytes(6) + b"endless"):
        blob.write_bytes(data)
        assert skipped_bytes(blob, "gzip") in (0, len(b"endless"))
