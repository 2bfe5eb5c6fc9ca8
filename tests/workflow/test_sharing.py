"""Layers that builders share through a registry: what a machine with an empty disk fetches, makes and trusts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "image"))

from pip_settings import asked_once
from test_registry import FakeRegistry, Handler, serving
from world import RUN_ID, Heard, World, copy_world, make_world

from kbuild.cache.notes import write_vouched
from kbuild.digest import digest_bytes
from kbuild.image.deliver.sharing import LayerSharing, _split_key, parse_place
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.layer_cache import LayerCache
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery, ImageResult
from kbuild.workflow.once import Shared

KEY = "a text that all builders have"
MODEL_LAYERS = 1


@pytest.fixture(scope="module")
def built_with_key(tmp_path_factory: pytest.TempPathFactory) -> World:
    """On a machine that has the key; nobody changes it."""
    made = make_world(tmp_path_factory.mktemp("keyed"))
    with pytest.MonkeyPatch.context() as patch, asked_once():
        patch.setenv("KBUILD_CACHE_KEY", KEY)
        build_image(made.request(), Delivery(record=False), made.tools)
    return made


@pytest.fixture
def world(tmp_path: Path, built_with_key: World) -> World:
    """On a machine that has the key, and the packages from another build."""
    return copy_world(built_with_key, tmp_path)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("KBUILD_CACHE_KEY", KEY)
    with serving() as server:
        yield server


def place(registry: FakeRegistry) -> ImageReference:
    return parse_place(f"{registry.address}/team/cache", "--cache-to")


def build(world: World, *, give: ImageReference | None = None, take: ImageReference | None = None) -> ImageResult:
    """What one command does on one machine."""
    world.heard.notes.clear()
    tools = replace(world.tools, shared=Shared())
    return build_image(world.request(cache_from=take), Delivery(record=False, cache_to=give), tools)


def made(world: World) -> set[str]:
    """What was fetched and laid out on this machine."""
    kinds = ("downloads", "wheels", "interpreters")
    return {name for name in kinds if any((world.tools.cache / name).glob("*"))}


def told(world: World, word: str) -> list[str]:
    return [note for note in world.heard.notes if word in note]


@pytest.fixture
def given(world: World, registry: FakeRegistry) -> ImageResult:
    """Built on one machine, whose layers the registry then has."""
    return build(world, give=place(registry))


@pytest.mark.slow
def test_an_empty_machine_takes_the_layers_and_neither_fetches_nor_lays_out_a_package(
    world: World, registry: FakeRegistry, given: ImageResult
) -> None:
    other = world.with_cache("other")
    result = build(other, take=place(registry))
    assert not result.reused
    assert result.digest == given.digest
    assert made(other) == set()
    assert told(other, "download:") == []
    again = build(world.with_cache("third"))
    assert again.digest == given.digest
    assert made(world.with_cache("third")) == {"downloads", "wheels", "interpreters"}


@pytest.mark.slow
def test_the_layers_are_sent_once_and_the_model_never(world: World, registry: FakeRegistry, given: ImageResult) -> None:
    blobs = set(registry.blobs)
    own = [layer for layer in given.image.layers if layer.created_by.startswith(("COPY model", "COPY artifact"))]
    assert len(own) == MODEL_LAYERS
    below = {str(layer.digest) for layer in given.image.layers} - {str(layer.digest) for layer in own}
    base = json.loads((world.base / "index.json").read_bytes())["manifests"][0]
    assert blobs & {str(layer.digest) for layer in given.image.layers} < below
    assert base["digest"] not in blobs
    uploads = registry.uploads
    other = world.with_cache("other")
    build(other, take=place(registry), give=place(registry))
    assert registry.uploads == uploads
    assert set(registry.blobs) == blobs


@pytest.mark.slow
def test_an_image_pushed_beside_the_cache_is_mounted_from_it(
    world: World, registry: FakeRegistry, given: ImageResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    there = {str(layer.digest) for layer in given.image.layers} & set(registry.blobs)
    monkeypatch.setattr(Handler, "do_POST", _mounting(asked, Handler.do_POST))
    monkeypatch.setattr(Handler, "do_HEAD", lambda handler: handler.refused() or handler.answer(404))
    tools = replace(world.tools, shared=Shared())
    build_image(world.request(), Delivery(record=False, push=f"{registry.address}/team/model:1"), tools)
    assert {parse_qs(urlsplit(path).query)["mount"][0] for path in asked} == there
    assert all("from=team%2Fcache" in path for path in asked)


def _mounting(asked: list[str], post: Any) -> Any:
    def answer(handler: Handler) -> None:
        if "mount=" in handler.path:
            asked.append(handler.path)
            handler.answer(201)
        else:
            post(handler)

    return answer


@pytest.mark.slow
def test_nothing_is_asked_where_nothing_is_built(world: World, registry: FakeRegistry, given: ImageResult) -> None:
    registry.seen.clear()
    result = build(world, give=place(registry), take=place(registry))
    assert result.reused
    assert registry.seen == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["blob", "digest"])
def test_what_is_not_vouched_for_or_not_the_bytes_is_made_here(
    world: World, registry: FakeRegistry, given: ImageResult, how: str
) -> None:
    """Somebody who may write to the registry and has no key; see also ``test_shared_layers``."""
    tags = {tag: json.loads(data) for tag, (_, data) in registry.manifests.items() if tag.startswith("cache-")}
    layers = {tag: value for tag, value in tags.items() if "tar" in value["layers"][0]["mediaType"]}
    first, second = list(layers)[:2]
    if how == "blob":
        digest = layers[first]["layers"][0]["digest"]
        registry.blobs[digest] = bytes(len(registry.blobs[digest]))
    else:
        layers[first]["layers"] = layers[second]["layers"]
        registry.manifests[first] = (registry.manifests[first][0], json.dumps(layers[first]).encode())
    other = world.with_cache("other")
    result = build(other, take=place(registry), give=place(registry))
    assert result.digest == given.digest
    assert len(told(other, "is left out:")) == 1
    # And the next one finds it mended, but for bytes that the registry thinks it has.
    third = world.with_cache("third")
    assert build(third, take=place(registry)).digest == given.digest
    assert bool(told(third, "is left out:")) is (how == "blob")


@pytest.mark.slow
def test_with_another_key_nothing_there_counts_and_neither_is_in_the_others_way(
    world: World, registry: FakeRegistry, given: ImageResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBUILD_CACHE_KEY", KEY + " else")
    other = world.with_cache("other")
    assert build(other, take=place(registry), give=place(registry)).digest == given.digest
    assert made(other) == {"downloads", "wheels", "interpreters"}
    assert told(other, "left out") == []
    monkeypatch.setenv("KBUILD_CACHE_KEY", KEY)
    third = world.with_cache("third")
    build(third, take=place(registry))
    assert made(third) == set()


@pytest.mark.slow
def test_a_user_without_a_shared_key_is_told(
    world: World, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KBUILD_CACHE_KEY")
    monkeypatch.setattr("platformdirs.user_state_dir", lambda name: str(tmp_path / "state"))
    other = world.with_cache("other")
    build(other, take=place(registry), give=place(registry))
    assert len(told(other, "KBUILD_CACHE_KEY is not set")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("how", "fails"), [("away", 2), ("refuses", 2), ("read only", 1), ("breaks off", 1)])
def test_a_registry_that_fails_is_told_and_the_image_is_the_same(
    world: World, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, how: str, fails: int
) -> None:
    expected = build(world).digest
    there = place(registry)
    if how == "away":
        there = ImageReference.parse("127.0.0.1:9/team/cache")
    elif how == "refuses":
        registry.user = "somebody:else"
    elif how == "read only":
        monkeypatch.setattr(Handler, "do_POST", lambda handler: handler.answer(403))
    else:
        build(world, give=there)
        answer = Handler.answer

        def cut(handler: Handler, code: int, data: bytes = b"", **headers: str) -> None:
            if len(data) < 900 or handler.command == "HEAD":
                answer(handler, code, data, **headers)
                return
            handler.send_response(code)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[:100])
            handler.close_connection = True

        monkeypatch.setattr(Handler, "answer", cut)
    other = world.with_cache("other")
    assert build(other, take=there, give=there).digest == expected
    # Once for taking, once for giving, as far as either fails.
    assert len(told(other, "is left out:")) == fails, other.heard.notes


@pytest.mark.slow
def test_a_repository_that_is_not_there_yet_is_made_though_nobody_may_look_into_it(
    world: World, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As registries answer that tell nobody whether a repository exists: the first builder of all has to begin."""
    get = Handler.do_GET

    def refuse(handler: Handler) -> None:
        empty = "/manifests/" in handler.path and not registry.manifests
        handler.answer(403, b'{"errors":[{"code":"DENIED","message":"denied"}]}') if empty else get(handler)

    monkeypatch.setattr(Handler, "do_GET", refuse)
    first = world.with_cache("first")
    build(first, take=place(registry), give=place(registry))
    assert len(told(first, "is left out:")) == 1
    other = world.with_cache("other")
    build(other, take=place(registry))
    assert made(other) == set()


@pytest.mark.slow
def test_proof_by_building_again_takes_nothing_from_the_registry(
    world: World, registry: FakeRegistry, given: ImageResult
) -> None:
    registry.seen.clear()
    other = world.with_cache("other")
    tools = replace(other.tools, shared=Shared())
    result = build_image(world.request(cache_from=place(registry)), Delivery(record=False), tools, reuse=False)
    assert result.digest == given.digest
    assert registry.seen == []


@pytest.mark.slow
def test_two_models_of_one_environment_differ_in_what_is_not_shared(
    world: World, registry: FakeRegistry, given: ImageResult
) -> None:
    (world.store.models[world.model] / "model.txt").write_bytes(b"another model\n")
    other = world.with_cache("other")
    result = build(other, take=place(registry))
    assert result.digest != given.digest
    assert made(other) == set()
    assert RUN_ID in world.model


@pytest.mark.slow
def test_a_record_of_another_key_is_replaced(
    world: World, registry: FakeRegistry, given: ImageResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as the cache of a runner had it from before there was a key: each of its builds fetched all packages."""
    other = world.with_cache("other")
    (record,) = (world.tools.cache / "splits").iterdir()
    stale = other.tools.cache / "splits" / record.name
    stale.parent.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setenv("KBUILD_CACHE_KEY", "a text of somebody else")
        write_vouched(stale, read_unmarked(record))
    assert stale.read_bytes() != record.read_bytes()
    assert build(other, take=place(registry)).digest == given.digest
    assert made(other) == set()
    assert stale.read_bytes() == record.read_bytes()


def read_unmarked(record: Path) -> bytes:
    """The data before the mark, a line of its own."""
    return record.read_bytes().rpartition(b"\n")[0]


def test_how_wheels_are_split_is_found_by_other_releases_too() -> None:
    """Of the record's name alone, in canonical JSON: a registry is shared by builders of several releases."""
    name = f"{'a' * 64}.json"
    assert _split_key(Path("/cache", name)).hex == hashlib.sha256(f'["split","{name}"]'.encode()).hexdigest()


def test_a_registry_that_has_failed_is_asked_no_more(
    tmp_path: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(handler: Handler) -> None:
        asked.append(handler.path)
        handler.answer(403)

    for method in ("do_GET", "do_HEAD"):
        monkeypatch.setattr(Handler, method, refuse)
    taken = LayerSharing(place(registry), tmp_path)
    layers, keys, heard = LayerCache(root=tmp_path / "layers", compression="zstd"), {"one": digest_bytes(b"1")}, Heard()
    with heard("build") as progress:
        assert taken.bring({}, layers, progress) == {} and not asked
        assert taken.bring(keys, layers, progress) == {} and asked
        asked.clear()
        assert taken.bring(keys, layers, progress) == {} and not asked
    assert len([note for note in heard.notes if "asking" in note]) == 1
