"""Whiteouts mean the same to all that read layers: to what builds on a base, compares, verifies and runs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sequential import Image

from kbuild.cache.room import Room
from kbuild.digest import digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.compare.contents import _Tree
from kbuild.image.compare.diff import _Files as DiffFiles
from kbuild.image.compare.layers import read_members
from kbuild.image.engines.copying import FileSystem
from kbuild.image.oci.media import LAYERS
from kbuild.image.oci.whiteouts import Whiteout, read_whiteout, with_parents
from kbuild.image.run.layer_tree import lay_layer, unpack_layer

Layer = dict[str, str]
LOWER: Layer = {"lib/libold.so.6": "1", "lib/sub/libin.so.6": "1", "bin/libkept.so.6": "1"}
OPAQUE: Layer = {"lib/libnew.so.6": "2", "lib/sub/libmore.so.6": "2"}
LEFT = {"bin/libkept.so.6", *OPAQUE}
CASES: dict[str, tuple[Layer, set[str]]] = {
    "opaque before the layer's own": ({"lib/.wh..wh..opq": "", **OPAQUE}, LEFT),
    "opaque after the layer's own": ({**OPAQUE, "lib/.wh..wh..opq": ""}, LEFT),
    "opaque between them": ({"lib/libnew.so.6": "2", "lib/.wh..wh..opq": "", "lib/sub/libmore.so.6": "2"}, LEFT),
    "opaque at the root": ({"lib/libnew.so.6": "2", ".wh..wh..opq": ""}, {"lib/libnew.so.6"}),
    "one file": ({"lib/.wh.libold.so.6": ""}, {"bin/libkept.so.6", "lib/sub/libin.so.6"}),
    "a directory": ({".wh.lib": ""}, {"bin/libkept.so.6"}),
    "a name that begins alike": ({"lib/.wh.lib": ""}, set(LOWER)),
}


def tar(layer: Layer) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in layer.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return buffer.getvalue()


def members(raw: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        return list(archive)


def as_specified(raws: list[bytes], _: Path) -> set[str]:
    image = Image()
    for raw in raws:
        image.apply([(member, "") for member in members(raw)])
    return {path for path, (mode, _) in image.look().items() if mode.startswith("-")}


def as_built_on(raws: list[bytes], _: Path) -> set[str]:
    files = FileSystem()
    for raw in raws:
        files.apply_tar(members(raw))
    return {path for layer in (LOWER, OPAQUE) for path in layer if files.get(path.encode()) is not None}


def as_compared(raws: list[bytes], _: Path) -> set[str]:
    files = DiffFiles()
    for raw in raws:
        written: set[str] = set()
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            for member in archive:
                files._add(archive, member, written)
    return set(files.files)


def as_verified(raws: list[bytes], folder: Path) -> set[str]:
    tree = _Tree(folders=("lib", "bin"))
    for number, raw in enumerate(raws):
        blob = folder / f"{number}.tar"
        blob.write_bytes(raw)
        tree.apply(read_members(blob, digest_bytes(raw), LAYERS["none"], lambda _: False)[1], number)
    return set(tree.placed)


def as_run(raws: list[bytes], folder: Path) -> set[str]:
    root = folder / "root"
    root.mkdir()
    for number, raw in enumerate(raws):
        tree = folder / str(number)
        tree.mkdir()
        unpack_layer(iter([raw]), tree, Room([]))
        lay_layer(tree, root, Room([]))
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


READERS = {each.__name__: each for each in (as_specified, as_built_on, as_compared, as_verified, as_run)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_sees_the_same_files(reader: str, case: str, tmp_path: Path) -> None:
    read: Callable[[list[bytes], Path], set[str]] = READERS[reader]
    upper, expected = CASES[case]
    assert read([tar(LOWER), tar(upper)], tmp_path) == expected


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "etc/.wh.."])
def test_one_that_hides_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidImage, match="names no file"):
        read_whiteout(name)


def test_what_is_read() -> None:
    assert read_whiteout("a/b") is None and read_whiteout("a.wh.b/c") is None
    assert read_whiteout("a/.wh.b") == Whiteout("a/b", opaque=False)
    assert read_whiteout(".wh..wh..opq") == Whiteout("", opaque=True)
    assert with_parents(["a/b/c", "d"]) == {"a", "a/b", "a/b/c", "d"}
