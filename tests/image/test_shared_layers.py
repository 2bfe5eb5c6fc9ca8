"""What a registry says of shared layers, and what of it counts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_registry import FakeRegistry, serving

from kbuild.digest import Digest, digest_bytes
from kbuild.errors import HashMismatch, InvalidReference
from kbuild.image.deliver.sharing import parse_place
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.shared_layers import SharedBlob, SharedLayers
from kbuild.progress import Silent

ONE, TWO = digest_bytes(b"one"), digest_bytes(b"two")
TAR = "application/vnd.oci.image.layer.v1.tar+zstd"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("KBUILD_CACHE_KEY", "a text that all builders have")
    with serving() as server:
        yield server


@pytest.fixture
def layers(registry: FakeRegistry) -> Iterator[SharedLayers]:
    client = SharedLayers(ImageReference.parse(f"{registry.address}/team/cache"))
    yield client
    client.close()


def give(layers: SharedLayers, folder: Path, key: Digest, data: bytes) -> SharedBlob:
    path = folder / key.hex
    path.write_bytes(data)
    digest = Digest(hashlib.sha256(data).hexdigest())
    blob = SharedBlob(media_type=TAR, digest=digest, size=len(data), diff_id=digest_bytes(data + b" unpacked"))
    layers.put(key, blob, path, sources=[], scratch=folder, progress=Silent())
    return blob


def test_what_was_given_is_found_by_its_key_and_is_an_artifact_of_the_specification(
    registry: FakeRegistry, layers: SharedLayers, tmp_path: Path
) -> None:
    blob = give(layers, tmp_path, ONE, b"a layer")
    assert layers.find(ONE) == blob
    assert layers.find(TWO) is None
    layers.fetch(blob, tmp_path / "fetched", Silent())
    assert (tmp_path / "fetched").read_bytes() == b"a layer"
    ((media_type, data),) = {value for tag, value in registry.manifests.items() if tag.startswith("cache-")}
    manifest = json.loads(data)
    assert media_type == manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    # image-spec, artifacts-guidance.md: a media type of the artifact's own, and its blob has to be there.
    assert manifest["config"]["mediaType"] == "application/vnd.kbuild.cache.v1+json"
    assert registry.blobs[manifest["config"]["digest"]] == b"{}"
    assert manifest["layers"] == [{"mediaType": TAR, "digest": str(blob.digest), "size": 7}]
    assert all(len(tag) <= 128 for tag in registry.manifests)


@pytest.mark.parametrize("how", ["layer", "size", "diff ID", "moved", "no mark", "not ascii", "no layer", "no JSON"])
def test_what_somebody_without_the_key_wrote_does_not_count(
    registry: FakeRegistry, layers: SharedLayers, tmp_path: Path, how: str
) -> None:
    for key, data in ((ONE, b"a layer"), (TWO, b"another")):
        give(layers, tmp_path, key, data)
    one, two = [tag for tag in registry.manifests if tag.startswith("cache-")]
    said: dict[str, Any] = json.loads(registry.manifests[one][1])
    other = json.loads(registry.manifests[two][1])
    notes = said["annotations"]
    if how == "layer":
        said["layers"] = other["layers"]
    elif how == "size":
        said["layers"][0]["size"] = 1 << 40
    elif how == "diff ID":
        notes["io.kbuild.cache.diff-id"] = other["annotations"]["io.kbuild.cache.diff-id"]
    elif how == "moved":
        said = other
    elif how == "no mark":
        del notes["io.kbuild.cache.mark"]
    elif how == "not ascii":
        notes["io.kbuild.cache.mark"] = "\u00e4\ud800"
    elif how == "no layer":
        said["layers"] = []
    data = b"{" if how == "no JSON" else json.dumps(said).encode()
    registry.manifests[one] = (registry.manifests[one][0], data)
    with pytest.raises(HashMismatch, match="without this KBUILD_CACHE_KEY"):
        layers.find(ONE)
    assert layers.find(TWO) is not None


def test_builders_of_another_key_see_nothing_of_it(
    registry: FakeRegistry, layers: SharedLayers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = give(layers, tmp_path, ONE, b"a layer")
    with monkeypatch.context() as patch:
        patch.setenv("KBUILD_CACHE_KEY", "a text that others have")
        assert layers.find(ONE) is None
        give(layers, tmp_path, ONE, b"their layer")
    assert layers.find(ONE) == blob


def test_bytes_are_sent_once(registry: FakeRegistry, layers: SharedLayers, tmp_path: Path) -> None:
    give(layers, tmp_path, ONE, b"a layer")
    assert registry.uploads == 2  # and the empty config
    give(layers, tmp_path, TWO, b"a layer")
    assert registry.uploads == 2
    assert layers.find(TWO) == layers.find(ONE)


@pytest.mark.parametrize("text", ["registry.example/team/cache:1", f"registry.example/team/cache@sha256:{'0' * 64}"])
def test_a_place_is_a_repository(text: str) -> None:
    with pytest.raises(InvalidReference, match="repository of their own") as caught:
        parse_place(text, "--cache-to")
    assert caught.value.hint == "--cache-to registry.example/team/cache"
