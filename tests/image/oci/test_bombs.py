"""Layers that were made to be unpacked for ever, and members that take long by their number."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kbuild.errors import InvalidImage
from kbuild.image.oci import compress


def test_a_layer_that_stands_for_too_much_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "_PLENTY", 1 << 20)
    layer = tmp_path / "layer"
    layer.write_bytes(gzip.compress(bytes(8 << 20)))
    size = 0
    with pytest.raises(InvalidImage, match="layer layer cannot be read: a few bytes of it stand for over 1 MiB"):
        for chunk in compress.read_layer(layer, "gzip"):
            size += len(chunk)
    assert size <= 1 << 20


def test_a_layer_of_what_shrinks_well_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "_PLENTY", 1 << 20)
    layer, text = tmp_path / "layer", b"".join(b"%d," % number for number in range(400_000))
    layer.write_bytes(gzip.compress(text))
    assert b"".join(compress.read_layer(layer, "gzip")) == text


@pytest.mark.parametrize("piece", [1, 511, 513, 1 << 20])
def test_members_are_the_same_however_the_bytes_come(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "_BUFFER", 1 << 12)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for size in (0, 1, 512, 20_000):
            member = tarfile.TarInfo(f"f{size}")
            member.size = size
            archive.addfile(member, io.BytesIO(bytes([size % 251]) * size))
    whole = data.getvalue()

    def chunks() -> Iterator[bytes]:
        yield b""  # as a gzip's header gives
        for start in range(0, len(whole), piece):
            yield whole[start : start + piece]
            yield b""

    with compress.open_layer(chunks()) as opened:
        found = {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]
    assert found == {f"f{size}": bytes([size % 251]) * size for size in (0, 1, 512, 20_000)}
