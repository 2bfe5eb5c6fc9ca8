from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plans import EMPTY, Bytes
from test_registry import AMD64, ARM64, FakeRegistry, make_image, push, serving

from kbuild.cli.inspect import command
from kbuild.digest import canonical_json, digest_bytes
from kbuild.errors import HashMismatch, ImageNotFound, InvalidImage, RegistryError
from kbuild.image.compare.diff import diff_images
from kbuild.image.engine import BuiltImage, EngineOutput, RawLayer
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, make_index
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.validate import validate_layout
from kbuild.image.registry.remote import RemoteImages
from kbuild.image.registry.transfer import pull_image
from kbuild.image.store.pack import pack
from kbuild.platform import Platform
from kbuild.progress import Silent


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    with serving() as server:
        yield server


def tar(name: str) -> bytes:

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def layered(layout: Path, *names: str, platform: Platform = AMD64) -> BuiltImage:
    layers = tuple(RawLayer(content=Bytes(tar(name)), created_by=f"COPY {name} /") for name in names)
    output = EngineOutput(layers=layers, config={})
    return pack(output, replace(EMPTY, platform=platform), layout, engine="fake", progress=Silent())


def fetched(registry: FakeRegistry) -> list[str]:
    """The blobs that were asked for since the last time."""
    asked = [path.rpartition("/")[2] for path, _ in registry.seen if "/blobs/sha256" in path]
    registry.seen.clear()
    return asked


def test_the_documents_come_first_and_a_layer_when_it_is_needed(registry: FakeRegistry, tmp_path: Path) -> None:
    built = layered(tmp_path / "built", "a", "b")
    pushed = push(built, ImageReference.parse(f"{registry.address}/demo:1"))
    fetched(registry)
    images = RemoteImages(cache=tmp_path / "cache")
    found = images.find(pushed, None, Silent())
    assert replace(found, layout=built.layout, engine="fake") == built
    assert fetched(registry) == [str(built.config_digest)]
    found.bring([built.layers[1].digest], Silent())
    assert fetched(registry) == [str(built.layers[1].digest)]
    found.bring_all(Silent())
    assert fetched(registry) == [str(built.layers[0].digest)]
    validate_layout(found.layout)
    registry.manifests.clear()
    registry.blobs.clear()
    images.find(pushed, None, Silent()).bring_all(Silent())
    assert registry.seen == []


def test_comparing_fetches_the_layers_that_differ_alone(registry: FakeRegistry, tmp_path: Path) -> None:
    one = push(layered(tmp_path / "1", "same", "a"), ImageReference.parse(f"{registry.address}/one:1"))
    two = push(layered(tmp_path / "2", "same", "b"), ImageReference.parse(f"{registry.address}/two:1"))
    images = RemoteImages(cache=tmp_path / "cache")
    before, after = images.find(one, None, Silent()), images.find(two, None, Silent())
    fetched(registry)
    diff = diff_images(before, after, Silent())
    assert [change.name for change in diff.files] == ["/a", "/b"]
    assert sorted(fetched(registry)) == sorted(str(image.layers[1].digest) for image in (before, after))


def test_a_layer_that_another_image_here_has_is_not_sent(registry: FakeRegistry, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    layered(cache / "images" / "x", "same", "a")
    pushed = push(layered(tmp_path / "2", "same", "b"), ImageReference.parse(f"{registry.address}/two:1"))
    found = RemoteImages(cache=cache).find(pushed, None, Silent())
    fetched(registry)
    found.bring_all(Silent())
    assert fetched(registry) == [str(found.layers[1].digest)]
    validate_layout(found.layout)


def test_other_bytes_than_named_are_refused_and_not_kept(registry: FakeRegistry, tmp_path: Path) -> None:
    built = layered(tmp_path / "built", "a", "b")
    pushed = push(built, ImageReference.parse(f"{registry.address}/demo:1"))
    images = RemoteImages(cache=tmp_path / "cache")
    found = images.find(pushed, None, Silent())
    good = registry.blobs[str(built.layers[0].digest)]
    registry.blobs[str(built.layers[0].digest)] = b"x" * len(good)
    with pytest.raises(HashMismatch):
        found.bring_all(Silent())
    with pytest.raises(InvalidImage, match="missing"):
        validate_layout(found.layout)
    registry.blobs[str(built.layers[0].digest)] = good
    found.bring_all(Silent())
    validate_layout(found.layout)
    registry.manifests[str(built.digest)] = (media.MANIFEST, b"{}")
    with pytest.raises(HashMismatch, match="another manifest"):
        RemoteImages(cache=tmp_path / "other").find(pushed, None, Silent())
    assert not list((tmp_path / "other").glob("remote/*"))


def test_an_index_is_one_image_for_a_platform_or_all(registry: FakeRegistry, tmp_path: Path) -> None:
    reference = ImageReference.parse(f"{registry.address}/demo:1")
    entries = []
    for platform in (AMD64, ARM64):
        built = make_image(tmp_path / platform.architecture, platform)
        push(built, reference)
        size = len(registry.manifests[str(built.digest)][1])
        named = (platform.os, platform.architecture)
        entries.append(Descriptor(media_type=media.MANIFEST, digest=built.digest, size=size, platform=named))
    registry.manifests["multi"] = (media.INDEX, canonical_json(make_index(tuple(entries))))
    images = RemoteImages(cache=tmp_path / "cache")
    index = images.index(reference.with_tag("multi"), Silent())
    assert index is not None and [*index.images] == [AMD64, ARM64]
    index.images[ARM64].bring_all(Silent())
    assert images.find(reference.with_tag("multi"), ARM64, Silent()).digest == entries[1].digest
    assert images.index(reference, Silent()) is None


def attestation(built: BuiltImage, *, said: bool) -> tuple[bytes, Descriptor]:
    """What ``docker buildx build`` puts beside an image: moby/buildkit docs/attestations/attestation-storage.md."""
    layer = {"mediaType": "application/vnd.in-toto+json", "digest": f"sha256:{'1' * 64}", "size": 5}
    config = {"mediaType": media.CONFIG, "digest": f"sha256:{'2' * 64}", "size": 167}
    data = canonical_json({"schemaVersion": 2, "mediaType": media.MANIFEST, "config": config, "layers": [layer]})
    words = {"vnd.docker.reference.digest": str(built.digest), "vnd.docker.reference.type": "attestation-manifest"}
    return data, Descriptor(
        media_type=media.MANIFEST,
        digest=digest_bytes(data),
        size=len(data),
        annotations=tuple(words.items()) if said else (),
        platform=("unknown", "unknown"),
    )


@pytest.mark.parametrize("said", [True, False])
def test_what_buildx_says_about_an_image_is_no_image(registry: FakeRegistry, tmp_path: Path, said: bool) -> None:
    reference = ImageReference.parse(f"{registry.address}/demo:1")
    built = layered(tmp_path / "built", "a", "b")
    push(built, reference)
    data, attests = attestation(built, said=said)
    size = len(registry.manifests[str(built.digest)][1])
    image = Descriptor(media_type=media.MANIFEST, digest=built.digest, size=size, platform=("linux", "amd64"))
    registry.manifests["built"] = (media.INDEX, canonical_json(make_index((image, attests))))
    registry.manifests[str(attests.digest)] = (media.MANIFEST, data)
    images = RemoteImages(cache=tmp_path / "cache")
    registry.seen.clear()
    assert images.index(reference.with_tag("built"), Silent()) is None
    found = images.find(reference.with_tag("built"), None, Silent())
    assert found.digest == built.digest
    assert not [path for path, _ in registry.seen if str(attests.digest) in path]
    found.bring_all(Silent())
    validate_layout(found.layout)
    # In a layout that has it, it is no image either.
    layouts.blob_path(found.layout, attests.digest).write_bytes(data)
    top = layouts.read_index(found.layout)[0].digest
    assert [entry.digest for entry in layouts.list_images(found.layout, top)] == [built.digest]
    assert layouts.find_manifest(found.layout).digest == built.digest


def test_a_config_of_gigabytes_is_not_fetched(registry: FakeRegistry, tmp_path: Path) -> None:
    layers: list[object] = []
    config = {"mediaType": media.CONFIG, "digest": f"sha256:{'2' * 64}", "size": (4 << 20) + 1}
    manifest = {"schemaVersion": 2, "mediaType": media.MANIFEST, "config": config, "layers": layers}
    registry.manifests["large"] = (media.MANIFEST, canonical_json(manifest))
    reference = ImageReference.parse(f"{registry.address}/demo:large")
    for asked in (
        lambda: RemoteImages(cache=tmp_path / "cache").find(reference, None, Silent()),
        lambda: pull_image(reference, AMD64, cache=tmp_path / "pulled", progress=Silent()),
    ):
        with pytest.raises(InvalidImage, match="is said to have 4194305 bytes, more than 4 MiB"):
            asked()
    assert fetched(registry) == []


def test_an_index_in_many_indexes_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    data, name = canonical_json(make_index(())), ""
    for _ in range(9):
        name = str(digest_bytes(data))
        registry.manifests[name] = (media.INDEX, data)
        data = canonical_json(
            make_index((Descriptor(media_type=media.INDEX, digest=digest_bytes(data), size=len(data)),))
        )
    with pytest.raises(InvalidImage, match="lies in 5 others"):
        reference = ImageReference.parse(f"{registry.address}/demo@{name}")
        RemoteImages(cache=tmp_path / "cache").find(reference, None, Silent())


def inspected(cache: Path, *argv: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(cache))
    return CliRunner().invoke(command, argv, standalone_mode=False, catch_exceptions=True)


def test_a_command_takes_what_a_registry_has(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = layered(tmp_path / "built", "a", "b")
    pushed = push(built, ImageReference.parse(f"{registry.address}/demo:1"))
    monkeypatch.chdir(tmp_path)
    for text in (str(pushed), f"{registry.address}/demo:1"):
        result = inspected(tmp_path / "cache", text, "--json", monkeypatch=monkeypatch)
        assert f'"digest": "{built.digest}"' in result.output, result
    absent = inspected(tmp_path / "c", f"{registry.address}/demo:2", monkeypatch=monkeypatch)
    assert isinstance(absent.exception, RegistryError)
    registry.seen.clear()
    for text in ("demo:1", "demo", "0" * 32, f"{registry.address}/demo"):
        result = inspected(tmp_path / "c", text, monkeypatch=monkeypatch)
        assert isinstance(result.exception, ImageNotFound)
    assert registry.seen == []
