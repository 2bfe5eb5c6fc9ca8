"""Where built images go, under which names, and what the run is told: one platform and several."""

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unpacked import blob
from world import HOST, MODEL_ID, RUN_ID, World

from kbuild.environment.lockfile import read_lockfile
from kbuild.errors import InvalidReference, OutputError, RegistryError
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.listing import list_here
from kbuild.image.store.local import LocalImages
from kbuild.model.bundle import read_bundle
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform
from kbuild.verify.verdict_tag import write_rebuild_verdict, write_verdict
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Built, Delivery, ImageResult, deliver

OTHER = Platform("linux", "arm64" if HOST.architecture == "amd64" else "amd64")


def as_platform(image: BuiltImage, platform: Platform, folder: Path) -> BuiltImage:
    """The same layers under a config that names another processor."""
    shutil.copytree(image.layout, folder)

    def put(value: Any, like: dict[str, Any]) -> dict[str, Any]:
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs/sha256" / digest).write_bytes(data)
        return {**like, "digest": f"sha256:{digest}", "size": len(data)}

    index = json.loads((folder / "index.json").read_bytes())
    (entry,) = index["manifests"]
    manifest = json.loads(blob(folder, entry))
    config = json.loads(blob(folder, manifest["config"])) | {"architecture": platform.architecture}
    manifest["config"] = put(config, manifest["config"])
    entry = put(manifest, entry)
    if "platform" in entry:
        entry["platform"] = {"os": platform.os, "architecture": platform.architecture}
    (folder / "index.json").write_text(json.dumps({**index, "manifests": [entry]}))
    parse = type(image.digest).parse
    return replace(
        image, layout=folder, digest=parse(entry["digest"]), config_digest=parse(manifest["config"]["digest"])
    )


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = []
    record = lambda image, name, **given: calls.append({"image": image, "name": name, **given})  # noqa: E731
    monkeypatch.setattr("kbuild.workflow.publishing.publish", record)
    return calls


def deliver_both(world: World, delivery: Delivery, tmp_path: Path, second: Platform = OTHER) -> ImageResult:
    first = build_image(world.request(), Delivery(record=False), world.tools)
    other = as_platform(first.image, second, tmp_path / "other")
    built = Built(
        bundle=read_bundle(world.store.models[world.model]),
        reference=ModelReference.parse(world.model),
        lockfile=read_lockfile(world.lockfile),
        images={HOST: first.image, second: other},
        plans={HOST: first.plan, second: replace(first.plan, platform=second)},
        reused=False,
    )
    return deliver(built, delivery, world.tools)


def test_of_several_platforms_everything_names_the_index(
    world: World, tmp_path: Path, published: list[dict[str, Any]]
) -> None:
    result = deliver_both(world, Delivery(push="registry.example/till:1"), tmp_path)
    assert result.index is not None
    data = (result.layout / "blobs/sha256" / result.index.digest.hex).read_bytes()
    index = json.loads(data)
    platforms = {(each["platform"]["os"], each["platform"]["architecture"]) for each in index["manifests"]}
    assert platforms == {(HOST.os, HOST.architecture), (OTHER.os, OTHER.architecture)}
    digest = (
        f"sha256:{hashlib.sha256((result.layout / 'blobs/sha256' / result.index.digest.hex).read_bytes()).hexdigest()}"
    )
    assert result.pushed == f"registry.example/till@{digest}"
    assert result.reference == f"registry.example/till@{digest}"
    assert str(result.image.digest) != digest == str(result.digest)
    (told,) = world.store.tags
    assert told[1]["kbuild.pushed"] == told[1]["kbuild.image"] == f"registry.example/till@{digest}"
    assert told[1]["kbuild.image_digest"] == digest
    (call,) = published
    assert str(call["index"].digest) == digest
    (listed,) = [each for each in list_here(world.tools.cache / "images") if str(each.digest) == digest]
    assert listed.said.pushed == listed.names == ("registry.example/till:1",)
    assert call["push"].tag == "1"


def test_the_name_of_an_index_is_no_other_images_not_even_of_one_in_it(world: World, tmp_path: Path) -> None:
    result = deliver_both(world, Delivery(tag="till:1"), tmp_path)
    with pytest.raises(InvalidReference, match=f"already the name of another of these images, {result.digest}"):
        build_image(world.request(), Delivery(tag="till:1"), world.tools)


@pytest.mark.parametrize("taken", [{"tag": "till:1"}, {"push": "registry.example/till:1"}], ids=["tag", "push"])
def test_each_of_its_names_is_one_images(world: World, tmp_path: Path, published: list[Any], taken: Any) -> None:
    """Whichever of the two another image has."""
    deliver_both(world, Delivery(tag="till:1", push="registry.example/till:1"), tmp_path)
    other = {"tag": "till:2", "push": "registry.example/till:2"}
    with pytest.raises(InvalidReference, match="already the name of another of these images"):
        build_image(world.request(), Delivery(**{**other, **taken}), world.tools)


def test_one_name_for_here_and_there_is_known_here(world: World, published: list[Any]) -> None:
    name = "registry.example/till:1"
    result = build_image(world.request(), Delivery(tag=name, push=name), world.tools)
    (listed,) = list_here(world.tools.cache / "images")
    assert (listed.names, result.named, published[0]["push"].familiar) == ((name,), name, name)


@pytest.mark.parametrize("second", [Platform("linux", "386"), Platform("linux", "zz")], ids=["before", "after"])
def test_what_is_shown_of_several_is_this_machines(
    world: World, tmp_path: Path, published: list[dict[str, Any]], second: Platform
) -> None:
    result = deliver_both(world, Delivery(load=True), tmp_path, second)
    image = result.image
    assert published[0]["image"] is image and result.plan.platform == HOST
    config = json.loads((image.layout / "blobs/sha256" / image.config_digest.hex).read_bytes())
    assert config["architecture"] == HOST.architecture


def test_where_none_is_this_machines_the_first_is_shown(
    world: World, tmp_path: Path, published: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kbuild.workflow.delivery.host_platform", lambda: Platform("linux", "riscv64"))
    names = sorted([str(HOST), str(OTHER)])
    result = deliver_both(world, Delivery(load=True), tmp_path)
    assert [str(result.plan.platform), str(published[0]["index"].digest)] == [names[0], str(result.digest)]
    config = json.loads((result.image.layout / "blobs/sha256" / result.image.config_digest.hex).read_bytes())
    assert f"linux/{config['architecture']}" == names[0]


def test_where_it_was_written_is_told_as_others_find_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = build_image(world.request(), Delivery(output=Path("out"), record=False), world.tools)
    assert result.layout == tmp_path / "out" and (result.layout / "oci-layout").is_file()


def test_it_is_said_that_a_slow_server_is_told(
    world: World, published: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A screen that stands still is taken for a program that does."""
    monkeypatch.setattr("kbuild.progress._PATIENCE", 0.05)
    tell = world.store.set_tags

    def slowly(*given: Any, **more: Any) -> tuple[str, ...]:
        time.sleep(0.5)
        return tell(*given, **more)

    monkeypatch.setattr(world.store, "set_tags", slowly)
    build_image(world.request(), Delivery(push="registry.example/x:1"), world.tools)
    assert "record: telling MLflow of the image" in world.heard.notes


def test_one_platform_is_published_as_it_is(world: World, published: list[dict[str, Any]]) -> None:
    delivery = Delivery(tag="till:2", push="registry.example/{name}:{run_id}", load=True)
    result = build_image(world.request(), delivery, world.tools)
    (call,) = published
    assert call["image"].digest == result.image.digest
    assert (call["index"], call["load"], call["output"]) == (None, True, None)
    assert str(call["name"].familiar) == "till:2"
    assert call["push"].familiar == f"registry.example/model:{RUN_ID}"
    assert result.reference == f"till@{result.image.digest}"
    assert result.pushed == f"registry.example/model@{result.image.digest}"
    assert world.store.tags[0][1]["kbuild.pushed"] == result.pushed
    found = LocalImages(world.tools.cache / "images").by_reference(call["name"])
    assert found is not None
    assert found.digest == result.image.digest
    (listed,) = list_here(world.tools.cache / "images")
    assert (listed.names, listed.said.pushed) == (("till:2",), (call["push"].familiar,))


@pytest.mark.parametrize(
    "stated",
    [
        {"push": "registry.example/till:1"},
        {"push": "registry.example/till:1", "once": True},
        {"load": True},
        {"load": True, "push": "registry.example/till:1", "once": True},
        {"output": Path("layout"), "load": True},
    ],
    ids=str,
)
def test_all_that_was_said_of_where_it_goes_reaches_who_brings_it_there(
    world: World, published: list[dict[str, Any]], stated: dict[str, Any]
) -> None:
    build_image(world.request(), Delivery(record=False, **stated), world.tools)
    (call,) = published
    said = {"output": None, "load": False, "push": None, "once": False, **stated}
    push = None if said["push"] is None else ImageReference.parse(said["push"])
    assert {name: call[name] for name in said} == {**said, "push": push}
    assert (call["base"], call["tools"].cache) == ("kbuild-base", world.tools.cache)


@pytest.mark.parametrize("tag", [None, "till:2"])
def test_what_no_registry_took_is_not_called_by_its_name(
    world: World, monkeypatch: pytest.MonkeyPatch, tag: str | None
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RegistryError("no")

    monkeypatch.setattr("kbuild.workflow.publishing.publish", refuse)
    with pytest.raises(RegistryError):
        build_image(world.request(), Delivery(tag=tag, push="registry.example/till:1"), world.tools)
    (listed,) = list_here(world.tools.cache / "images")
    assert (listed.names, listed.said.pushed) == (() if tag is None else (tag,), ())


def test_the_registered_version_that_it_was_built_of_is_remembered(world: World) -> None:
    world.store.models["models:/till/4"] = world.store.models[world.model]
    build_image(replace(world.request(), model="models:/till/4"), Delivery(record=False), world.tools)
    (listed,) = list_here(world.tools.cache / "images")
    assert listed.said.models == ("till/4",)


def test_the_version_that_training_made_is_that_of_the_name_though_a_run_was_named(world: World) -> None:
    asked = (RUN_ID, f"models:/{MODEL_ID}")
    world.store.numbered[asked] = ["model/4", "backup/9"]
    named = build_image(world.request(), Delivery(tag="till:{version}", record=False), world.tools)
    assert named.named == "till:4" and named.digest == build_image(world.request(), Delivery(), world.tools).digest
    (listed,) = list_here(world.tools.cache / "images")
    assert listed.said.models == ("model/4",)


@pytest.mark.parametrize("numbered", [[], ["backup/9"], ["model/4", "model/5"]])
def test_a_version_that_nobody_can_tell_is_asked_for(world: World, numbered: list[str]) -> None:
    world.store.numbered[RUN_ID, f"models:/{MODEL_ID}"] = numbered
    with pytest.raises(InvalidReference, match="the model has no version"):
        build_image(world.request(), Delivery(tag="till:{version}"), world.tools)


def test_what_goes_elsewhere_needs_no_name_in_a_cache_that_may_only_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch, published: list[dict[str, Any]]
) -> None:
    """Many read one cache that a machine made, on a disk that is mounted read-only."""
    first = build_image(world.request(), Delivery(), world.tools)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(LocalImages, "name", refuse)
    again = build_image(world.request(), Delivery(tag="other:1", load=True), world.tools)
    assert again.image.digest == first.image.digest and len(published) == 1
    with pytest.raises(OutputError, match="Read-only"):
        build_image(world.request(), Delivery(tag="other:1"), world.tools)


def test_what_goes_elsewhere_is_told_of_a_cache_that_is_full(
    world: World, monkeypatch: pytest.MonkeyPatch, published: list[dict[str, Any]]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    build_image(world.request(), Delivery(), world.tools)
    monkeypatch.setattr(LocalImages, "name", refuse)
    with pytest.raises(OutputError, match="No space left"):
        build_image(world.request(), Delivery(tag="other:1", load=True), world.tools)
    assert published == []


def test_a_place_that_does_not_take_it_leaves_the_image_and_tells_the_run_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        from kbuild.errors import RegistryError

        raise RegistryError("no")

    monkeypatch.setattr("kbuild.workflow.publishing.publish", refuse)
    with pytest.raises(Exception, match="no"):
        build_image(world.request(), Delivery(push="registry.example/till:1"), world.tools)
    assert world.store.tags == []
    again = build_image(world.request(), Delivery(), world.tools)
    assert again.reused


@pytest.mark.parametrize("write", [write_verdict, write_rebuild_verdict])
def test_a_verdict_names_the_image_that_was_looked_at(world: World, write: Callable[..., str | None]) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    (entry,) = json.loads((image.layout / "index.json").read_bytes())["manifests"]
    assert write(image, "passed", world.store) is None
    (told,) = world.store.tags
    assert told[0] == RUN_ID
    assert set(told[1].values()) == {"passed", entry["digest"]}
