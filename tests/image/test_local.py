import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from plans import EMPTY, Bytes

from kbuild.cache.notes import reading_all, write_vouched
from kbuild.digest import digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.engine import BuiltImage, EngineOutput, RawLayer
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import blob_path
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import pack
from kbuild.progress import Silent


def built(layout: Path, text: bytes) -> BuiltImage:
    output = EngineOutput(layers=(RawLayer(content=Bytes(text), created_by="COPY"),), config={})
    return pack(output, EMPTY, layout, engine="native", progress=Silent())


def add(images: LocalImages, text: bytes) -> BuiltImage:
    return images.add(lambda layout: built(layout, text))


@pytest.fixture
def images(tmp_path: Path) -> LocalImages:
    return LocalImages(tmp_path / "images")


def parse(text: str) -> ImageReference:
    return ImageReference.parse(text)


def test_an_image_is_kept_under_its_digest_and_nothing_else_is_left(images: LocalImages) -> None:
    image = add(images, b"one")
    assert image.layout == images.root / image.digest.hex
    assert [path.name for path in images.root.iterdir()] == [image.digest.hex]
    assert images.by_digest(image.digest) is not None
    assert add(images, b"one") == image


def test_a_build_that_fails_leaves_nothing(images: LocalImages) -> None:
    def fail(layout: Path) -> BuiltImage:
        layout.mkdir()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        images.add(fail)
    assert list(images.root.iterdir()) == []


def test_names_mean_the_last_image_of_that_name(images: LocalImages) -> None:
    one, two = add(images, b"one"), add(images, b"two")
    images.name(one, parse("churn:1"))
    images.name(two, parse("churn:2"))
    images.name(one, parse("churn"))
    assert images.by_reference(parse("churn:1")) == one
    assert images.by_reference(parse("churn:2")) == two
    assert images.by_reference(parse("churn")) == images.by_reference(parse("churn:latest")) == one
    images.name(two, parse("churn:latest"))
    assert images.by_reference(parse("churn")) == two


def test_another_tag_is_another_image_and_not_the_latest(images: LocalImages) -> None:
    images.name(add(images, b"one"), parse("churn:latest"))
    assert images.by_reference(parse("churn:3")) is None
    assert images.by_reference(parse("other")) is None


def test_a_digest_is_found_whatever_the_name(images: LocalImages) -> None:
    image = add(images, b"one")
    found = images.by_reference(parse("whatever").with_digest(image.digest))
    assert found is not None and found.digest == image.digest
    assert images.by_reference(parse("whatever").with_digest(digest_bytes(b"none"))) is None


def test_plans_lead_to_images_while_these_are_there(images: LocalImages) -> None:
    image = add(images, b"one")
    key = digest_bytes(b"plan")
    assert images.by_plan(key) is None
    images.record_plan(key, image)
    assert images.by_plan(key) == image
    image.layout.rename(image.layout.with_name("gone"))
    assert images.by_plan(key) is None


def test_what_a_plan_was_built_to_is_built_again_where_it_is_damaged(images: LocalImages) -> None:
    image = add(images, b"one")
    key = digest_bytes(b"plan")
    images.record_plan(key, image)
    blob_path(image.layout, image.config_digest).write_bytes(b"")
    assert images.by_plan(key) is None
    [entry] = (images.root / "plans").iterdir()
    entry.write_text("")
    assert images.by_plan(key) is None


def test_a_damaged_entry_is_named(images: LocalImages) -> None:
    images.name(add(images, b"one"), parse("churn:1"))
    [entry] = (images.root / "references").iterdir()
    for content in (b"", b"{}", json.dumps({"digest": "x", "engine": "native"}).encode()):
        write_vouched(entry, content)
        with pytest.raises(InvalidImage, match="is damaged"):
            images.by_reference(parse("churn:1"))


def test_what_others_say_of_images_counts_for_nothing(images: LocalImages, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, key = add(images, b"one"), add(images, b"other"), digest_bytes(b"plan")
    images.name(one, parse("churn:1"))
    images.record_plan(key, one)
    for kind in ("references", "plans"):
        [entry] = (images.root / kind).iterdir()
        entry.write_bytes(entry.read_bytes().replace(one.digest.hex.encode(), other.digest.hex.encode()))
    assert images.by_reference(parse("churn:1")) is None and images.by_plan(key) is None
    images.record_plan(key, one)
    monkeypatch.setenv("KBUILD_CACHE_KEY", "another machine's secret")
    assert images.by_plan(key) is None


@pytest.mark.parametrize("thorough", [False, True])
def test_a_layer_that_somebody_wrote_to_is_found_by_what_was_built_of_a_plan(
    images: LocalImages, thorough: bool
) -> None:
    image, key = add(images, b"one"), digest_bytes(b"plan")
    images.record_plan(key, image)
    blob = blob_path(image.layout, image.layers[0].digest)
    before, content = blob.stat(), blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    if thorough:  # dated back, which nobody but its owner can
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert images.by_plan(key) == image
        with reading_all():
            assert images.by_plan(key) is None
    else:
        assert images.by_plan(key) is None


def test_replacing_fields_makes_another_plan() -> None:
    assert replace(EMPTY, created=1).digest != EMPTY.digest


def test_an_image_that_lost_its_manifest_is_replaced_when_it_is_built_again(images: LocalImages) -> None:
    image = add(images, b"one")
    blob_path(image.layout, image.digest).unlink()
    assert add(images, b"one") == image
    assert images.by_digest(image.digest) is not None
