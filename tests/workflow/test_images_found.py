"""Which image a text means, and what the commands tell of those that are here."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from world import HOST, MODEL_ID, RUN_ID, World

from kbuild.api import find
from kbuild.api.session import Logged, Session, take_model
from kbuild.cli.app import cli
from kbuild.errors import (
    ImageNotFound,
    InvalidImage,
    InvalidReference,
    KbuildError,
    ModelNotFound,
    RegistryError,
    TrackingUnavailable,
)
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.local import LocalImages
from kbuild.image.store.verdicts import Verdicts
from kbuild.platform import Platform
from kbuild.project.config import ProjectConfig
from kbuild.workflow import Delivery, ImageRequest, build_image

OTHER = Platform.parse("linux/arm64" if HOST.architecture == "amd64" else "linux/amd64")


@pytest.fixture(scope="module")
def built(built_world: World) -> BuiltImage:
    return build_image(built_world.request(), Delivery(tag="till:3", record=False), built_world.tools).image


@pytest.fixture
def kbuild(built_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(built_world.tools.cache))
    monkeypatch.setattr("kbuild.api.session.open_store", lambda *_, **__: built_world.store)
    monkeypatch.chdir(tmp_path)
    return lambda *argv: CliRunner().invoke(cli, [str(each) for each in argv])


def found(text: str, world: World, platform: Platform | None = None) -> tuple[BuiltImage, ImageReference]:
    with find.found_image(text, Session(config=ProjectConfig(), tools=world.tools, voice=Logged()), platform) as pair:
        return pair


def test_an_image_is_meant_by_name_digest_layout_tar_and_model(
    built: BuiltImage, built_world: World, tmp_path: Path
) -> None:
    digest = built.digest
    output = [tmp_path / "layout", tmp_path / "image.tar"]
    for each in output:
        build_image(built_world.request(), Delivery(output=each, record=False), built_world.tools)
    short = digest.hex[:10]
    for text in ("till:3", f"till@{digest}", f"sha256:{short}", str(output[0]), str(output[1])):
        image, name = found(text, built_world)
        assert image.digest == digest, text
        assert ("till" in str(name)) is text.startswith("till"), text
    # A model's image is built, here found; its name is the model's own and not the tag's.
    request = replace(built_world.request(), model=built_world.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(find, "make_image_request", lambda config, model, options: replace(request, model=model))
        image, name = found(built_world.model, built_world)
    assert image.digest == digest and name.tag is None


@pytest.mark.parametrize("kind", ["layout", "tar"])
@pytest.mark.parametrize("change", ["a byte", "cut", "gone"])
def test_what_is_run_or_verified_by_a_damaged_layout_is_that_layout(
    built: BuiltImage, built_world: World, tmp_path: Path, kind: str, change: str
) -> None:
    """Its image lies whole in the cache under the same digest, unpacked too: that is not what was named."""
    layout = tmp_path / "layout"
    build_image(built_world.request(), Delivery(output=layout, record=False), built_world.tools)
    blob = max((layout / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    blob.unlink()
    if change != "gone":
        data[len(data) // 2] ^= 1
        blob.write_bytes(data[:-1] if change == "cut" else data)
    text = str(layout)
    if kind == "tar":
        text = str(tmp_path / "image.tar")
        with tarfile.open(text, "w") as archive:
            archive.add(layout, ".")
    with pytest.raises(InvalidImage, match=blob.name):
        found(text, built_world)
    assert found(f"sha256:{built.digest.hex}", built_world)[0].digest == built.digest


@pytest.mark.parametrize("platform", [None, OTHER])
def test_a_models_image_is_built_for_the_platform_that_is_asked_for_and_given_to_nobody(
    built: BuiltImage, built_world: World, platform: Platform | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[ImageRequest, Delivery]] = []

    def build(request: ImageRequest, delivery: Delivery, tools: Any) -> Any:
        asked.append((request, delivery))
        return SimpleNamespace(image=built, reference=f"till:3@{built.digest}")

    monkeypatch.setattr(find, "build_image", build)
    image, name = found(built_world.model, built_world, platform)
    ((request, delivery),) = asked
    assert (request.model, request.lock.platforms) == (built_world.model, (platform or HOST,))
    assert (delivery.tag, delivery.push, delivery.output, delivery.load) == (None, None, None, False)
    assert (image.digest, name.familiar) == (built.digest, "till")


@pytest.mark.parametrize("text", ["till@sha256:{0}", "till:3", "sha256:{0}", "{0:.12}", "{1}"])
def test_of_another_platform_than_the_images_is_none(built: BuiltImage, built_world: World, text: str) -> None:
    with pytest.raises(InvalidImage, match=str(OTHER)) as caught:
        found(text.format(built.digest.hex, built.layout), built_world, OTHER)
    assert f"it is for {HOST}" in str(caught.value.hint)


@pytest.mark.parametrize("figures", [4, 12, 63])
@pytest.mark.parametrize("name", ["till@", "registry.example:5000/team/till@", ""])
def test_a_digest_that_is_cut_is_told_as_that(
    figures: int, name: str, built: BuiltImage, built_world: World, kbuild: Callable[..., Result]
) -> None:
    text = f"{name}sha256:{built.digest.hex[:figures]}"
    if not name and figures >= 8:  # no cut, but how images are named here
        assert found(text, built_world)[0].digest == built.digest
        return
    unknown = f"{name}sha256:{'0' * figures}"
    for argv in (["run"], ["inspect"], ["audit"], ["verify"], ["diff", "till:3"], ["measure"]):
        for each in (text, unknown):
            error = kbuild(*argv, each).exception
            assert isinstance(error, ImageNotFound), (argv, error)
            assert error.message == f"the digest of {each!r} is cut: it has {figures} of 64 figures"
            meant = figures >= 8 and each is text
            assert (f"did you mean {name}{built.digest}?" if meant else "kbuild list --json") in str(error.hint)


@pytest.mark.parametrize("argv", [["render", "till:3", "-o", "x"], ["lock", "till:3"], ["image", "till:3"]])
def test_an_image_in_a_models_place_is_answered_with_its_run(
    argv: list[str], built: BuiltImage, kbuild: Callable[..., Result]
) -> None:
    error = kbuild(*argv).exception
    assert isinstance(error, ModelNotFound), error
    assert error.message == "'till:3' is an image that was built here, not the model in it"
    assert error.hint == f"did you mean {RUN_ID[:12]}?"


@pytest.mark.parametrize("text", ["nothing", "kasse:4", "0" * 12])
def test_what_names_nothing_is_told_with_what_could_be_named(text: str, built_world: World) -> None:
    with pytest.raises(ImageNotFound) as caught:
        found(text, built_world)
    assert repr(text) in caught.value.message and "kbuild image" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["text", "other", "empty"])
def test_a_tar_that_is_no_image_is_told_by_its_name(kind: str, built_world: World, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(b"words" * 300)
    if kind != "text":
        with tarfile.open(path, "w") as archive:
            if kind == "other":
                archive.add(__file__, "test.py")
    with pytest.raises(InvalidImage, match=str(path)):
        found(str(path), built_world)
    assert list((built_world.tools.cache / "tmp").glob("tar-*")) == []


def test_a_registry_that_does_not_give_it_is_named_as_it_was_typed(
    built_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def find(self, *_: object) -> None:
            raise RegistryError("docker.io does not know it")

        index = find

    monkeypatch.setattr(find, "_registries", lambda tools: Refusing())
    unknown = "till@sha256:" + "0" * 64
    with pytest.raises(ImageNotFound, match=r"Docker's registry does not give it: docker\.io does not know it"):
        found(unknown, built_world)
    with pytest.raises(RegistryError, match=r"docker\.io does not know it"):
        found(f"registry.example/{unknown}", built_world)
    for text in (unknown, f"registry.example/{unknown}"):
        with pytest.raises((ImageNotFound, RegistryError)), find.existing_index(text, built_world.tools):
            pass


def test_an_index_is_found_wherever_it_lies(built: BuiltImage, world: World, tmp_path: Path) -> None:
    images = LocalImages(world.tools.cache / "images")
    index = images.add_index({HOST: built, OTHER: built})
    name = ImageReference.parse("both:1")
    images.name(index, name)
    archive = tmp_path / "both.tar"
    with tarfile.open(archive, "w") as packed:
        packed.add(index.layout, ".")
    for text in ("both:1", str(index.layout), str(archive)):
        with find.existing_index(text, world.tools) as again:
            assert again is not None and again.digest == index.digest, text
            assert set(again.images) == {HOST, OTHER}, text
    for text in ("Not A Name", "till:3", str(built.layout)):
        with find.existing_index(text, world.tools) as none:
            assert none is None, text


def test_list_and_inspect_tell_what_lies_here(
    kbuild: Callable[..., Result], built: BuiltImage, built_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = [each for each in json.loads(kbuild("list", "--json").stdout) if each["digest"] == str(built.digest)]
    blobs = (built.layout / "blobs/sha256").iterdir()
    assert row["size"] == sum(path.stat().st_size for path in blobs)
    assert (row["platforms"], row["damaged"]) == ([str(HOST)], None) and "till:3" in row["names"]
    told = kbuild("list").stdout.splitlines()
    (line,) = [each for each in told if built.digest.hex[:12] in each and "till:3" in each]
    assert str(HOST) in line and RUN_ID[:8] in line and len({len(each) > 20 for each in told}) == 1

    facts = json.loads(kbuild("inspect", "till:3", "--json").stdout)
    manifest = json.loads((built.layout / f"blobs/sha256/{built.digest.hex}").read_bytes())
    assert facts["digest"] == "sha256:" + hashlib.sha256(json_bytes(built)).hexdigest()
    assert facts["config_digest"] == manifest["config"]["digest"]
    assert [each["digest"] for each in facts["layers"]] == [each["digest"] for each in manifest["layers"]]
    assert [each["size"] for each in facts["layers"]] == [each["size"] for each in manifest["layers"]]
    config = json.loads((built.layout / "blobs/sha256" / manifest["config"]["digest"].partition(":")[2]).read_bytes())
    assert facts["entrypoint"] == config["config"]["Entrypoint"] and facts["labels"] == config["config"]["Labels"]
    monkeypatch.setenv("COLUMNS", "120")
    text = kbuild("inspect", f"sha256:{built.digest.hex[:12]}").stdout
    assert str(built.digest) in text and MODEL_ID in facts["labels"].values() and MODEL_ID in text
    for layer in manifest["layers"]:
        assert layer["digest"].removeprefix("sha256:")[:12] in text
    # What no label can tell, since it came later.
    said = Verdicts(built_world.tools.cache / "images")
    said.write(built.digest, "passed")
    said.write_audit(built.digest, "findings", "2026-11-30")
    said.add(built.digest, pushed=["registry.example/till:3"], models=["till/3"])
    lines = [" ".join(line.split()) for line in kbuild("inspect", "till:3", "--no-packages").stdout.splitlines()]
    told = {"of models:/till/3", "verified passed", "audit findings, 2026-11-30", "pushed to registry.example/till:3"}
    assert told <= {*lines} and not [line for line in lines if line.startswith("built again")]
    facts = json.loads(kbuild("inspect", "till:3", "--json", "--no-packages").stdout)
    row = {each["digest"]: each for each in json.loads(kbuild("list", "--json").stdout)}[str(built.digest)]
    for key in ("models", "verified", "rebuilt", "audit", "audit_date", "pushed"):
        assert facts[key] == row[key]


def json_bytes(image: BuiltImage) -> bytes:
    return (image.layout / "blobs/sha256" / image.digest.hex).read_bytes()


def test_without_an_image_inspect_takes_the_last_that_was_built(
    kbuild: Callable[..., Result],
    built: BuiltImage,
    built_world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = json.loads(kbuild("list", "--json").stdout)[0]["digest"]
    assert json.loads(kbuild("inspect", "--json").stdout)["digest"] == newest
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "empty"))
    listed = kbuild("list")
    assert listed.stdout == "" and listed.exit_code == 0 and "kbuild image" in listed.stderr
    none = kbuild("inspect")
    assert isinstance(none.exception, ImageNotFound) and "kbuild image" in str(none.exception.hint)
    unknown = kbuild("inspect", "till:4")
    assert isinstance(unknown.exception, ImageNotFound) and "till:4" in unknown.exception.message


def test_a_damaged_image_is_listed_as_damaged(
    kbuild: Callable[..., Result], built: BuiltImage, built_world: World
) -> None:
    config = built.layout / "blobs/sha256" / built.config_digest.hex
    kept = config.read_bytes()
    config.unlink()
    try:
        (line,) = [each for each in kbuild("list").stdout.splitlines() if built.digest.hex[:12] in each]
    finally:
        config.write_bytes(kept)
    assert "damaged: " in line


class Asked:
    """A store that chooses one run, or is down."""

    def __init__(self, **given: Any) -> None:
        self.given, self.asked = given, list[tuple[str, str | None]]()

    def choose(self, text: str, *, project: str | None) -> Any:
        self.asked.append((text, project))
        if isinstance(self.given.get("error"), KbuildError):
            raise self.given["error"]
        return type("Choice", (), {"reference": "runs:/x/model", "told": "it", "foreign": self.given.get("foreign")})


class Heard(Logged):
    def __init__(self) -> None:
        super().__init__()
        self.said, self.complained = list[str](), list[str]()

    def say(self, text: str, *, style: str | None = None) -> None:
        self.said.append(text)

    def complain(self, text: str, *, style: str = "red") -> None:
        self.complained.append(text)


def taken(text: str | None, world: World, store: Asked, heard: Heard | None = None) -> str:
    tools = replace(world.tools, store=store)  # type: ignore[arg-type]
    return take_model(text, Session(config=ProjectConfig(), tools=tools, voice=heard or Heard()))


def test_a_text_that_is_no_reference_is_asked_for_as_a_name(
    built_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert taken("models:/churn/3", built_world, none := Asked()) == "models:/churn/3" and none.asked == []
    heard, store = Heard(), Asked()
    assert taken("  nightly ", built_world, store, heard) == "runs:/x/model"
    assert store.asked == [("  nightly ", None)] and heard.said == ["taking it"] and heard.complained == []
    # What is somebody else's is told also to who wants quiet.
    assert taken("nightly", built_world, Asked(foreign=True), heard := Heard()) == "runs:/x/model"
    assert heard.complained == ["taking it"]
    (tmp_path / "folder").mkdir()
    for text in ("", "models:/a/b/c", "runs:/", "file:///nowhere", "./folder"):
        with pytest.raises(InvalidReference):
            taken(text, built_world, Asked())
    with pytest.raises(ModelNotFound, match="in no Kedro project"):
        taken(None, built_world, Asked())


def test_while_the_server_is_down_a_text_that_reads_as_an_image_is_told_as_one(built_world: World) -> None:
    down = Asked(error=TrackingUnavailable("it is down", hint="start it"))
    for text in ("till:9", "till@sha256:" + "1" * 64):
        with pytest.raises(ImageNotFound, match="it is down") as caught:
            taken(text, built_world, down)
        assert caught.value.hint == "start it"
    for text in ("till", "Nightly Run"):
        with pytest.raises(TrackingUnavailable):
            taken(text, built_world, down)
