from __future__ import annotations

import gzip
import io
import os
import posixpath
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st
from sequential import Image, Refused

from kbuild.cache.entries import list_cache, other_bytes
from kbuild.cache.folder import using_cache
from kbuild.cache.notes import reading_all
from kbuild.cache.room import Room
from kbuild.digest import canonical_json, digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.run.layer_tree import RECIPE, lay_layer, unpack_layer
from kbuild.image.run.unpack import unpacked_image
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
    lay(root, root.with_name("layers"), [tar(layer) for layer in layers])
    return {p.relative_to(root).as_posix(): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def lay(root: Path, folder: Path, layers: list[bytes]) -> None:
    """Unpack each layer by itself, then put them together."""
    trees = [folder / str(number) for number in range(len(layers))]
    for tree, raw in zip(trees, layers, strict=True):
        tree.mkdir(parents=True)
        assert unpack_layer(iter([raw]), tree, Room([])) == digest_bytes(raw)
    for tree in trees:
        lay_layer(tree, root, Room([]))


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


names = st.text("ab./", min_size=1, max_size=8)
members = st.lists(
    st.tuples(
        st.one_of(names, st.sampled_from(["a/.wh.b", ".wh.a", "a/.wh..wh..opq", ".wh..wh..opq", "b/.wh.a"])),
        st.sampled_from([None, "x", "y", "> ..", "> /a", "> b", "= a", "= a/b"]),
    ),
    max_size=6,
)


@pytest.mark.slow
@given(st.lists(members, min_size=1, max_size=3))
def test_shared_trees_give_what_one_layer_after_the_other_does(
    tmp_path_factory: pytest.TempPathFactory, layers: list[Entries]
) -> None:
    assume(not any(map(takes_its_own_away, layers)))
    outer = tmp_path_factory.mktemp("outer")
    (outer / "root").mkdir()
    image, refused = Image(), False
    try:
        for layer in layers:
            image.apply(members_of(layer))
    except Refused:
        refused = True
    try:
        lay(outer / "root", outer / "layers", [tar(layer) for layer in layers])
    except (InvalidImage, OSError):
        assert refused
    else:
        # A link of a name to itself is told by the specification to be nothing; it may be taken or refused.
        assert refused or look(outer / "root") == image.look()
    assert sorted(path.name for path in outer.iterdir()) == ["layers", "root"]


def takes_its_own_away(layer: Entries) -> bool:
    """Whether a whiteout names what its own layer brings: whiteouts are of lower layers (OCI image-spec, layer.md), so
    nothing says what that means, nor what is left of the directory that only this made."""
    paths = [posixpath.normpath(f"/{name}") for name, _ in layer]
    hidden = [path.replace("/.wh.", "/", 1) for path in paths if "/.wh." in path and "/.wh..wh." not in path]
    return any(path == each or path.startswith(f"{each}/") for path in paths for each in hidden)


def members_of(layer: Entries) -> list[tuple[tarfile.TarInfo, str]]:
    with tarfile.open(fileobj=io.BytesIO(tar(layer))) as archive:
        return [
            (member, file.read().decode() if member.isreg() and (file := archive.extractfile(member)) else "")
            for member in archive
        ]


def look(root: Path) -> dict[str, tuple[str, str]]:
    def seen(path: Path) -> tuple[str, str]:
        mode = stat.filemode(path.lstat().st_mode)
        return mode, str(path.readlink()) if path.is_symlink() else path.read_text(
            encoding="utf-8"
        ) if path.is_file() else ""

    return {path.relative_to(root).as_posix(): seen(path) for path in sorted(root.rglob("*"))}


def test_links_without_an_end_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match="without an end"):
        apply(tmp_path / "r", [("a", "> b"), ("b", "> a"), ("a/x", "1")])


def make_image(folder: Path, *raws: bytes, config: dict[str, Any] | None = None) -> Path:
    return make_layout(folder, [("+zstd", raw, zstandard.compress(raw)) for raw in raws], config or {})


def test_every_compression_is_unpacked_once_a_diff_id(tmp_path: Path) -> None:
    raw = [tar([(name, name)]) for name in "abc"]
    layers = [
        ("", raw[0], raw[0]),
        ("+gzip", raw[1], gzip.compress(raw[1])),
        ("+zstd", raw[2], zstandard.compress(raw[2])),
    ]
    layout = make_layout(tmp_path / "l", layers, {"User": "65532"})
    with unpacked_image(layout, cache=tmp_path / "c", progress=Silent()) as image:
        assert [(image.root / name).read_text() for name in "abc"] == ["a", "b", "c"]
        assert (image.root / "proc").is_dir()
        assert image.config == {"User": "65532"}
        with unpacked_image(layout, cache=tmp_path / "c", progress=Silent()) as other:
            assert other.root != image.root and (other.root / "a").samefile(image.root / "a")
        assert not other.root.exists() and image.root.exists()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["seals", "unpacked"]
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.read_bytes()[:1] != b"{":
            blob.unlink()
    with unpacked_image(layout, digest=image.digest, cache=tmp_path / "c", progress=Silent()) as again:
        assert (again.root / "c").read_text() == "c"


def test_the_second_image_of_an_environment_unpacks_only_its_own_layer(tmp_path: Path) -> None:
    base, environment = tar([("bin/", None), ("bin/a", "x" * 9000)]), tar([("env/lib", "y" * 50_000)])
    notes: list[str] = []

    class Telling(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    for model in ("one", "two"):
        layout = make_image(tmp_path / model, base, environment, tar([("model", model)]))
        with unpacked_image(layout, cache=tmp_path / "c", progress=Telling()) as image:
            assert (image.root / "model").read_text() == model
            assert (image.root / "env/lib").stat().st_nlink == 2
    assert notes == [f"unpacking layer {number} of 3" for number in (1, 2, 3, 3)]
    trees = tmp_path / f"c/unpacked/layers-{RECIPE}"
    assert {path.name for path in trees.iterdir()} == {
        digest_bytes(raw).hex for raw in (base, environment, tar([("model", "one")]), tar([("model", "two")]))
    }


def test_a_file_that_was_changed_and_dated_back_is_unpacked_again_where_all_is_read(tmp_path: Path) -> None:
    layout, cache = make_image(tmp_path / "l", tar([("a", "right")])), tmp_path / "c"
    with unpacked_image(layout, cache=cache, progress=Silent()):
        pass
    file = next(
        each
        for each in (cache / f"unpacked/layers-{RECIPE}").rglob("*")
        if each.is_file() and each.read_text() == "right"
    )
    before = file.stat()
    with file.open("r+") as opened:
        opened.write("wrong")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with reading_all(), unpacked_image(layout, cache=cache, progress=Silent()) as image:
        assert (image.root / "a").read_text() == "right"
    with unpacked_image(layout, cache=cache, progress=Silent()) as image:
        assert (image.root / "a").read_text() == "right"


@pytest.mark.slow
def test_many_images_stay_within_a_limit_while_they_are_unpacked(tmp_path: Path) -> None:
    environment, cache, limit = tar([(f"env/{number}", "e" * 9000) for number in range(40)]), tmp_path / "c", 3_000_000
    notes: list[str] = []
    peak, ended = [0], threading.Event()

    class Telling(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    def sample() -> None:
        while not ended.is_set():
            peak[0] = max(peak[0], other_bytes(cache) + sum(entry.size for entry in list_cache(cache)))

    cache.mkdir()
    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for number in range(24):
            own = tar([(f"model/{each}", f"{number}" * 90_000) for each in range(6)])
            with (
                using_cache(cache, limit=limit),
                unpacked_image(make_image(tmp_path / f"l{number}", environment, own), cache=cache, progress=Telling()),
            ):
                assert len(list(cache.glob("run-*"))) == 1
    finally:
        ended.set()
        sampler.join()
    assert limit // 2 < peak[0] <= limit
    assert notes.count("unpacking layer 1 of 2") == 1 and notes.count("unpacking layer 2 of 2") == 24
    trees = {path.name for path in (cache / f"unpacked/layers-{RECIPE}").iterdir()}
    assert digest_bytes(environment).hex in trees and len(trees) < 8


def test_a_cache_that_may_only_be_read_is_helped_out_with_a_folder_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, own = tar([("a", "1")]), tar([("b", "2")])
    cache, temporary = tmp_path / "c", tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with unpacked_image(make_image(tmp_path / "one", shared), cache=cache, progress=Silent()):
        pass
    before = sorted(cache.rglob("*"))
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache and real(path, mode))
    with unpacked_image(make_image(tmp_path / "two", shared, own), cache=cache, progress=Silent()) as image:
        assert (image.root / "b").read_text() == "2" and image.root.is_relative_to(temporary)
        assert (image.root / "a").stat().st_nlink == 2  # of the tree that the cache holds
        assert sorted(cache.rglob("*")) == before
    assert not list(temporary.iterdir())


def test_a_layer_that_is_not_what_the_config_says_is_refused(tmp_path: Path) -> None:
    raw, other = tar([("a", "1")]), tar([("a", "2")])
    layout = make_layout(tmp_path / "l", [("+gzip", raw, gzip.compress(other))], {})
    with (
        pytest.raises(InvalidImage, match=f"has the diff ID {digest_bytes(other)}"),
        unpacked_image(layout, cache=tmp_path / "c", progress=Silent()),
    ):
        pass
    assert list((tmp_path / f"c/unpacked/layers-{RECIPE}").iterdir()) == []


@pytest.mark.slow
def test_a_program_that_is_killed_while_it_unpacks_leaves_no_half_tree(tmp_path: Path) -> None:
    raw = tar([(f"d/{number}", "x" * 4000) for number in range(4000)])
    layout = make_image(tmp_path / "l", raw)
    program = (
        "import sys; from pathlib import Path; from kbuild.image.run.unpack import unpacked_image;"
        "from kbuild.progress import Silent\n"
        "with unpacked_image(Path(sys.argv[1]), cache=Path(sys.argv[2]), progress=Silent()): pass"
    )
    trees = tmp_path / f"c/unpacked/layers-{RECIPE}"
    process = subprocess.Popen([sys.executable, "-c", program, str(layout), str(tmp_path / "c")])
    while next(trees.glob(".*/tree/d/?*"), None) is None:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert [path.name[0] for path in trees.iterdir()] == ["."]
    with unpacked_image(layout, cache=tmp_path / "c", progress=Silent()) as image:
        assert len(list((image.root / "d").iterdir())) == 4000


def test_a_tree_that_somebody_changed_is_unpacked_again(tmp_path: Path) -> None:
    raw = tar([("a", "1")])
    layout = make_image(tmp_path / "l", raw)
    with unpacked_image(layout, cache=tmp_path / "c", progress=Silent()):
        pass
    tree = tmp_path / f"c/unpacked/layers-{RECIPE}" / digest_bytes(raw).hex

    def touched() -> None:
        (tree / "tree/a").chmod(0o644)
        (tree / "tree/a").write_text("2")

    for change in ((tree / "tree/a").unlink, (tree / "members.json").unlink, touched):
        made = tree.stat().st_mtime_ns
        change()
        for _ in range(2):
            with unpacked_image(layout, cache=tmp_path / "c", progress=Silent()) as image:
                assert (image.root / "a").read_text() == "1"
                assert tree.stat().st_mtime_ns != made
                again = tree.stat().st_mtime_ns
        assert tree.stat().st_mtime_ns == again
    assert not list((tmp_path / "c").glob("run-*"))


def test_names_that_are_no_utf8_are_kept(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", encoding="utf-8", errors="surrogateescape") as archive:
        for name in (b"d\xe4ta", "dätä".encode()):
            archive.addfile(tarfile.TarInfo(name.decode("utf-8", "surrogateescape")))
    (tmp_path / "r").mkdir()
    lay(tmp_path / "r", tmp_path / "layers", [buffer.getvalue()])
    assert sorted(os.fsencode(path.name) for path in (tmp_path / "r").iterdir()) == [b"d\xc3\xa4t\xc3\xa4", b"d\xe4ta"]


def test_a_damaged_layer_is_named_and_nothing_is_kept(tmp_path: Path) -> None:
    raw = tar([("a", "1")])
    layout = make_layout(tmp_path / "l", [("+gzip", raw, gzip.compress(raw)[:-9])], {})

    def unpack() -> None:
        with unpacked_image(layout, cache=tmp_path / "c", progress=Silent()):
            pass

    with pytest.raises(InvalidImage, match="cannot be unpacked"):
        unpack()
    for blob in (layout / "blobs/sha256").iterdir():
        if blob.read_bytes()[:1] != b"{":
            blob.write_bytes(b"other")
    with pytest.raises(InvalidImage, match="missing or damaged"):
        unpack()
    assert list((tmp_path / f"c/unpacked/layers-{RECIPE}").iterdir()) == []


@pytest.mark.parametrize("name", [".wh...", ".wh..", ".wh.", "etc/.wh...", "etc/.wh.."])
def test_a_whiteout_removes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "neighbour").write_text("keep")
    with pytest.raises(InvalidImage, match="whiteout"):
        apply(tmp_path / "root", [("etc", None), ("etc/file", "x"), (name, "")])
    assert (tmp_path / "neighbour").read_text() == "keep"
    assert not list((tmp_path / "root").iterdir())  # nothing of an image with such a layer is put together
