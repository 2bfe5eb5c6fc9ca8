"""A model's files as an image of their own: what is in it, what it is called, and that anybody makes the same."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from unpacked import blob, read_image
from world import HOST, MODEL, RUN_ID, World

from kbuild.cli.image import command
from kbuild.errors import BaseImageError, LabelError
from kbuild.image.engine import BuiltImage, PackedLayers
from kbuild.image.engines.native import NativeEngine
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.local import LocalImages
from kbuild.platform import Platform
from kbuild.verify.verdict_tag import write_verdict
from kbuild.workflow.batch.model_image import ModelImage, ModelImageRequest, build_model_image
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery
from kbuild.workflow.once import Shared

OTHER = Platform("linux", "arm64" if HOST.architecture == "amd64" else "amd64")
NOTHING = {"base": None, "labels": (), "compression": "zstd"}


def build(world: World, delivery: Delivery | None = None, *, reuse: bool = True, **given: object) -> ModelImage:
    request = ModelImageRequest(**{**NOTHING, "model": world.model, "platforms": (HOST,), **given})  # type: ignore[arg-type]
    return build_model_image(request, delivery or Delivery(), replace(world.tools, shared=Shared()), reuse=reuse)


def test_it_has_the_files_in_models_and_nothing_else(world: World) -> None:
    image = read_image(build(world).layout)
    store = world.store.models[world.model]
    expected = {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert image.below("models") == expected
    assert MODEL.items() <= expected.items()
    assert {name.split("/")[0] for name in image.files} == {"models"}
    for member, _ in image.files.values():
        assert (member.mode, member.uid, member.gid, member.mtime) == (0o644, 0, 0, 0)
    config = image.config["config"]
    assert "Entrypoint" not in config and "User" not in config and "ExposedPorts" not in config
    assert config["Labels"]["io.kbuild.contents"] == "model"
    assert config["Labels"]["io.kbuild.run.id"] == RUN_ID
    assert world.store.tags == []


def test_a_verdict_on_it_is_none_on_the_image_that_serves(world: World) -> None:
    told = write_verdict(build(world).image, "failed", world.store)
    assert told is not None and "files alone" in told
    assert world.store.tags == []


def test_another_machine_makes_the_same_and_a_base_lies_below(world: World) -> None:
    first = build(world)
    other = world.with_cache("other")
    assert build(other).digest == first.digest == build(world).digest
    based = build(world, base=f"oci:{world.base}")
    image = read_image(based.layout)
    assert image.data("etc/base") == b"base\n"
    assert image.below("models") == read_image(first.layout).below("models")
    assert image.config["config"]["Env"][0] == "BASE=yes"


@pytest.mark.parametrize("serves", [False, True])
def test_the_files_that_it_is_built_from_stay_as_they_are(serves: bool, world: World) -> None:
    """They may be those of a local store, or a folder of somebody's: neither a mode nor a second name is theirs."""
    files = [path for path in world.store.models[world.model].rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o600)
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in files}
    if serves:
        build_image(world.request(), Delivery(), world.tools)
    else:
        build(world)
    assert {path: (path.read_bytes(), path.stat().st_mode) for path in files} == before


def test_its_layer_is_packed_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    build(world)
    packed: list[object] = []
    before = NativeEngine.build

    def look(engine: NativeEngine, *given: Any, known: PackedLayers, **more: Any) -> object:
        packed.append(set(known.packed) == set(known.keys))
        return before(engine, *given, known=known, **more)

    monkeypatch.setattr(NativeEngine, "build", look)
    other = build(world, labels=(("team", "x"),))
    assert packed == [True] and other.image.layers == build(world).image.layers
    assert build(world, reuse=False).image.layers == other.image.layers
    assert packed == [True, False], "--no-cache packs anew"


def test_the_image_that_serves_keeps_its_name(world: World) -> None:
    server = build_image(world.request(), Delivery(record=False), replace(world.tools, shared=Shared()))
    made = build(world)
    assert made.reference.partition("@")[0] == server.reference.partition("@")[0] + "-files"


def test_it_is_named_by_the_tag_and_pushed_by_the_other_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "kbuild.workflow.publishing.publish", lambda image, name, *, push, **_: sent.append((str(name), str(push)))
    )
    made = build(world, Delivery(tag="mine:1", push="registry.example/theirs:2"))
    assert sent == [(str(ImageReference.parse("mine:1")), "registry.example/theirs:2")]
    assert made.reference == f"mine@{made.digest}" and made.pushed == f"registry.example/theirs@{made.digest}"
    images = LocalImages(world.tools.cache / "images")
    assert images.by_reference(ImageReference.parse("registry.example/theirs:2")) is None


@pytest.mark.parametrize("here", [HOST, OTHER])
def test_of_several_platforms_the_files_for_this_machine_are_loaded(
    world: World, monkeypatch: pytest.MonkeyPatch, here: Platform
) -> None:
    sent: list[BuiltImage] = []
    monkeypatch.setattr("kbuild.workflow.publishing.publish", lambda image, *_, **__: sent.append(image))
    monkeypatch.setattr("kbuild.workflow.batch.model_image.host_platform", lambda: here)
    made = build(world, Delivery(load=True), platforms=(HOST, OTHER))
    assert made.index is not None
    assert [each.digest for each in (*sent, made.image)] == 2 * [made.index.images[here].digest]


@pytest.mark.parametrize("place", ["output", "load", "push", None])
def test_it_goes_to_each_place_that_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str | None
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr("kbuild.workflow.publishing.publish", lambda *_, **given: sent.append(given))
    values = {"output": tmp_path / "out.tar", "load": True, "push": "registry.example/theirs:2"}
    made = build(world, Delivery(**({} if place is None else {place: values[place]})))
    assert [{key: str(each[key]) for key in values if each[key]} for each in sent] == (
        [] if place is None else [{place: str(values[place])}]
    )
    # A tar is no layout: that lies where the image is kept.
    assert (made.layout / "oci-layout").is_file()


def test_for_two_platforms_it_is_an_index_of_the_same_layers(world: World, tmp_path: Path) -> None:
    made = build(world, Delivery(output=tmp_path / "out"), platforms=(HOST, OTHER))
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == str(made.digest)
    manifests = [
        json.loads(blob(tmp_path / "out", each)) for each in json.loads(blob(tmp_path / "out", entry))["manifests"]
    ]
    assert manifests[0]["layers"] == manifests[1]["layers"]
    assert {json.loads(blob(tmp_path / "out", each["config"]))["architecture"] for each in manifests} == {
        HOST.architecture,
        OTHER.architecture,
    }


def test_what_it_cannot_have_is_told(world: World) -> None:
    with pytest.raises(BaseImageError, match="--base debian:bookworm"):
        build(world, base="debian:bookworm")
    with pytest.raises(LabelError, match=r"io\.kbuild\.x is kbuild's own"):
        build(world, labels=(("io.kbuild.x", "y"),))
    for argv in (["--slim"], ["--no-verify"], ["--cache-to", "registry.example/x"], ["--all-registered"]):
        done = CliRunner().invoke(command, ["--as", "model", world.model, *argv])
        assert done.exit_code == 2
        assert argv[0].replace("no-", "") in done.stderr
