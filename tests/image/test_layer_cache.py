from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from plans import EMPTY

from kbuild.cache.notes import reading_all
from kbuild.digest import digest_bytes
from kbuild.image.engine import BuiltImage, EngineOutput, PackedLayers, RawLayer
from kbuild.image.engines.native import NativeEngine, copies_plan
from kbuild.image.oci.validate import validate_layout
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.image.store.pack import pack
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext, ImageConfig, LayerPlan
from kbuild.process import run
from kbuild.progress import Silent

BASE = ResolvedBase(kind="debs", name="scratch", digest=digest_bytes(b""))
CONFIG = ImageConfig(user="", entrypoint=(), env=(), exposed_port=1, healthcheck=(), stop_signal="", labels=())
TREES = {"base": {"opt/same": "same"}, "lib": {"opt/lib": "lib", "opt/same": "same"}, "model": {"m/model": "one"}}
OVER = {"base": (), "lib": ("base",), "model": ("base",)}


def make_context(folder: Path, trees: dict[str, dict[str, str]]) -> BuildContext:
    for name, files in trees.items():
        for path, text in files.items():
            (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / name / path).write_text(text)
    dockerfile = "FROM scratch\n" + "".join(f'COPY ["{name}/", "/"]\n' for name in trees)
    (folder / "Dockerfile").write_text(dockerfile)
    plan = replace(
        EMPTY,
        base=BASE.digest,
        layers=tuple(
            LayerPlan(name=name, source=name, content=digest_bytes(str(files).encode()), over=OVER[name])
            for name, files in trees.items()
        ),
        config=CONFIG,
        dockerfile=dockerfile,
    )
    return BuildContext(path=folder, plan=plan)


def build(context: BuildContext, destination: Path, cache: LayerCache) -> tuple[BuiltImage, int]:
    """The image, and how many of its layers were in the cache."""
    keys = layer_keys(context.plan)
    packed = {source: blob for source, key in keys.items() if (blob := cache.get(key)) is not None}
    for source in packed:
        if not any(source in layer.over for layer in context.plan.layers if layer.source not in packed):
            (context.path / source).rename(context.path / f"away-{source}")
    known = PackedLayers(keys=keys, packed=packed)
    output = NativeEngine(run).build(context, BASE, workdir=context.path, progress=Silent(), known=known)
    image = pack(output, context.plan, destination, engine="native", progress=Silent(), cache=cache)
    validate_layout(image.layout)
    return image, len(packed)


@pytest.fixture
def cache(tmp_path: Path) -> LayerCache:
    return LayerCache(root=tmp_path / "layers", compression="zstd")


def test_what_is_packed_needs_no_directory_and_gives_the_same_digest(tmp_path: Path, cache: LayerCache) -> None:
    first, hits = build(make_context(tmp_path / "a", TREES), tmp_path / "image1", cache)
    assert hits == 0
    again, hits = build(make_context(tmp_path / "b", TREES), tmp_path / "image2", cache)
    assert (hits, again.digest) == (3, first.digest)
    blob = tmp_path / "image2/blobs/sha256" / first.layers[0].digest.hex
    assert blob.stat().st_ino == (cache.blobs / blob.name).stat().st_ino


def test_one_new_layer_is_made_over_the_layers_it_meets(tmp_path: Path, cache: LayerCache) -> None:
    build(make_context(tmp_path / "a", TREES), tmp_path / "image1", cache)
    changed = {**TREES, "lib": {"opt/lib": "new", "opt/same": "same"}, "model": {"m/model": "two"}}
    warm, hits = build(make_context(tmp_path / "b", changed), tmp_path / "image2", cache)
    assert hits == 1
    cold, _ = build(
        make_context(tmp_path / "c", changed), tmp_path / "image3", LayerCache(root=tmp_path / "x", compression="zstd")
    )
    assert warm.digest == cold.digest


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone"])
def test_a_damaged_blob_is_made_anew(tmp_path: Path, cache: LayerCache, damage: str) -> None:
    first, _ = build(make_context(tmp_path / "a", TREES), tmp_path / "image1", cache)
    blob = cache.blobs / first.layers[1].digest.hex
    data = blob.read_bytes()
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(data[:-1] if damage == "shorter" else data[:-1] + bytes([data[-1] ^ 1]))
    again, hits = build(make_context(tmp_path / "b", TREES), tmp_path / "image2", cache)
    assert (hits, again.digest) == (2, first.digest)
    assert blob.read_bytes() == data


def test_a_blob_that_was_dated_back_is_found_where_all_is_read(tmp_path: Path, cache: LayerCache) -> None:
    context = make_context(tmp_path / "a", TREES)
    first, _ = build(context, tmp_path / "image1", cache)
    blob, key = cache.blobs / first.layers[0].digest.hex, layer_keys(context.plan)["base"]
    before, data = blob.stat(), blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))  # which nobody but its owner can
    assert cache.get(key) is not None
    with reading_all():
        assert cache.get(key) is None


def test_a_touched_blob_is_read_once_more_and_kept(tmp_path: Path, cache: LayerCache) -> None:
    context = make_context(tmp_path / "a", TREES)
    first, _ = build(context, tmp_path / "image1", cache)
    os.utime(cache.blobs / first.layers[0].digest.hex, (1, 1))
    key = layer_keys(context.plan)["base"]
    found = cache.get(key)
    assert found is not None and found.digest == first.layers[0].digest
    assert cache.get(key) == found


@pytest.mark.parametrize("record", [b"", b"{}", b'{"digest": 1}', b"[]", b"\xff"])
def test_a_broken_record_is_no_layer(tmp_path: Path, cache: LayerCache, record: bytes) -> None:
    context = make_context(tmp_path / "a", TREES)
    build(context, tmp_path / "image1", cache)
    for path in (cache.root / "keys").iterdir():
        path.write_bytes(record)
    assert cache.get(layer_keys(context.plan)["base"]) is None


def test_another_base_content_or_compression_is_another_layer(tmp_path: Path, cache: LayerCache) -> None:
    context = make_context(tmp_path / "a", TREES)
    build(context, tmp_path / "image1", cache)
    keys = layer_keys(context.plan)
    rebased = layer_keys(replace(context.plan, base=digest_bytes(b"other")))
    assert not set(keys.values()) & set(rebased.values())
    assert LayerCache(root=cache.root, compression="gzip").get(keys["base"]) is None
    below = layer_keys(make_context(tmp_path / "b", {**TREES, "base": {"opt/same": "else"}}).plan)
    assert below["lib"] != keys["lib"]


@pytest.mark.parametrize(
    "line",
    ["WORKDIR /x", "RUN true", "COPY model/ /twice/", 'COPY --chmod=0700 ["model/", "/"]', 'COPY ["model", "/"]'],
)
def test_only_the_plans_own_copies_are_taken_from_the_cache(tmp_path: Path, line: str) -> None:
    plan = make_context(tmp_path / "a", TREES).plan
    assert copies_plan(plan)
    assert not copies_plan(replace(plan, dockerfile=f"{plan.dockerfile}{line}\n"))


def test_a_layer_is_not_packed_again_where_an_engine_tells_its_diff_id(tmp_path: Path, cache: LayerCache) -> None:
    """As BuildKit does, which knows no keys: whoever packed the same tar first."""
    context = make_context(tmp_path / "a", TREES)
    native, _ = build(context, tmp_path / "image1", cache)
    layers = tuple(
        RawLayer(content=Unreadable(), created_by=layer.created_by, diff_id=layer.diff_id) for layer in native.layers
    )
    output = EngineOutput(layers=layers, config={})
    image = pack(output, context.plan, tmp_path / "image2", engine="buildkit", progress=Silent(), cache=cache)
    assert [layer.digest for layer in image.layers] == [layer.digest for layer in native.layers]
    other = replace(cache, compression="gzip")
    with pytest.raises(AssertionError, match="read"):
        pack(output, context.plan, tmp_path / "image3", engine="buildkit", progress=Silent(), cache=other)


class Unreadable:
    def chunks(self) -> Iterator[bytes]:
        raise AssertionError("the layer was read")
