from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from kbuild.cache.room import keeping
from kbuild.digest import Digest, digest_bytes
from kbuild.errors import CacheTooSmall, InvalidImage
from kbuild.image.compare.contents import ImageContents, read_contents
from kbuild.image.compare.layers import read_members
from kbuild.progress import Silent

Layer = list[tuple[str, bytes | str | None]]


def tar(members: Layer) -> bytes:
    """bytes: a file; text: a hard link to it; None: a directory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.LNKTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return file.getvalue()


def make_layout(folder: Path, layers: list[Layer]) -> Digest:
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return f"sha256:{name}"

    def descriptor(data: bytes, kind: str) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": put(data), "size": len(data)}

    packed = [descriptor(gzip.compress(tar(layer), mtime=0), "layer.v1.tar+gzip") for layer in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Labels": {"a": "b"}, "Env": ["X=1=2"]},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    manifest = {
        "schemaVersion": 2,
        "config": descriptor(json.dumps(config).encode(), "config.v1+json"),
        "layers": packed,
    }
    return Digest.parse(put(json.dumps(manifest).encode()))


def read(folder: Path, digest: Digest, into: Path | None = None) -> ImageContents:
    return read_contents(
        folder,
        digest,
        folders=("opt/env", "/opt/model"),
        read=lambda *blob: read_members(*blob, lambda path: path.endswith("METADATA")),
        extract=None if into is None else ("/opt/model", into),
        progress=Silent(),
    )


def test_the_topmost_layer_counts(tmp_path: Path) -> None:
    digest = make_layout(
        tmp_path / "image",
        [
            [("opt", None), ("opt/env/a", b"1"), ("opt/env/gone", b"1"), ("opt/env/dir/x", b"1"), ("etc/x", b"r")],
            [
                ("./opt/env/a", b"2"),
                ("opt/env/.wh.gone", b""),
                ("opt/env/b", "opt/env/a"),
                ("opt/env/dir", b"now a file"),
            ],
            [("opt/model/keep", b"old"), ("opt/model/sub/old", b"old")],
            [
                ("opt/model/.wh..wh..opq", b""),
                ("opt/model/m/METADATA", b"new"),
                ("opt/model/link", "opt/model/m/METADATA"),
            ],
        ],
    )
    into = tmp_path / "model"
    contents = read(tmp_path / "image", digest, into)
    assert {path: file.digest for path, file in contents.files.items()} == {
        "opt/env/a": digest_bytes(b"2"),
        "opt/env/b": digest_bytes(b"2"),
        "opt/env/dir": digest_bytes(b"now a file"),
        "opt/model/m/METADATA": digest_bytes(b"new"),
        "opt/model/link": digest_bytes(b"new"),
    }
    assert contents.files["opt/model/m/METADATA"].data == b"new"
    assert contents.files["opt/env/a"].data is None
    assert contents.labels == {"a": "b"}
    assert contents.variable("X") == "1=2"
    assert sorted(str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()) == ["link", "m/METADATA"]
    assert (into / "link").read_bytes() == b"new"


def test_files_are_named_like_folders(tmp_path: Path) -> None:
    layer: Layer = [("etc/os-release", b"ID=debian"), ("etc/os-release.old", b"x"), ("var/lib/dpkg/status", b"y")]
    contents = read_contents(
        tmp_path / "image",
        make_layout(tmp_path / "image", [layer, [("var/lib/dpkg/.wh.status", b"")]]),
        folders=("etc/os-release", "var/lib/dpkg/status"),
        read=lambda *blob: read_members(*blob, lambda path: True),
        extract=None,
        progress=Silent(),
    )
    assert {path: file.data for path, file in contents.files.items()} == {"etc/os-release": b"ID=debian"}


class Scarce:
    """A ``Keeper`` of little room, which knows what was held at most."""

    def __init__(self, most: int) -> None:
        self.most, self.held, self.peak = most, 0, 0

    def reserve(self, size: int, ahead: int = 0) -> int:
        if self.held + size > self.most:
            raise CacheTooSmall("too small")
        self.held += size
        self.peak = max(self.peak, self.held)
        return size

    def release(self, size: int) -> None:
        self.held -= size


def test_a_model_that_is_read_out_into_a_limited_cache_takes_room_there(tmp_path: Path) -> None:
    weights = bytes(1_000_000)
    digest = make_layout(
        tmp_path / "image", [[("opt/model/a", weights), ("opt/model/b", "opt/model/a")], [("opt/model/c", weights)]]
    )
    keeper = Scarce(10_000_000)
    with keeping(tmp_path / "cache", keeper):
        read(tmp_path / "image", digest, tmp_path / "cache/audit-1/model")
    assert keeper.held == 0 and 2_000_000 <= keeper.peak < 2_100_000  # of the layer with two copies of it
    with keeping(tmp_path / "cache", Scarce(1_500_000)), pytest.raises(CacheTooSmall):
        read(tmp_path / "image", digest, tmp_path / "cache/audit-2/model")
    assert not list((tmp_path / "cache").rglob("audit-2/model/*"))


def test_a_path_does_not_leave_its_folder(tmp_path: Path) -> None:
    digest = make_layout(tmp_path / "image", [[("opt/model/../../../evil", b"x"), ("/opt/model/a", b"1")]])
    contents = read(tmp_path / "image", digest, tmp_path / "model")
    assert list(contents.files) == ["opt/model/a"]
    assert not (tmp_path / "evil").exists()


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    """A tar can hold it; what is read of it is not an error of this machine."""
    digest = make_layout(tmp_path / "image", [[(f"opt/model/{'a' * 300}", b"x")]])
    with pytest.raises(InvalidImage, match=r"cannot be written: opt/model/aaa.*name too long"):
        read(tmp_path / "image", digest, tmp_path / "model")


def test_missing_and_damaged_layers(tmp_path: Path) -> None:
    digest = make_layout(tmp_path / "image", [[("opt/env/a", b"1" * 5000)]])
    layer = next(p for p in (tmp_path / "image/blobs/sha256").iterdir() if p.read_bytes()[:2] == b"\x1f\x8b")
    layer.write_bytes(layer.read_bytes()[:-20])
    with pytest.raises(InvalidImage, match="cannot be read"):
        read(tmp_path / "image", digest)
    layer.unlink()
    with pytest.raises(InvalidImage, match="is missing"):
        read(tmp_path / "image", digest)


@pytest.mark.parametrize(
    "change", [{"os": 5}, {"architecture": []}, {"os": "plan9"}, {"config": 5}, {"config": {"Labels": [1]}}]
)
def test_a_config_that_is_none_is_told(tmp_path: Path, change: dict[str, object]) -> None:
    folder = tmp_path / "image"
    digest = make_layout(folder, [[("opt/env/a", b"1")]])
    blobs = folder / "blobs" / "sha256"
    manifest = json.loads((blobs / digest.hex).read_bytes())
    config = json.loads((blobs / manifest["config"]["digest"].removeprefix("sha256:")).read_bytes()) | change
    data = json.dumps(config).encode()
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    manifest["config"] |= {"digest": f"sha256:{name}", "size": len(data)}
    changed = json.dumps(manifest).encode()
    (blobs / hashlib.sha256(changed).hexdigest()).write_bytes(changed)
    with pytest.raises(InvalidImage, match="config of image"):
        read(folder, digest_bytes(changed))
