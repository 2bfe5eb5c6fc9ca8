"""The commands as they are typed, in the small world: what they print, what they tell the run, and what stays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pandas
import pytest
import yaml
from click.testing import CliRunner, Result
from world import HOST, MODEL_ID, RUN_ID, World, make_world

import kbuild as api
from kbuild import AuditOptions, BuildOptions, ImageOptions, LockOptions, RebuildOptions, VerifyOptions
from kbuild.answers import EXACT, Tolerance, compare
from kbuild.api import rebuilding
from kbuild.api.request import Measure
from kbuild.cache.entries import KINDS, list_cache
from kbuild.cache.prune import ANSWERS
from kbuild.cli.app import cli, report
from kbuild.cli.cache import WORDS
from kbuild.digest import Digest
from kbuild.errors import (
    AuditFindings,
    AuditIncomplete,
    BaseImageError,
    CacheDamaged,
    ContainerFailed,
    ImageNotFound,
    InvalidModel,
    InvalidReference,
    KbuildError,
    LabelError,
    ModelNotFound,
    NothingToAsk,
    OutputError,
    PlatformError,
    VerificationFailed,
)
from kbuild.image.store.local import LocalImages
from kbuild.image.store.verdicts import Verdicts
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import RunFacts
from kbuild.model.model_reference import ModelReference
from kbuild.plan.left_out import LeftOut
from kbuild.progress import Progress, Silent
from kbuild.verify.golden import VerificationReport
from kbuild.verify.scoring import ServerAnswer
from kbuild.workflow import Delivery, ImageRequest, ImageResult, Tools
from kbuild.workflow.audit.images import read_image

Call = Callable[..., Result]
OTHER = "linux/arm64" if HOST.architecture == "amd64" else "linux/amd64"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One world for all: what a command leaves is what the next one finds."""
    from pip_settings import asked_once

    with asked_once():
        world = make_world(tmp_path_factory.mktemp("world"))
    world.store.models[f"models:/{MODEL_ID}"] = world.store.models[world.model]
    return world


@pytest.fixture
def kbuild(shared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A command line in an empty folder, whose tracking store is the world's; what it raises is ``exception``."""
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(shared.tools.cache))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///not-there.db")
    monkeypatch.setenv("KBUILD_VERIFY", "0")  # the world's images hold nothing that runs
    monkeypatch.setattr("kbuild.api.session.open_store", lambda *_, **__: shared.store)
    monkeypatch.chdir(tmp_path)
    shared.store.tags.clear()

    def call(*argv: object) -> Result:
        done = CliRunner().invoke(cli, [str(each) for each in argv])
        if done.exception is not None and not isinstance(done.exception, KbuildError | SystemExit | click.Abort):
            raise done.exception
        return done

    return call


def given(world: World) -> list[str]:
    return ["--lockfile", str(world.lockfile), "--base", f"oci:{world.base}"]


def build(kbuild: Call, world: World, *more: str) -> dict[str, Any]:
    done = kbuild("image", world.model, *given(world), "--json", *more)
    assert done.exit_code == 0, done.exception
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def told(world: World) -> dict[str, str]:
    return {key: value for _, tags, _ in world.store.tags for key, value in tags.items()}


@pytest.mark.slow
def test_an_image_is_printed_by_its_digest_and_the_run_is_told(kbuild: Call, shared: World) -> None:
    done = kbuild("image", shared.model, *given(shared), "--tag", "till:3")
    name = done.stdout.strip()
    assert name.startswith("till@sha256:") and done.exit_code == 0
    assert told(shared)["kbuild.image"] == name
    again = kbuild("image", shared.model, *given(shared), "--tag", "till:3")
    assert again.stdout == done.stdout and "nothing has changed" in again.stderr
    anew = kbuild("image", shared.model, *given(shared), "--tag", "till:3", "--no-cache")
    assert anew.stdout == done.stdout and "nothing has changed" not in anew.stderr


@pytest.mark.slow
def test_what_the_project_says_counts_where_nothing_is_typed(kbuild: Call, shared: World, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.kbuild]\ntag = "shop:{{run_id}}"\nbase = "oci:{shared.base}"\nlabels = {{ team = "a" }}\n'
    )
    done = kbuild("image", shared.model, "--lockfile", shared.lockfile, "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["reference"].startswith("shop@sha256:")
    typed = kbuild("image", shared.model, "--lockfile", shared.lockfile, "--tag", "stall:1")
    assert typed.stdout.startswith("stall@sha256:")
    locked = kbuild("lock", shared.model, "--lockfile", shared.lockfile, "-o", tmp_path / "lock.yml")
    assert locked.exit_code == 0, locked.exception


@pytest.mark.slow
def test_what_packs_it_is_part_of_the_plan(kbuild: Call, shared: World) -> None:
    """Else who asks for gzip, for an engine that knows no zstd, is given the image that is there."""
    zstd, gzip = build(kbuild, shared), build(kbuild, shared, "--compression", "gzip")
    assert zstd["plan_digest"] != gzip["plan_digest"] and zstd["digest"] != gzip["digest"]
    assert [layer["diff_id"] for layer in zstd["layers"]] == [layer["diff_id"] for layer in gzip["layers"]]
    assert zstd["digest"] != build(kbuild, shared, "--label", "team=c")["digest"]


def test_what_a_registry_still_has_of_an_image_is_fetched_before_it_is_audited(kbuild: Call, shared: World) -> None:
    built = build(kbuild, shared)
    image = LocalImages(shared.tools.cache / "images").by_digest(Digest.parse(built["digest"]))
    assert image is not None
    brought: list[bool] = []

    class Remote:
        def __getattr__(self, name: str) -> Any:
            assert name not in ("layers", "size") or brought
            return getattr(image, name)

        def bring_all(self, progress: Progress) -> None:
            brought.append(True)

    read, _ = read_image(Remote(), None, Silent(), cache=shared.tools.cache)  # type: ignore[arg-type]
    assert brought == [True] and read.facts.digest == built["digest"]


@pytest.mark.parametrize("option", ["--tag", "--push"])
def test_a_name_that_none_can_be_is_told_before_anybody_is_asked(kbuild: Call, shared: World, option: str) -> None:
    shared.store.down = True
    try:
        done = kbuild("image", shared.model, *given(shared), option, "Not a name")
    finally:
        shared.store.down = False
    assert isinstance(done.exception, InvalidReference)


@pytest.mark.parametrize("place", ["127.0.0.1:5000", "localhost", "registry.example", "registry.example:5000"])
def test_a_push_to_a_registry_alone_is_told_before_the_work(kbuild: Call, shared: World, place: str) -> None:
    """As Docker reads it this is a repository of docker.io, which nobody may push to."""
    done = kbuild("image", shared.model, *given(shared), "--push", place)
    assert isinstance(done.exception, InvalidReference) and f"{place}/NAME" in str(done.exception.hint)


def test_a_lock_is_written_where_it_was_asked_for(kbuild: Call, shared: World, tmp_path: Path) -> None:
    done = kbuild("lock", shared.model, *given(shared), "-o", tmp_path / "here.yml", "--json")
    assert done.exit_code == 0, done.exception
    result = json.loads(done.stdout)
    assert (result["packages"], result["origin"]) == (3, "given") and "lock" in result["seconds"]
    assert (tmp_path / "here.yml").read_bytes() == shared.lockfile.read_bytes()
    assert "1 conda and 2 pip packages" in done.stderr
    assert result["model"] == shared.model


def test_a_lock_says_which_version_an_alias_led_to(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what follows it in a job is of one model, though somebody moves the alias meanwhile."""
    monkeypatch.setitem(shared.store.aliases, "prod", "7")
    monkeypatch.setitem(shared.store.models, "models:/shop/7", shared.store.models[shared.model])
    done = kbuild("lock", "models:/shop@prod", *given(shared), "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["model"] == "models:/shop/7"


@pytest.mark.slow
def test_equal_contexts_have_equal_times(kbuild: Call, shared: World, tmp_path: Path) -> None:
    """BuildKit leaves out what an earlier look at a folder told it, by size and time."""
    seen = []
    for name in ("one", "two"):
        done = kbuild("render", shared.model, *given(shared), "-o", name)
        assert done.exit_code == 0 and done.stdout.strip() == name, done.exception
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file() and not path.is_symlink()]
        seen.append({str(path.relative_to(tmp_path / name)): path.stat().st_mtime_ns for path in files})
    assert seen[0] == seen[1] and "Dockerfile" in seen[0] and len(set(seen[0].values())) > 20
    assert isinstance(kbuild("render", shared.model, *given(shared), "-o", "one").exception, OutputError)
    both = kbuild("render", shared.model, *given(shared), "--platform", f"{HOST},{OTHER}", "-o", "both")
    assert isinstance(both.exception, PlatformError) and not (tmp_path / "both").exists()


@pytest.mark.slow
def test_a_context_that_cannot_be_written_leaves_nothing(
    kbuild: Call, shared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kbuild.image.engines.times.stamp_times", full)
    done = kbuild("render", shared.model, *given(shared), "-o", "context")
    assert isinstance(done.exception, OutputError) and "No space left" in done.exception.message
    assert not (tmp_path / "context").exists()


@pytest.mark.slow
def test_built_again_from_what_it_says_it_is_the_same(
    kbuild: Call, shared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared.folder)  # an image names a base that is a folder by that folder's own name
    image = build(kbuild, shared, "--label", "team=a")
    before = {path.name for path in (shared.tools.cache / "images").iterdir()} | {"verdicts"}
    shared.store.tags.clear()
    report = tmp_path / "proof.json"
    options = ["--rebuild", "--lockfile", shared.lockfile, "--report", report, "--json"]
    done = kbuild("verify", image["reference"], *options)
    assert done.exit_code == 0, done.exception
    proof = json.loads(done.stdout)
    assert proof == json.loads(report.read_text())
    assert (proof["same"], proof["verdict"], proof["rebuilt"]) == (True, "same", image["digest"])
    assert told(shared) == {"kbuild.rebuild": "same", "kbuild.rebuilt_digest": image["digest"]}
    rows = json.loads(kbuild("list", "--json").stdout)
    assert {each["digest"]: each["rebuilt"] for each in rows}[image["digest"]] == "same"
    # In a cache of its own, which is gone.
    assert {path.name for path in (shared.tools.cache / "images").iterdir()} == before
    assert not list(shared.tools.cache.glob("work-*"))


def test_what_is_built_again_is_asked_for_by_what_the_image_says(
    kbuild: Call, shared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(kbuild, shared, "--label", "team=a")
    done = kbuild("verify", image["reference"], "--rebuild")
    assert isinstance(done.exception, BaseImageError) and "in this folder there is none" in done.exception.message
    (tmp_path / shared.base.name).symlink_to(shared.base)  # as where an image names a folder by its own name
    # What the project says today is of images that it builds from now on.
    (tmp_path / "pyproject.toml").write_text(
        '[tool.kbuild]\nslim = true\ncompression = "gzip"\nbase = "debian:trixie"\n'
        'labels = { team = "b", cost-centre = "7" }\n'
    )
    left_out = LeftOut(packages=("two",))
    asked: dict[str, Any] = {}

    def again(request: ImageRequest, delivery: Delivery, tools: Tools, *, reuse: bool) -> ImageResult:
        asked.update(request=request, delivery=delivery, cache=tools.cache, reuse=reuse)
        raise VerificationFailed("seen")

    claims = rebuilding.read_claims
    monkeypatch.setattr(rebuilding, "read_claims", lambda *a, **b: replace(claims(*a, **b), left_out=left_out))
    monkeypatch.setattr(rebuilding, "build_image", again)
    done = kbuild("verify", image["reference"], "--rebuild")
    assert isinstance(done.exception, VerificationFailed)
    request: ImageRequest = asked["request"]
    assert (request.left_out, request.slim, request.engine) == (left_out, False, "native")
    assert (request.labels, request.compression, request.base) == ((("team", "a"),), "zstd", f"oci:{shared.base.name}")
    assert (request.lock.locked, request.lock.digest) == (True, image["lock_digest"])
    # The digest that comes out proves more than who signed the base's package list.
    assert request.assembling.allow_unsigned
    # Nothing from before, nothing for others to find, nothing told to anybody.
    assert asked["cache"] != shared.tools.cache and not asked["cache"].exists()
    assert (asked["delivery"], asked["reuse"]) == (Delivery(record=False), False)


@pytest.mark.parametrize("given", [True, False])
def test_the_lock_that_is_given_counts_more_than_one_that_is_kept(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    """The cache keeps locks of models that no run has."""
    monkeypatch.chdir(shared.folder)
    image = build(kbuild, shared)
    asked: list[Any] = []

    def again(request: ImageRequest, *_: Any, **__: Any) -> ImageResult:
        asked.append(request.lock.lockfile)
        raise VerificationFailed("seen")

    monkeypatch.setattr(rebuilding, "carry_pins", lambda *_: Path("kept.yml"))
    monkeypatch.setattr(rebuilding, "build_image", again)
    folder = shared.store.models[shared.model]
    kbuild("verify", image["reference"], "--rebuild", "--model", folder, *(["--lockfile", shared.lockfile] * given))
    assert asked == [shared.lockfile if given else Path("kept.yml")]


@pytest.mark.parametrize(("more", "kept"), [((), True), (("--no-cache",), False)])
def test_building_anew_fetches_anew(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], kept: bool
) -> None:
    asked: list[bool] = []
    fetch = shared.store.fetch

    def watched(reference: ModelReference, into: Path, *, kept: bool = False) -> ModelBundle:
        asked.append(kept)
        return fetch(reference, into, kept=kept)

    monkeypatch.setattr(shared.store, "fetch", watched)
    build(kbuild, shared, *more)
    assert set(asked) == {kept}


@pytest.mark.parametrize("typed", [None, "debian:bookworm"])
def test_a_lock_is_for_the_base_that_the_image_will_have(
    kbuild: Call, shared: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str | None
) -> None:
    asked: list[str | None] = []

    def lock(model: str, request: object, tools: object, *, base: str | None, **_: object) -> None:
        asked.append(base)
        raise VerificationFailed("seen")

    (tmp_path / "pyproject.toml").write_text('[tool.kbuild]\nbase = "debian:trixie"\n')
    monkeypatch.setattr("kbuild.api.building.lock_model", lock)
    kbuild("lock", shared.model, *([] if typed is None else ["--base", typed]))
    assert asked == [typed or "debian:trixie"]


@pytest.mark.parametrize("of_a_run", [True, False])
def test_that_a_run_takes_no_verdict_is_told_where_the_image_is_of_one(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch, of_a_run: bool
) -> None:
    """Whoever gives the model's folder has no run, as it is."""
    image = build(kbuild, shared)
    monkeypatch.setattr(shared.store, "refuses_tags", True)
    claims = SimpleNamespace(platform=HOST)
    again = SimpleNamespace(verdict="same", claims=claims, same=True, to_json=dict)
    monkeypatch.setattr(rebuilding, "_build_again", lambda *_: again)
    more = () if of_a_run else ("--model", shared.store.models[shared.model])
    done = kbuild("verify", image["reference"], "--rebuild", *more)
    assert done.exit_code == 0, done.exception
    assert ("the verdict is not written to MLflow" in done.stderr) is of_a_run


def test_another_model_than_the_images_is_no_proof(kbuild: Call, shared: World, tmp_path: Path) -> None:
    image = build(kbuild, shared)
    other = tmp_path / "model"
    other.mkdir()
    for path in shared.store.models[shared.model].iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    done = kbuild("verify", image["reference"], "--rebuild", "--model", other, "--lockfile", shared.lockfile)
    assert isinstance(done.exception, InvalidModel) and image["model_digest"] in done.exception.message


def verified(expected: Any, got: Any, options: Any) -> VerificationReport:
    """As an image that answers ``got``, of a model that was recorded with a relative tolerance of 0.001."""
    own = Tolerance(relative=0.001, relative_single=0.001)
    tolerance = options["choose"](own)
    compared = compare(expected, got, tolerance)
    return VerificationReport(
        url="",
        runtime="",
        prediction=got,
        expected=expected,
        compared=expected is not None,
        largest=compared.largest,
        tolerance=tolerance,
        own=own,
        fault=None if expected is None else compared.fault,
        kept=expected is None or compare(expected, got, own).same,
    )


@pytest.mark.parametrize(
    ("expected", "answer", "options", "verdict", "fails"),
    [
        (1.0, 1.0, ["--exact"], "passed", False),
        (None, 1.0, ["--exact"], "answered", False),
        (1.0, VerificationFailed("it answers 500"), [], "failed", True),
        (1.0, ContainerFailed("it stopped"), [], "failed", True),
        (1.0, NothingToAsk("no example"), [], None, True),
        (1.0, 2.0, [], "failed", True),
        (1.0, 2.0, ["--rtol", "0.1"], "failed", True),
        (1.0, 2.0, ["--rtol", "0.9"], "tolerated: within 0.9 relative and 1e-09 absolute", False),
        (1.0, 2.0, ["--atol", "5"], "tolerated: within 0.001 relative and 5 absolute", False),
        (1.0, 1.0002, ["--rtol", "0.9"], "passed", False),  # wide as it was asked, the answer keeps the model's own
        (1.0, 1.0002, ["--exact"], "passed", True),  # too far for who asked, and near enough for the project
    ],
    ids=str,
)
def test_the_verdict_is_with_the_run_and_by_the_models_own_tolerance(
    kbuild: Call,
    shared: World,
    expected: Any,
    answer: Any,
    options: list[str],
    verdict: str | None,
    fails: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = build(kbuild, shared)
    shared.store.tags.clear()

    def verify(built: Any, run: Any, **given: Any) -> Any:
        assert str(built.digest) == image["digest"]
        if isinstance(answer, Exception):
            raise answer
        return verified(expected, answer, given)

    monkeypatch.setattr("kbuild.verify.judging.verify_image", verify)
    done = kbuild("verify", image["reference"], *options)
    assert isinstance(done.exception, VerificationFailed | ContainerFailed) is fails
    assert told(shared) == (
        {} if verdict is None else {"kbuild.verify": verdict, "kbuild.verified_digest": image["digest"]}
    )
    remembered = Verdicts(shared.tools.cache / "images").read(Digest.parse(image["digest"]))
    assert remembered == (verdict or "nothing to ask"), "what only a wide tolerance let pass is verified again"
    if not fails:
        assert done.stdout.strip() == image["digest"]
        assert ("not 'passed'" in done.stderr) is str(verdict).startswith("tolerated")


def test_one_option_leaves_the_models_other_tolerance(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = build(kbuild, shared)
    asked: list[Tolerance] = []

    def verify(built: Any, run: Any, **options: Any) -> Any:
        asked.append(options["choose"](Tolerance(relative=0.5, absolute=0.25)))
        return verified(1.0, 1.0, options)

    monkeypatch.setattr("kbuild.verify.judging.verify_image", verify)
    kbuild("verify", image["reference"], "--exact")
    kbuild("verify", image["reference"], "--rtol", "0.1")
    assert asked[0] == EXACT and (asked[1].relative, asked[1].absolute) == (0.1, 0.25)


def test_images_are_compared_by_what_is_in_them(kbuild: Call, shared: World) -> None:
    one, other = build(kbuild, shared), build(kbuild, shared, "--label", "team=b")
    done = kbuild("diff", one["reference"], other["reference"], "--json")
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert (found["before"], found["after"]) == (one["digest"], other["digest"])
    text = kbuild("diff", one["reference"], other["reference"]).stdout
    assert "team" in text and one["digest"] in done.stdout and other["digest"] in done.stdout
    whole = kbuild("diff", one["reference"], other["reference"], "--all").stdout
    assert "team" in whole and len(whole.splitlines()) >= len(text.splitlines())
    same = kbuild("diff", one["reference"], one["reference"]).stdout
    assert "team" not in same
    alone = kbuild("diff", one["reference"])
    assert isinstance(alone.exception, ImageNotFound)
    assert f"kbuild diff {one['reference']} IMAGE" in str(alone.exception.hint)
    for typed in ((one["reference"], shared.model), (shared.model, one["reference"])):
        mixed = kbuild("diff", *typed).exception
        assert isinstance(mixed, ImageNotFound) and f"{shared.model!r} stands for a run" in mixed.message


@pytest.mark.parametrize("argv", [("inspect",), ("diff", "till:3"), ("run",), ("audit", MODEL_ID, "--image")])
def test_a_name_of_an_image_that_is_misspelt_is_answered(kbuild: Call, shared: World, argv: tuple[str, ...]) -> None:
    build(kbuild, shared, "--tag", "till:3")
    error = kbuild(*argv, "tlil:3").exception
    assert isinstance(error, KbuildError) and error.hint == "did you mean till:3?", error


def test_what_is_wrong_with_a_registered_name_is_told_in_its_own_words(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = ModelNotFound("models:/till@prod: Registered model alias prod not found.", hint="give it one")

    def fetch(*_: object, **__: object) -> None:
        raise refused

    monkeypatch.setattr(shared.store, "fetch", fetch)
    assert kbuild("inspect", "models:/till@prod").exception is refused


def test_a_digest_with_a_wrong_figure_is_answered(kbuild: Call, shared: World) -> None:
    digest = build(kbuild, shared, "--tag", "till:3")["digest"][:19]
    wrong = digest[:-2] + ("0" if digest[-2] != "0" else "1") + digest[-1]
    error = kbuild("run", wrong).exception
    assert isinstance(error, KbuildError) and error.hint == f"did you mean {digest}?", error


def test_models_are_compared_by_what_their_runs_were_given(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths = iter(("3", "5"))
    monkeypatch.setattr(shared.store, "read_run", lambda _: RunFacts(tags={}, parameters={"depth": next(depths)}))
    done = kbuild("diff", shared.model, f"models:/{MODEL_ID}")
    assert done.exit_code == 0, done.exception
    (line,) = [line for line in done.stdout.splitlines() if "depth" in line]
    assert "3" in line and "5" in line


@pytest.mark.slow
def test_what_is_damaged_in_the_cache_is_found_and_removed_whole(kbuild: Call, shared: World) -> None:
    build(kbuild, shared)
    assert kbuild("cache", "verify").exit_code == 0
    layer = next(path for path in (shared.tools.cache / "layers/sha256").iterdir() if not path.name.startswith("."))
    others = set((shared.tools.cache / "layers/sha256").iterdir()) - {layer}
    wheel = next((shared.tools.cache / "downloads").glob("*/*.whl"))
    for path in (layer, wheel):
        content = path.read_bytes()
        path.unlink()  # another entry may be a link to it
        path.write_bytes(content + b"!")
    found = kbuild("cache", "verify", "--json")
    assert isinstance(found.exception, CacheDamaged)
    damaged = {each["path"] for each in json.loads(found.stdout)["damaged"]}
    assert {str(layer), str(wheel)} <= damaged
    removed = kbuild("cache", "verify", "--remove")
    assert removed.exit_code == 0 and not layer.exists() and not wheel.exists()
    assert removed.stderr.splitlines()[-1].startswith("removed ") and "nothing is damaged" not in removed.stderr
    assert all(path.exists() for path in others)
    clean = kbuild("cache", "verify")
    assert clean.exit_code == 0 and clean.stderr.splitlines()[-1] == "nothing is damaged"
    build(kbuild, shared, "--no-cache")
    assert wheel.exists() and kbuild("cache", "verify").exit_code == 0


def test_the_cache_is_counted_and_shrunk(kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    build(kbuild, shared)
    entries = list_cache(shared.tools.cache)
    monkeypatch.setenv("KBUILD_CACHE_LIMIT", "7 GB")
    facts = json.loads(kbuild("cache", "info", "--json").stdout)
    assert facts["path"] == str(shared.tools.cache) and facts["limit"] == 7_000_000_000
    assert facts["size"] == sum(entry.size for entry in entries)
    assert facts["kinds"]["images"]["entries"] == sum(entry.kind == "images" for entry in entries) > 0
    first, *rows = kbuild("cache", "info").stdout.splitlines()
    assert first.startswith(f"{shared.tools.cache}: ") and first.endswith(" of the 7 GB that it may hold")
    assert {*WORDS, *ANSWERS} == {*KINDS}
    # Every entry is in a row, and no row is of nothing.
    assert sum(int(row.split()[2]) for row in rows) == len(entries) and " 0  " not in "".join(rows)
    done = json.loads(kbuild("cache", "prune", "--limit", "0", "--json").stdout)
    assert done["removed"] and done["freed"] > 0
    assert "removed 0 entries" in kbuild("cache", "prune", "--limit", "5 GB").stdout


def test_of_one_model_only_one_is_given(kbuild: Call, shared: World) -> None:
    for argv in (["--all-registered"], ["--from-file", "x"], []):
        more = argv or ["--jobs", "2"]
        done = kbuild("image", shared.model, *more)
        assert done.exit_code == 2 and isinstance(done.exception, SystemExit)


def test_the_inputs_of_the_world_are_what_is_locked(shared: World) -> None:
    """Else every command above would have resolved anew, which needs a network."""
    document = yaml.safe_load(shared.lockfile.read_text())
    assert {each["name"] for each in document["package"]} == {"python", "one", "two"}
    assert RUN_ID in shared.model


@dataclass(frozen=True)
class Twin:
    """One thing asked both ways: a command line, and a call whose value has to be part of what that prints."""

    argv: Callable[[World], Sequence[object]]
    ask: Callable[[World], dict[str, Any]]
    error: type[KbuildError] | None = None


def of_image(world: World, **more: Any) -> ImageOptions:
    return ImageOptions(lockfile=world.lockfile, base=f"oci:{world.base}", verify=False, **more)


def ask_image(model: str | None = None, **more: Any) -> Callable[[World], dict[str, Any]]:
    def ask(world: World) -> dict[str, Any]:
        made = api.build_image(model or world.model, of_image(world, **more))
        facts = {"digest": made.digest, "plan_digest": made.plan.digest, "lock_digest": made.lock_digest}
        assert made.reference in made._repr_html_()
        return {"reference": made.reference, **{name: str(value) for name, value in facts.items()}}

    return ask


def ask_lock(world: World) -> dict[str, Any]:
    locked = api.lock(world.model, LockOptions(lockfile=world.lockfile), base=f"oci:{world.base}")
    assert f"<td>{locked.lockfile.digest}</td>" in locked._repr_html_()
    return {"digest": str(locked.lockfile.digest), "packages": len(locked.lockfile.packages), "origin": locked.origin}


AUDIT_DAY = ("--offline", "--today", "2026-11-22")


def ask_audit(world: World, *, raises: bool = True, **more: Any) -> dict[str, Any]:
    found = api.audit(str(world.lockfile), AuditOptions(offline=True, today=AUDIT_DAY[-1], **more))
    assert found.report.verdict in found._repr_html_()
    if raises:
        found.raise_for_verdict()
    return found.report.to_json()


def ask_diff(*names: str) -> Callable[[World], dict[str, Any]]:
    def ask(world: World) -> dict[str, Any]:
        found = api.diff(*names)
        assert found._repr_html_().startswith("<pre>")
        return found.to_json()

    return ask


def ask_verify(world: World) -> dict[str, Any]:
    found = api.verify("twin:1", VerifyOptions(rtol=0.5))
    assert str(found.digest) in found._repr_html_()
    return {"image": found.image, "digest": str(found.digest), "prediction": found.report.prediction}


def list_models(world: World, *models: str) -> list[object]:
    (world.folder / "models.txt").write_text("\n".join(models))
    return ["image", "--from-file", world.folder / "models.txt", *given(world)]


def ask_many(world: World) -> dict[str, Any]:
    [outcome] = api.build_images([world.model, world.model], of_image(world))
    assert outcome.result is not None, outcome.error
    assert outcome.result.reference in outcome._repr_html_()
    return {"model": world.model, "reference": outcome.result.reference}


def ask_render(world: World) -> dict[str, Any]:
    options = BuildOptions(lockfile=world.lockfile, base=f"oci:{world.base}")
    made = api.render(world.model, options, output=Path("rendered"))
    assert (made.path / "Dockerfile").is_file()
    return {"plan_digest": str(made.plan.digest)}


def make_other(world: World) -> Path:
    """The folder of another model."""
    folder = world.folder / "another-model"
    shutil.copytree(world.store.models[world.model], folder, dirs_exist_ok=True)
    (folder / "model.txt").write_text("another model\n")
    return folder


def ask_rebuild(world: World, image: str = "twin:1", **more: Any) -> dict[str, Any]:
    found = api.rebuild(image, RebuildOptions(lockfile=world.lockfile, **more))
    assert str(found.digest) in found._repr_html_()
    found.raise_for_verdict()
    kept = found.to_json()
    del kept["seconds"]  # each took its own
    return kept


def ask_inspect(reference: str | None, **more: Any) -> Callable[[World], dict[str, Any]]:
    def ask(world: World) -> dict[str, Any]:
        found = api.inspect(reference or world.model, **more)
        assert found._repr_html_()[:4] in ("<svg", "<tab")
        return dict(found.facts)

    return ask


TWINS = {
    "image": Twin(lambda w: ["image", w.model, *given(w), "--tag", "twin:1"], ask_image(tag="twin:1")),
    "another image": Twin(
        lambda w: ["image", w.model, *given(w), "--tag", "twin:2", "--label", "a=b", "--compression", "gzip"],
        ask_image(tag="twin:2", labels=("a=b",), compression="gzip"),
    ),
    "no model": Twin(
        lambda w: ["image", f"runs:/{'c' * 32}", *given(w)], ask_image(f"runs:/{'c' * 32}"), ModelNotFound
    ),
    "no name": Twin(
        lambda w: ["image", w.model, *given(w), "--tag", "Not one"], ask_image(tag="Not one"), InvalidReference
    ),
    "no label": Twin(lambda w: ["image", w.model, *given(w), "--label", "a"], ask_image(labels=("a",)), LabelError),
    "best of no run": Twin(
        lambda w: ["image", f"models:/{MODEL_ID}", *given(w), "--best", "f1"],
        ask_image(f"models:/{MODEL_ID}", best=Measure(metric="f1")),
        InvalidReference,
    ),
    "many": Twin(lambda w: list_models(w, w.model), ask_many),
    "many, one that names none": Twin(
        lambda w: list_models(w, "not/one:x"), lambda w: enter(api.build_images(["not/one:x"])), InvalidReference
    ),
    "render": Twin(lambda w: ["render", w.model, *given(w), "-o", "context"], ask_render),
    "lock": Twin(lambda w: ["lock", w.model, *given(w)], ask_lock),
    "audit": Twin(
        lambda w: ["audit", w.lockfile, *AUDIT_DAY, "--format", "json"],
        ask_audit,
        AuditFindings,
    ),
    "lenient audit": Twin(
        lambda w: ["audit", w.lockfile, *AUDIT_DAY, "--format", "json", "--fail-on", "critical"],
        lambda w: ask_audit(w, fail_on="critical"),
        AuditIncomplete,
    ),
    "nothing to audit": Twin(
        lambda w: ["audit", "nothing", "--offline", "--format", "json"],
        lambda w: api.audit("nothing", AuditOptions(offline=True)).report.to_json(),
        InvalidReference,
    ),
    "diff of images": Twin(lambda w: ["diff", "twin:1", "twin:2"], ask_diff("twin:1", "twin:2")),
    "diff of models": Twin(
        lambda w: ["diff", w.model, f"models:/{MODEL_ID}"],
        lambda w: api.diff(w.model, f"models:/{MODEL_ID}").to_json(),
    ),
    "diff with nothing": Twin(
        lambda w: ["diff", w.model, "nothing"], lambda w: api.diff(w.model, "nothing").to_json(), ModelNotFound
    ),
    "diff of an image with nothing": Twin(
        lambda w: ["diff", "twin:1", "nothing"], ask_diff("twin:1", "nothing"), ImageNotFound
    ),
    "diff of nothing with an image": Twin(
        lambda w: ["diff", "nothing", "twin:1"], ask_diff("nothing", "twin:1"), ImageNotFound
    ),
    "verify": Twin(lambda w: ["verify", "twin:1", "--rtol", "0.5"], ask_verify),
    "rebuild": Twin(lambda w: ["verify", "twin:1", "--rebuild", "--lockfile", w.lockfile], ask_rebuild),
    "rebuild of one that is packed otherwise": Twin(
        lambda w: ["verify", "twin:2", "--rebuild", "--lockfile", w.lockfile], lambda w: ask_rebuild(w, "twin:2")
    ),
    "rebuild of another model": Twin(
        lambda w: ["verify", "twin:1", "--rebuild", "--model", make_other(w)],
        lambda w: ask_rebuild(w, model=make_other(w)),
        InvalidModel,
    ),
    "rebuild of nothing": Twin(
        lambda w: ["verify", "nothing:1", "--rebuild"],
        lambda w: api.rebuild("nothing:1").to_json(),
        ImageNotFound,
    ),
    "inspect": Twin(lambda w: ["inspect", "twin:1"], ask_inspect("twin:1")),
    "inspect without packages": Twin(
        lambda w: ["inspect", "twin:1", "--no-packages"], ask_inspect("twin:1", packages=False)
    ),
    "inspect of a model": Twin(lambda w: ["inspect", w.model], ask_inspect(None)),
    "inspect of nothing": Twin(lambda w: ["inspect", "nothing:1"], ask_inspect("nothing:1"), ImageNotFound),
    "no image": Twin(lambda w: ["run", "nothing:1"], lambda w: enter(api.run("nothing:1")), ImageNotFound),
}


def enter(context: AbstractContextManager[Any]) -> dict[str, Any]:
    with context:
        return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_python_and_the_command_line_do_the_same(
    kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def verify(built: Any, run: Any, **options: Any) -> Any:
        choice = options["choose"](Tolerance(relative=0.1, absolute=0.25))
        told = {"prediction": [choice.relative], "expected": [1], "compared": True, "largest": None}
        return VerificationReport(url="http://x", runtime="none", tolerance=choice, **told)

    monkeypatch.setattr("kbuild.verify.judging.verify_image", verify)
    twin = TWINS[name]
    if name.startswith("rebuild"):  # an image names a base that is a folder by that folder's own name
        monkeypatch.chdir(shared.folder)
    argv = [str(each) for each in twin.argv(shared)]
    if argv[0] != "image" and any(each.startswith("twin:") for each in argv):
        for each in ("image", "another image"):  # found again where they were built
            TWINS[each].ask(shared)
    shared.store.tags.clear()
    typed = kbuild(*argv, *(["--json"] if argv[0] not in ("audit", "run") else []))
    tags = told(shared)
    shared.store.tags.clear()
    if twin.error is not None:
        with pytest.raises(KbuildError) as caught:
            twin.ask(shared)
        assert type(typed.exception) is type(caught.value) is twin.error
        assert report(typed.exception) == twin.error.exit_code
        if name == "audit":
            assert json.loads(typed.stdout) == ask_audit(shared, raises=False)
    else:
        assert typed.exit_code == 0, typed.exception
        asked = twin.ask(shared)
        assert asked and asked.items() <= json.loads(typed.stdout).items()
    assert told(shared) == tags


@pytest.mark.slow
def test_an_image_serves_while_the_block_runs(kbuild: Call, shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    build(kbuild, shared, "--tag", "served:1")
    stopped: list[str] = []

    class Started:
        url, started = "http://127.0.0.1:9", 0.0

        def read_file(self, path: str) -> bytes | None:
            files = {
                "MLmodel": b"saved_input_example_info: {serving_input_path: example.json}",
                "example.json": b'{"inputs": [1]}',
            }
            return files.get(path.rpartition("/")[2])

        def stop(self) -> None:
            stopped.append("stopped")

    sent: list[tuple[str, Any]] = []

    def post(url: str, body: bytes, *, timeout: float) -> ServerAnswer:
        sent.append((url, json.loads(body)))
        return ServerAnswer(status=200 if len(sent) < 3 else 400, body=b'{"predictions": [2.5]}')

    monkeypatch.setattr("kbuild.api.running.start_image", lambda *_, **__: Started())
    monkeypatch.setattr("kbuild.api.running.wait_until_ready", lambda *_, **__: None)
    monkeypatch.setattr("kbuild.api.running.post_invocations", post)
    with api.run("served:1") as client:
        assert client.predict(client.example()) == [2.5] and not stopped
        table = pandas.DataFrame({"a": [1.23e-12, 0.12345678901234567], "day": pandas.to_datetime(["2024-05-01"] * 2)})
        assert client.predict(table) == [2.5]
        with pytest.raises(ContainerFailed, match="answered 400"):
            client.predict({})
    assert stopped == ["stopped"] and sent[0] == ("http://127.0.0.1:9", {"inputs": [1]})
    days = ["2024-05-01T00:00:00"] * 2
    rows = [[1.23e-12, days[0]], [0.12345678901234567, days[1]]]
    assert sent[1][1] == {"dataframe_split": {"columns": ["a", "day"], "data": rows}}
    with pytest.raises(ZeroDivisionError), api.run("served:1"):
        raise ZeroDivisionError
    assert len(stopped) == 2
