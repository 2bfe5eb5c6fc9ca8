import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from plans import EMPTY, Bytes

from kbuild.digest import Digest, digest_bytes
from kbuild.errors import InvalidImage, PlatformError
from kbuild.image.engine import BuiltImage, EngineOutput, RawLayer
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import find_manifest, layout_tar
from kbuild.image.oci.validate import validate_layout
from kbuild.image.registry.transfer import push_index
from kbuild.image.store.image_index import BuiltIndex, find_index, index_in, single_image, write_index
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import image_in, pack
from kbuild.platform import Platform, host_platform
from kbuild.progress import Silent

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
NAME = ImageReference.parse("churn:1")


def built(layout: Path, platform: Platform, text: bytes) -> BuiltImage:
    layers = tuple(RawLayer(content=Bytes(data), created_by="COPY") for data in (b"in both", text))
    plan = replace(EMPTY, platform=platform)
    return pack(EngineOutput(layers=layers, config={}), plan, layout, engine="native", progress=Silent())


@pytest.fixture
def images(tmp_path: Path) -> LocalImages:
    return LocalImages(tmp_path / "images")


@pytest.fixture
def both(images: LocalImages) -> dict[Platform, BuiltImage]:
    return {
        platform: images.add(lambda layout, platform=platform: built(layout, platform, str(platform).encode()))
        for platform in (ARM64, AMD64)
    }


@pytest.fixture
def index(images: LocalImages, both: dict[Platform, BuiltImage]) -> BuiltIndex:
    return images.add_index(both)


def test_the_index_has_each_image_by_its_own_digest_in_one_order(
    index: BuiltIndex, both: dict[Platform, BuiltImage], tmp_path: Path
) -> None:
    validate_layout(index.layout)
    document = layouts.read_json_blob(index.layout, index.digest)
    assert document["mediaType"] == media.INDEX and document["schemaVersion"] == 2
    assert document["manifests"] == [
        {
            "mediaType": media.MANIFEST,
            "digest": str(both[platform].digest),
            "size": layouts.blob_path(both[platform].layout, both[platform].digest).stat().st_size,
            "platform": {"architecture": platform.architecture, "os": "linux"},
        }
        for platform in (AMD64, ARM64)
    ]
    again = write_index(dict(reversed(both.items())), tmp_path / "again", reference=NAME)
    assert again.digest == index.digest and list(again.images) == [AMD64, ARM64]
    (entry,) = layouts.read_index(again.layout)
    assert entry.digest == index.digest and dict(entry.annotations)["org.opencontainers.image.ref.name"] == "1"
    # What the images share is there once.
    assert index.size < sum(image.size for image in both.values()) + 2000


def test_an_image_of_an_index_is_the_one_asked_for_else_this_machines(
    images: LocalImages, index: BuiltIndex, both: dict[Platform, BuiltImage]
) -> None:
    images.name(index, NAME)
    assert images.by_reference(NAME, platform=ARM64) == both[ARM64]
    assert images.by_digest(index.digest, platform=AMD64) == replace(both[AMD64], engine="unknown")
    here = images.by_reference(NAME)
    assert here is not None and here.digest == both[host_platform()].digest
    assert images.by_digest(both[ARM64].digest) == replace(both[ARM64], engine="unknown")
    found = images.index_by_reference(NAME)
    assert found is not None and found.digest == index.digest and list(found.images) == [AMD64, ARM64]
    assert images.index_by_reference(NAME.with_digest(both[ARM64].digest)) is None
    with pytest.raises(InvalidImage, match="does not hold"):
        images.by_digest(both[ARM64].digest, platform=AMD64)
    with pytest.raises(PlatformError):
        replace(index, images={ARM64: both[ARM64]}).for_platform(AMD64)


def test_an_image_whose_own_layout_was_pruned_comes_back_from_the_index(
    images: LocalImages, index: BuiltIndex, both: dict[Platform, BuiltImage]
) -> None:
    (both[ARM64].layout / "index.json").unlink()
    both[ARM64].layout.rename(images.root / "gone")
    again = images.by_digest(index.digest, platform=ARM64)
    assert again is not None and again.layout == both[ARM64].layout
    assert [layout.digest for layout in layouts.read_index(again.layout)] == [both[ARM64].digest]
    validate_layout(again.layout)


def test_a_single_image_leaves_the_others_behind(index: BuiltIndex, tmp_path: Path) -> None:
    alone = single_image(index.for_platform(ARM64), tmp_path / "alone")
    validate_layout(alone.layout)
    assert image_in(alone.layout, engine="native").digest == alone.digest
    assert find_index(alone.layout) is None and find_index(index.layout) == index.digest
    assert len(list((alone.layout / "blobs/sha256").iterdir())) == 4


def test_a_tar_of_an_index_is_named_and_has_no_manifest_for_one_platform(index: BuiltIndex, tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "index.tar").write_bytes(b"".join(layout_tar(index.layout, reference=NAME)))
    with tarfile.open(tmp_path / "index.tar") as archive:
        archive.extractall(tmp_path / "out", filter="data")
    validate_layout(tmp_path / "out")
    assert not (tmp_path / "out/manifest.json").exists()
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == str(index.digest)
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/churn:1"


def test_several_images_and_no_word_about_which_is_an_error(index: BuiltIndex) -> None:
    with pytest.raises(InvalidImage, match="several images"):
        find_manifest(index.layout)
    with pytest.raises(InvalidImage, match="does not hold") as caught:
        find_manifest(index.layout, platform=Platform("linux", "riscv64"))
    assert "linux/amd64, linux/arm64" in str(caught.value.hint)


def test_an_index_that_names_no_platforms_is_refused(both: dict[Platform, BuiltImage], tmp_path: Path) -> None:
    index = write_index(both, tmp_path / "layout")
    document = layouts.read_json_blob(index.layout, index.digest)
    for entry in document["manifests"]:
        del entry["platform"]
    other = layouts.write_json_blob(index.layout, document, media.INDEX)
    (index.layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [other.to_json()]}))
    with pytest.raises(InvalidImage, match="does not say which platform"):
        index_in(index.layout, other.digest, engine="native")


def test_the_tag_gets_the_index_itself(index: BuiltIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[tuple[str, str, Digest]] = []

    class Client:
        def __init__(self, reference: ImageReference) -> None:
            assert reference.repository == "library/churn"

        def push_manifest(self, version: str, media_type: str, data: bytes) -> None:
            pushed.append((version, media_type, digest_bytes(data)))

    monkeypatch.setattr("kbuild.image.registry.transfer.RegistryClient", Client)
    assert push_index(index, NAME).digest == index.digest
    assert pushed == [("1", media.INDEX, index.digest)]


@pytest.mark.slow
def test_many_that_keep_the_same_index_at_once_all_have_it(
    images: LocalImages, both: dict[Platform, BuiltImage]
) -> None:
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda _: images.add_index(both), range(40)))
    assert len({index.digest for index in kept}) == 1
    validate_layout(kept[0].layout)
    assert [path.name for path in images.root.iterdir() if path.name.startswith(".")] == []


def test_an_index_that_lost_a_blob_is_replaced(
    index: BuiltIndex, images: LocalImages, both: dict[Platform, BuiltImage]
) -> None:
    layouts.blob_path(index.layout, both[AMD64].layers[1].digest).unlink()
    validate_layout(images.add_index(both).layout)


def test_the_image_of_an_index_says_which_others_have_its_name(
    index: BuiltIndex, both: dict[Platform, BuiltImage], images: LocalImages
) -> None:
    other = next(each for each in both if each != host_platform())
    for found in (images.by_digest(index.digest), image_in(index.layout, engine="native")):
        assert found is not None and found.others == (str(other),)
    # Who said which one, or named it by its own digest, has left none out.
    for found in (images.by_digest(index.digest, platform=other), images.by_digest(both[other].digest)):
        assert found is not None and found.others == ()


def test_an_image_of_a_platform_is_one_whatever_its_notes_say(images: LocalImages, index: BuiltIndex) -> None:
    """containerd knows no notes of attestations: it takes what is for its platform."""
    document = layouts.read_json_blob(index.layout, index.digest)
    for entry in document["manifests"]:
        entry["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    top = layouts.write_json_blob(index.layout, document, media.INDEX)
    (index.layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top.to_json()]}), "utf-8")
    assert len(layouts.find_images(index.layout)) == 2
