"""A model that was not recorded here is looked at before this machine loads it, whoever asks for that."""

from __future__ import annotations

import os
import pickle
import tarfile
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tampering import tamper
from world import World, copy_world

from kbuild.answers import DEFAULT
from kbuild.api.running import run
from kbuild.api.session import Session
from kbuild.api.verifying import verify
from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.finding import CheckResult, Unchecked
from kbuild.audit.subject import Subject
from kbuild.cache.recorded import is_recorded, note_recorded
from kbuild.digest import digest_bytes
from kbuild.errors import ModelNotTrusted
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import image_in
from kbuild.model.bundle import read_bundle
from kbuild.progress import Silent
from kbuild.verify import before_loading
from kbuild.verify.before_loading import Guard, check_image, check_model
from kbuild.verify.golden import VerificationReport
from kbuild.workflow.batch.packing import unpacked_model
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery, ImageResult
from kbuild.workflow.once import Shared


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


HARM = pickle.dumps(Runs())


@pytest.fixture(autouse=True)
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user's notes are who recorded nothing yet."""
    monkeypatch.setattr("kbuild.cache.recorded._folder", lambda: tmp_path / "recorded")
    return tmp_path / "recorded"


@pytest.fixture(scope="module")
def harmful(built_world: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Built, and asked by nobody."""
    world = copy_world(built_world, tmp_path_factory.mktemp("harmful"))
    model_of(world)
    build(world)
    return world


def image_of(world: World) -> BuiltImage:
    image = LocalImages(world.tools.cache / "images").by_reference(ImageReference.parse("till:1"))
    assert image is not None
    return image


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The images that were started, by whichever way."""
    found: list[Any] = []

    def verify(image: Any, *_: Any, **__: Any) -> VerificationReport:
        found.append(image)
        return VerificationReport(
            url="", runtime="", prediction=1, expected=1, compared=True, largest=None, tolerance=DEFAULT
        )

    monkeypatch.setattr("kbuild.verify.judging.verify_image", verify)
    return found


def model_of(world: World, data: bytes = HARM) -> Path:
    folder = world.store.models[world.model]
    (folder / "model.txt").write_bytes(data)
    return folder


def build(world: World, *, trusted: bool = False, **given: Any) -> ImageResult:
    tools = replace(world.tools, trust_model=trusted, shared=Shared())
    return build_image(world.request(), Delivery(tag="till:1", **given), tools)


def told(world: World) -> str:
    return "\n".join(note for note in world.heard.notes if "did not record" in note)


@pytest.mark.slow
def test_a_model_that_does_harm_is_not_asked_after_its_build(world: World, started: list[Any]) -> None:
    model_of(world)
    for _ in range(2):  # the second time what was found before is told
        with pytest.raises(ModelNotTrusted, match=r"model\.txt would call posix\.system") as refused:
            build(world, verify=True)
    assert refused.value.exit_code == 54
    assert "KBUILD_TRUST_MODEL=1" in str(refused.value.hint) and "--no-verify" in str(refused.value.hint)
    assert not started
    images = LocalImages(world.tools.cache / "images")
    assert images.by_reference(ImageReference.parse("till:1")) is None
    assert build(world, verify=True, trusted=True).verified is not None and len(started) == 1
    assert "model.txt would call posix.system" in told(world)


@pytest.mark.slow
def test_what_a_foreign_model_loads_is_said_and_what_was_recorded_here_is_not_looked_at(
    world: World, started: list[Any]
) -> None:
    folder = model_of(world, pickle.dumps({"a": types.SimpleNamespace(b=1)}))
    build(world, verify=True)
    assert "mlflow.pyfunc.model loads a pickled file" in told(world)
    world.heard.notes.clear()
    (folder / "model.txt").write_bytes(HARM)
    note_recorded(folder)
    build(world, verify=True)
    assert not told(world) and len(started) == 2


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["run", "verify"])
def test_an_image_that_holds_such_a_model_is_not_started(
    harmful: World, started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: str
) -> None:
    image = image_of(harmful)
    monkeypatch.setattr("kbuild.api.running.start_image", lambda *given, **_: started.append(given))
    # On a machine that knows nothing of it, and on the one that built it.
    for tools in (replace(harmful.tools, cache=tmp_path / "other"), harmful.tools):
        session = Session(config=None, tools=tools, voice=harmful.heard)  # type: ignore[arg-type]
        with pytest.raises(ModelNotTrusted, match=r"would call posix\.system"):
            if ask == "verify":
                verify(str(image.layout), session=session)
            else:
                with run(str(image.layout), session=session):
                    pass
    assert not started


def test_the_lock_says_which_classes_the_models_packages_have(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def run(_: object, subject: Subject) -> CheckResult:
        seen.append(subject.lock)
        return CheckResult(check="pickles")

    monkeypatch.setattr(PickleCheck, "run", run)
    guard = Guard(cache=tmp_path / "cache", trusted=False)
    check_model(read_bundle(model_of(world)), world.lockfile.read_bytes(), guard, Silent())
    check_model(read_bundle(model_of(world, b"another")), None, guard, Silent())
    assert [None if lock is None else {each.name for each in lock.entries} for lock in seen] == [
        {"python", "one", "two"}, None
    ]  # fmt: skip


@pytest.mark.slow
def test_an_archive_of_such_a_model_is_not_unpacked_to_be_asked(world: World) -> None:
    model_of(world)
    request = unpacked_model(world.request(), world.tools)
    with pytest.raises(ModelNotTrusted, match=r"model\.txt would call posix\.system"), request:
        pytest.fail("it is there to be asked")
    assert not list(world.tools.cache.glob("unpacked/archives-*/*"))
    with unpacked_model(world.request(), replace(world.tools, trust_model=True, shared=Shared())) as unpacked:
        assert (unpacked.folder / "bin/kbuild-score").is_file()


def test_an_image_is_read_once_and_its_label_is_not_believed(
    built_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label names a model that was recorded here: what lies in it is another one."""
    note_recorded(built_world.store.models[built_world.model])
    (layout,) = (path for path in (built_world.tools.cache / "images").iterdir() if (path / "oci-layout").exists())
    image = image_in(layout, engine="native")
    other = tamper(image, tmp_path / "altered", lambda opened: opened.change("opt/model/model.txt", HARM))
    guard = Guard(cache=tmp_path / "other", trusted=False)
    with built_world.heard("start") as progress:
        check_image(image, guard, progress)
        with pytest.raises(ModelNotTrusted):
            check_image(other, guard, progress)
        monkeypatch.setattr("kbuild.image.compare.contents.read_contents", lambda *_, **__: pytest.fail("read again"))
        check_image(image, guard, progress)
        with pytest.raises(ModelNotTrusted):
            check_image(other, guard, progress)


def test_of_an_image_that_was_built_here_it_is_known_which_model_it_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a layer is opened before it is started."""
    image = build(world).image
    note_recorded(world.store.models[world.model])
    monkeypatch.setattr("kbuild.image.compare.contents.read_contents", lambda *_, **__: pytest.fail("layers are read"))
    check_image(image, world.tools.guard, Silent())


@pytest.mark.slow
def test_only_what_this_user_noted_counts(harmful: World, recorded: Path, tmp_path: Path) -> None:
    folder, guard = harmful.store.models[harmful.model], Guard(cache=tmp_path / "cache", trusted=False)
    digest, other = read_bundle(folder).digest, digest_bytes(b"another model")
    note_recorded(folder)
    assert is_recorded(digest)
    (recorded / other.hex).write_bytes((recorded / digest.hex).read_bytes())  # the mark of one stands for no other
    assert not is_recorded(other)
    (recorded / digest.hex).write_bytes(b"recorded here\n" + b"0" * 64)
    assert not is_recorded(digest)
    with harmful.heard("start") as progress:
        with pytest.raises(ModelNotTrusted):
            check_image(image_of(harmful), guard, progress)
        for note in (guard.cache / "loading").iterdir():
            note.write_bytes(note.read_bytes().replace(b"would", b"may"))
        with pytest.raises(ModelNotTrusted, match="would"):
            check_image(image_of(harmful), guard, progress)


def test_an_image_without_a_model_is_told_of(harmful: World, tmp_path: Path) -> None:
    bare = tamper(image_of(harmful), tmp_path / "altered", lambda opened: opened.remove("opt/model/MLmodel"))
    with harmful.heard("start") as progress:
        check_image(bare, Guard(cache=tmp_path / "other", trusted=False), progress)
    assert any("has no model in /opt/model" in note for note in harmful.heard.notes)


@pytest.mark.parametrize("name", ["opt/model/weights.pkl", "opt/model", "opt"])
def test_a_link_in_the_place_of_a_model_or_in_it_is_not_followed(harmful: World, tmp_path: Path, name: str) -> None:
    def link(opened: Any) -> None:
        number = opened.layer_with("opt/model/MLmodel")
        opened.add(number, name, type=tarfile.SYMTYPE, linkname="/tmp/other")

    image = tamper(image_of(harmful), tmp_path / "altered", link)
    told = pytest.raises(ModelNotTrusted, match=rf"/{name} of the image is a link")
    with harmful.heard("start") as progress, told:
        check_image(image, Guard(cache=tmp_path / "other", trusted=False), progress)


@pytest.mark.parametrize(("whole", "looks"), [(True, 1), (False, 2)])
def test_what_could_not_be_looked_into_is_looked_at_again(
    whole: bool, looks: int, harmful: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package may be in the cache then."""
    asked: list[Any] = []

    def run(check: Any, subject: Any) -> CheckResult:
        asked.append(subject)
        missed = () if whole else (Unchecked(check="pickles", where="a", reason="b", remedy="c"),)
        return CheckResult(check="pickles", unchecked=missed)

    monkeypatch.setattr("kbuild.audit.checks.pickles.PickleCheck.run", run)
    bundle = read_bundle(harmful.store.models[harmful.model])
    for _ in range(2):
        with harmful.heard("start") as progress:
            check_model(bundle, None, Guard(cache=tmp_path / "other", trusted=False), progress)
    assert len(asked) == looks


QUIET: dict[str, Any] = {"harm": (), "odd": (), "pickles": 0, "imports": (), "loader": "mlflow.sklearn", "code": ()}
FOREIGN = "this machine did not record the model; mlflow.sklearn loads "


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "no code and no pickle"),
        ({"pickles": 1}, "a pickled file"),
        ({"pickles": 3}, "3 pickled files"),
        ({"code": ("shop",)}, "code of its own (shop)"),
        ({"pickles": 1, "imports": ("a", "b")}, "a pickled file, classes of a, b"),
        ({"imports": tuple("abcdefgh")}, "classes of a, b, c, d, e, f and 2 more"),
        ({"code": ("x",), "pickles": 2, "imports": ("a",)}, "code of its own (x), 2 pickled files, classes of a"),
        ({"odd": ("m.txt was not looked into: it is encrypted",)},
         "no code and no pickle; m.txt was not looked into: it is encrypted"),
        ({"odd": ("one", "two", "three")}, "no code and no pickle; one (and 2 more)"),
        ({"harm": ("it would run rm",), "odd": ("one",)}, "no code and no pickle; it would run rm (and 1 more)"),
    ],
)  # fmt: skip
def test_what_a_foreign_model_loads_is_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(before_loading, "_look", lambda *_: before_loading._Loading(**{**QUIET, **found}))
    bundle, told = read_bundle(world.store.models[world.model]), list[str]()
    progress: Any = types.SimpleNamespace(note=lambda _: None, tell=told.append)
    for _ in range(2):  # the second time what was kept says the same
        check_model(bundle, None, Guard(cache=tmp_path, trusted=True), progress)
    assert told == [FOREIGN + said] * 2


def test_a_model_that_is_code_is_code_of_its_own(make_model: Any, tmp_path: Path) -> None:
    """``mlflow.pyfunc.save_model(python_model="agent.py")``: MLflow runs that file."""
    root, told = make_model, list[str]()
    progress: Any = types.SimpleNamespace(note=lambda _: None, tell=told.append)
    check_model(read_bundle(root), None, Guard(cache=tmp_path / "cache", trusted=False), progress)
    assert "loads code of its own (agent)" in told[0]


@pytest.fixture
def make_model(tmp_path: Path) -> Path:
    from mlflow.pyfunc import save_model

    (tmp_path / "agent.py").write_text(
        "import mlflow\n\n\nclass Agent(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, model_input, params=None):\n        return model_input\n\n\n"
        "mlflow.models.set_model(Agent())\n"
    )
    save_model(path=str(tmp_path / "saved"), python_model=str(tmp_path / "agent.py"), pip_requirements=["mlflow"])
    return tmp_path / "saved"


@pytest.mark.parametrize(("harm", "said"), [(("one",), "one"), (("one", "two"), "one (and 1 more)")])
def test_what_does_harm_is_refused_with_who_tells_more(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, harm: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(before_loading, "_look", lambda *_: before_loading._Loading(**{**QUIET, "harm": harm}))
    bundle = read_bundle(world.store.models[world.model])
    with pytest.raises(ModelNotTrusted) as caught:
        check_model(bundle, None, Guard(cache=tmp_path, trusted=False), Silent())
    assert caught.value.message == f"the model is not loaded here: {said}"
    assert (
        caught.value.hint == "find out who wrote it: kbuild audit tells all; KBUILD_TRUST_MODEL=1 loads it all the same"
    )


def test_what_other_checks_found_says_nothing_of_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their code, and the version of the scanner that they ask."""
    found = {before_loading._rules.__wrapped__()}
    for name, other in (("digest_file", lambda path: digest_bytes(path.name.encode())), ("version", lambda name: "0")):
        monkeypatch.setattr(before_loading, name, other)
        found.add(before_loading._rules.__wrapped__())
    assert len(found) == 3
