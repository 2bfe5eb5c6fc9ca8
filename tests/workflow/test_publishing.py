"""Where an image goes, in which order, and which of several."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from world import HOST, World

from kbuild.digest import Digest
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.local import LocalImages
from kbuild.plan.build_plan import BASE_CONTEXT
from kbuild.platform import Platform
from kbuild.workflow import Delivery, build_image, publishing

OTHER = Platform.parse("linux/arm64" if HOST.architecture == "amd64" else "linux/amd64")
NAME = ImageReference.parse("till:3")
PUSHED = ImageReference.parse("registry.example/till:3")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a daemon and a registry were given, in its order."""
    calls: list[tuple[Any, ...]] = []

    class Daemon:
        def __init__(self, **given: Any) -> None:
            pass

        def publish(self, image: Any, reference: Any, *, progress: Any) -> None:
            calls.append(("load", str(image.digest), str(reference)))

    class Registry(Daemon):
        def __init__(self, *, places: Any, base: ImageReference | None) -> None:
            self.base = base

        def publish(self, image: Any, reference: Any, *, progress: Any) -> None:
            calls.append(("push", str(image.digest), str(reference), None if self.base is None else str(self.base)))

    monkeypatch.setattr(publishing, "DaemonPublisher", Daemon)
    monkeypatch.setattr(publishing, "RegistryPublisher", Registry)
    monkeypatch.setattr(publishing, "DockerDaemon", object)
    monkeypatch.setattr(
        "kbuild.image.registry.transfer.push_index",
        lambda index, reference: calls.append(("index", str(index.digest), str(reference))),
    )
    return calls


def publish(world: World, image: Any, **given: Any) -> None:
    facts = {"index": None, "output": None, "load": False, "push": None, "base": BASE_CONTEXT, "tools": world.tools}
    publishing.publish(image, NAME, **(facts | given))


def test_an_image_goes_where_it_was_asked_to(world: World, sent: list[tuple[Any, ...]], tmp_path: Path) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    publish(world, image)
    assert sent == []
    publish(world, image, load=True, push=PUSHED, output=tmp_path / "layout")
    assert sent == [("load", str(image.digest), str(NAME)), ("push", str(image.digest), str(PUSHED), None)]
    entrance = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    assert [each["digest"] for each in entrance] == [str(image.digest)]
    sent.clear()
    # A base of a registry may be mounted there from its own repository.
    for base, told in (("docker.io/library/debian:12", "docker.io/library/debian:12"), ("scratch", None)):
        publish(world, image, push=PUSHED, base=base)
        assert [each[3] for each in sent] == [told]
        sent.clear()


def test_the_tag_of_an_index_is_pushed_after_its_images(
    world: World, sent: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    image, other = (
        build_image(world.request(labels=(("for", name),)), Delivery(record=False), world.tools).image
        for name in ("here", "elsewhere")
    )
    index = LocalImages(world.tools.cache / "images").add_index({HOST: image, OTHER: other})
    for output in (tmp_path / "layout", tmp_path / "both.tar"):
        publish(world, image, index=index, load=True, push=PUSHED, output=output)
        each = [("push", str(one.digest), str(PUSHED.with_digest(one.digest)), None) for one in (image, other)]
        assert sent[0] == ("load", str(image.digest), str(NAME))
        assert sorted(sent[1:-1]) == sorted(each) and sent[-1] == ("index", str(index.digest), str(PUSHED))
        sent.clear()
    entrance = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    assert [each["digest"] for each in entrance] == [str(index.digest)]
    # Engines and skopeo find it by the names that containerd and the image-spec have for that.
    assert {NAME.tag, str(NAME)} <= {*entrance[0]["annotations"].values()}
    with tarfile.open(tmp_path / "both.tar") as tar:
        blobs = {name.removeprefix("blobs/sha256/") for name in tar.getnames() if name.startswith("blobs/sha256/")}
        entrance = json.loads(tar.extractfile("index.json").read())["manifests"]  # type: ignore[union-attr]
    assert {each.digest.hex for each in (index, image, other)} <= blobs
    assert [each["digest"] for each in entrance] == [str(index.digest)]


@pytest.mark.parametrize(
    ("name", "has", "there"),
    [
        ("registry.example/till:3", f"sha256:{'1' * 64}", True),
        ("registry.example/till:3", f"sha256:{'2' * 64}", False),
        ("registry.example/till:3", None, False),
        (f"registry.example/till@sha256:{'1' * 64}", f"sha256:{'1' * 64}", False),  # without a tag there is no name
    ],
)
def test_what_is_there_by_that_name_is_not_pushed_again(
    monkeypatch: pytest.MonkeyPatch, name: str, has: str | None, there: bool
) -> None:
    closed: list[bool] = []

    class Client:
        def __init__(self, reference: ImageReference) -> None:
            assert str(reference) == name

        def find_digest(self, tag: str) -> str | None:
            assert tag == "3"
            return has

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr("kbuild.image.registry.client.RegistryClient", Client)
    assert publishing.is_there(ImageReference.parse(name), Digest("1" * 64)) is there
    assert closed == [True]


def test_once_pushes_but_what_is_not_there(
    world: World, sent: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build_image(world.request(), Delivery(record=False), world.tools).image
    index = LocalImages(world.tools.cache / "images").add_index({HOST: image, OTHER: image})
    asked: list[tuple[Any, ...]] = []
    for there in (True, False):
        monkeypatch.setattr(publishing, "is_there", lambda *given, answer=there: asked.append(given) or answer)
        for several in (None, index):
            sent.clear()
            publish(world, image, index=several, push=PUSHED, once=True)
            assert bool(sent) is not there
    # What the name would lead to: of several images their index.
    assert asked == [(PUSHED, image.digest), (PUSHED, index.digest)] * 2
