from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.errors import OutputError
from kbuild.image.engine import EngineOutput, RawLayer
from kbuild.image.oci.layout import read_manifest
from kbuild.image.oci.media import Compression
from kbuild.image.oci.tarball import FILE, Entry, tar_chunks
from kbuild.image.store.pack import PACKED_BY, pack, packing, replacing
from kbuild.progress import Silent

# Of 2 MB that both compressors have work with: words by a linear congruential generator, zeros, and noise.
DIGESTS = {"none": "4a4ff90ad372db55", "gzip": "776a09e9a17e0b8a", "zstd": "50c217b6b5287bc2"}


def sample() -> bytes:
    state, words = 1, []
    for _ in range(200_000):
        state = (state * 1103515245 + 12345) % 2**31
        words.append(b"%x" % (state >> 19))
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(10_000))
    return b" ".join(words) + bytes(300_000) + noise


@dataclass(frozen=True)
class Layer:
    name: bytes
    content: bytes

    def chunks(self) -> Iterator[bytes]:
        return tar_chunks([Entry(name=self.name, kind=FILE, mode=0o644, size=len(self.content), source=self.content)])


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_the_packers_bytes_are_the_same_for_ever(tmp_path: Path, compression: Compression) -> None:
    """With zstandard 0.23 and zlib-ng this fails, as it must; another packer's bytes need another recipe."""
    layers = tuple(RawLayer(content=Layer(name, sample() + name), created_by="COPY") for name in (b"one", b"two"))
    output = EngineOutput(layers=layers, config={"Env": ["A=b"]})
    image = pack(output, EMPTY, tmp_path / "image", engine="x", progress=Silent(), compression=compression)
    assert image.digest.hex[:16] == DIGESTS[compression]


def test_the_largest_layers_are_packed_first_and_stay_in_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.image.store.pack._WORKERS", 1)
    read = []

    class Noted(Layer):
        def chunks(self) -> Iterator[bytes]:
            read.append(self.name)
            return super().chunks()

    layers = [
        RawLayer(content=Noted(name, b"x" * size), created_by=name.decode(), size=size)
        for name, size in ((b"small", 1), (b"large", 3), (b"middle", 2))
    ]
    output = EngineOutput(layers=tuple(layers), config={})
    image = pack(output, EMPTY, tmp_path / "image", engine="x", progress=Silent(), compression="none")
    assert read == [b"large", b"middle", b"small"]
    assert [layer.created_by for layer in image.layers] == ["small", "large", "middle"]


def test_the_manifest_says_who_packed_it(tmp_path: Path) -> None:
    output = EngineOutput(layers=(), config={})
    image = pack(output, EMPTY, tmp_path / "image", engine="x", progress=Silent(), compression="zstd")
    stated = dict(read_manifest(image.layout, image.digest).annotations)[PACKED_BY]
    assert stated == packing("zstd") == "libzstd 1.5.7, level 3; packer 1.1"
    config = json.loads((image.layout / "blobs/sha256" / image.config_digest.hex).read_bytes())
    assert PACKED_BY not in json.dumps(config)


def test_a_layout_that_cannot_be_replaced_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/file").write_text("before")

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="No space left"), replacing(tmp_path / "layout") as folder:
        (folder / "file").write_text("after")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["layout", "layout/file"]
    assert (tmp_path / "layout/file").read_text() == "before"
