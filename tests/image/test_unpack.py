from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kbuild.digest import canonical_json, digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.unpack import apply_layer, unpack_image
from kbuild.progress import Silent

Entries = list[tuple[str, str | None]]
"""Name and content; ``> target`` is a symbolic link, ``= target`` a hard link, None a directory."""
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


def tar(entries: Entries) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.mode = 0o640
            data = b""
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o500
            elif content.startswith((">", "=")):
                member.type = tarfile.SYMTYPE if content[0] == ">" else tarfile.LNKTYPE
                member.linkname = content[2:]
            else:
                data = content.encode()
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def apply(root: Path, *layers: Entries) -> dict[str, str]:
    root.mkdir(exist_ok=True)
    for layer in layers:
        apply_layer(iter([tar(layer)]), root)
    return {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def make_layout(folder: Path, layers: list[tuple[str, bytes, bytes]], config: dict[str, Any]) -> Path:
    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        digest = digest_bytes(data)
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (folder / "blobs/sha256" / digest.hex).write_bytes(data)
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    diff_ids = [str(digest_bytes(raw)) for _, raw, _ in layers]
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(canonical_json(image), CONFIG),
        "layers": [blob(packed, f"{LAYER}{suffix}") for suffix, _, packed in layers],
    }
    index = {"schemaVersion": 2, "manifests": [blob(canonical_json(manifest), MANIFEST)]}
    (folder / "index.json").write_bytes(canonical_json(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def test_upper_layers_replace_and_remove(tmp_path: Path) -> None:
    lower: Entries = [
        ("d/", None),
        ("d/old", "1"),
        ("d/kept", "1"),
        ("o/", None),
        ("o/x/y", "1"),
        ("f", "1"),
        ("g", "1"),
    ]
    upper: Entries = [("d/.wh.old", ""), ("o/new", "2"), ("o/.wh..wh..opq", ""), ("f", "2"), ("g/", None), ("g/h", "2")]
    assert apply(tmp_path / "r", lower, upper) == {"d/kept": "1", "o/new": "2", "f": "2", "g/h": "2"}


def test_a_whiteout_spares_its_own_layer_only_by_order(tmp_path: Path) -> None:
    assert apply(tmp_path / "r", [("a", "1")], [(".wh.a", ""), ("a", "2")]) == {"a": "2"}


def test_links_are_followed_inside_the_image(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    files = apply(
        tmp_path / "r",
        [
            ("usr/lib/", None),
            ("lib", "> usr/lib"),
            ("abs", "> /usr/lib"),
            ("up", "> ../../../usr"),
            ("out", f"> {outside}"),
        ],
        [("lib/a", "1"), ("abs/b", "2"), ("up/c", "3"), ("out/d", "4"), ("hard", "= lib/a")],
    )
    assert list(outside.iterdir()) == []
    assert files["usr/lib/a"] == files["hard"] == "1"
    assert (files["usr/lib/b"], files["usr/c"]) == ("2", "3")
    assert files[f"{str(outside).lstrip('/')}/d"] == "4"


def test_a_link_at_the_end_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("safe")
    assert apply(tmp_path / "r", [("x", f"> {secret}")], [("x", "evil")]) == {"x": "evil"}
    assert secret.read_text() == "safe"


@given(
    st.lists(
        st.tuples(st.text("ab./", min_size=1, max_size=8), st.sampled_from([None, "x", "> ..", "> /a", "= a"])),
        max_size=8,
    )
)
def test_no_layer_leaves_its_root(tmp_path_factory: pytest.TempPathFactory, entries: Entries) -> None:
    outer = tmp_path_factory.mktemp("outer")
    (outer / "root").mkdir()
    with contextlib.suppress(InvalidImage, OSError):
        apply_layer(iter([tar(entries)]), outer / "root")
    assert [path.name for path in outer.iterdir()] == ["root"]


def test_links_without_an_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="without an end"):
        apply(tmp_path / "r", [("a", "> b"), ("b", "> a"), ("a/x", "1")])


def test_every_compression_is_unpacked_once_a_digest(tmp_path: Path) -> None:
    raw = [tar([(name, name)]) for name in "abc"]
    layers = [
        ("", raw[0], raw[0]),
        ("+gzip", raw[1], gzip.compress(raw[1])),
        ("+zstd", raw[2], zstandard.compress(raw[2])),
    ]
    layout = make_layout(tmp_path / "l", layers, {"User": "65532"})
    image = unpack_image(layout, cache=tmp_path / "c", progress=Silent())
    assert [(image.root / name).read_text() for name in "abc"] == ["a", "b", "c"]
    assert (image.root / "proc").is_dir()
    assert image.config == {"User": "65532"}
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.read_bytes()[:1] != b"{":
            blob.unlink()
    assert unpack_image(layout, digest=image.digest, cache=tmp_path / "c", progress=Silent()) == image


def test_a_damaged_layer_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    raw = tar([("a", "1")])
    layout = make_layout(tmp_path / "l", [("+gzip", raw, gzip.compress(raw)[:-9])], {})
    with pytest.raises(InvalidImage, match="cannot be unpacked"):
        unpack_image(layout, cache=tmp_path / "c", progress=Silent())
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.read_bytes()[:1] != b"{":
            blob.write_bytes(b"other")
    with pytest.raises(InvalidImage, match="missing or damaged"):
        unpack_image(layout, cache=tmp_path / "c", progress=Silent())
    assert list((tmp_path / "c/rootfs").iterdir()) == []


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "etc/.wh...", "etc/.wh.."])
def test_a_whiteout_removes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "neighbour").write_text("keep")
    with pytest.raises(InvalidImage, match="whiteout"):
        apply(tmp_path / "root", [("etc", None), ("etc/file", "x"), (name, "")])
    assert (tmp_path / "neighbour").read_text() == "keep"
    assert (tmp_path / "root" / "etc" / "file").exists()
