"""What one room asks of the next: each thing that was stated is handed on under its own name, and nothing else."""

from __future__ import annotations

import inspect
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from world import HOST, World

from kbuild.answers import DEFAULT, EXACT
from kbuild.api.auditing import audit
from kbuild.api.building import build_image as build_one
from kbuild.api.building import build_images, lock, render
from kbuild.api.comparing import diff
from kbuild.api.deploying import deploy
from kbuild.api.fleet.options import carry_options
from kbuild.api.fleet.queueing import build_asked, work
from kbuild.api.fleet.watching import WatchOptions, open_watch
from kbuild.api.inspecting import inspect as inspect_one
from kbuild.api.measuring import measure
from kbuild.api.packing import ScoreOptions, image_of_files, modelpack, pack, score
from kbuild.api.rebuilding import rebuild
from kbuild.api.request import BuildOptions, ImageOptions, make_delivery, make_image_request
from kbuild.api.running import RunOptions, started
from kbuild.api.running import run as run_image
from kbuild.api.session import Logged, Session
from kbuild.api.verifying import VerifyOptions, verify
from kbuild.errors import ConfigurationError, InvalidReference, OutputError, VerificationFailed
from kbuild.image.base.choice import Assembling
from kbuild.image.store.local import LocalImages
from kbuild.image.store.verdicts import Verdicts
from kbuild.platform import Platform
from kbuild.progress import Silent
from kbuild.project.config import ProjectConfig
from kbuild.scoring.errors import InputRefused
from kbuild.verify.judging import judge_image
from kbuild.verify.verify_image import verify_image
from kbuild.workflow import Delivery, build_image, lock_model
from kbuild.workflow.delivery import verify_built
from kbuild.workflow.once import Shared
from kbuild.workflow.prepare import download_packages
from kbuild.workflow.queue.address import QueueAddress
from kbuild.workflow.queue.asked import Asked


class Heard(Exception):
    """Ends the work where it has come to what is looked at."""


@pytest.fixture
def hear(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Has a function, as ``module:name``, note what it is given, and answer or end the work."""

    def listen(where: str, *answer: Any) -> dict[str, Any]:
        module, _, name = where.partition(":")
        form = inspect.signature(getattr(import_module(module), name))
        given: dict[str, Any] = {}

        def stand_in(*args: Any, **more: Any) -> Any:
            bound = form.bind(*args, **more)
            bound.apply_defaults()
            given.update(bound.arguments)
            if not answer:
                raise Heard
            return answer[0]

        monkeypatch.setattr(f"{module}.{name}", stand_in)
        return given

    return listen


Hear = Callable[..., dict[str, Any]]


def part(given: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in expected}


@pytest.fixture
def image(world: World) -> Any:
    return build_image(world.request(), Delivery(record=False, tag="till:1"), world.tools).image


def session_of(world: World) -> Session:
    return Session(config=ProjectConfig(), tools=replace(world.tools, shared=Shared()), voice=Logged())


def test_what_each_option_says_and_else_the_project_is_what_is_asked_for(tmp_path: Path) -> None:
    """Every one of them: what is not named here has a default that would go unnoticed."""
    policy = {"allowed-indexes": ["https://index.example"], "allowed-channels": ["https://conda.example"]}
    config = ProjectConfig(
        base="debian:bookworm", channels=("own",), conda_names=(("libodd", "odd"),), interpreter="conda",
        debian_mirror="https://debian.example", compression="gzip", slim=True, verify=False, labels=(("team", "till"),),
        tag="till:1", cache_from="registry.example/from", cache_to="registry.example/to", audit=(("here", policy),),
    )  # fmt: skip
    request, delivery = make_image_request(config, "m"), make_delivery(config, ImageOptions())
    lock = request.lock
    assert (lock.channels, lock.interpreter, lock.names) == (("own",), "conda", (("libodd", "odd"),))
    assert (lock.allowed_indexes, lock.allowed_channels) == (("https://index.example",), ("https://conda.example",))
    assert (lock.platforms, lock.lockfile, lock.locked, lock.allow_sdist, lock.digest) == (
        (HOST,),
        None,
        False,
        False,
        None,
    )
    assert (request.base, request.compression, request.slim) == ("debian:bookworm", "gzip", True)
    assert (request.labels, request.engine, request.model) == ((("team", "till"),), "auto", "m")
    assert request.assembling == Assembling(debian_mirror="https://debian.example", allow_unsigned=False)
    assert str(request.cache_from).startswith("registry.example/from")
    assert (delivery.tag, delivery.verify, str(delivery.cache_to)[:19]) == ("till:1", False, "registry.example/to")
    options = ImageOptions(
        interpreter="captured", channels=("other",), platform="linux/arm64,linux/amd64", lockfile=tmp_path / "l.yml",
        locked=True, allow_sdist=True, base="debian:trixie", allow_unsigned_base=True, template="in-container",
        install_base="docker.io/library/python:3.12", labels=("team=b",), network="host", builders=("mine",),
        compression="zstd", cache_from="registry.example/mine", tag="b:2", push="registry.example/b:2", load=True,
        output=tmp_path / "out", verify=True, verify_timeout=7.5, cache_to="",
    )  # fmt: skip
    request, delivery = make_image_request(config, "m", options=options), make_delivery(config, options)
    lock = request.lock
    assert (lock.channels, lock.interpreter, lock.lockfile) == (("other",), "captured", tmp_path / "l.yml")
    assert (lock.locked, lock.allow_sdist) == (True, True)
    assert {str(each) for each in lock.platforms} == {"linux/arm64", "linux/amd64"}
    assert (request.base, request.compression, request.network) == ("debian:trixie", "zstd", "host")
    assert (request.engine, request.builder) == ("buildkit", "mine"), "a builder is BuildKit's"
    assert request.labels == (("team", "till"), ("team", "b")) and request.assembling.allow_unsigned
    assert request.template.name == "in-container.Dockerfile.j2"
    assert request.template.install_base == "docker.io/library/python:3.12"
    assert str(request.cache_from).startswith("registry.example/mine")
    assert (delivery.tag, delivery.push, delivery.load) == ("b:2", "registry.example/b:2", True)
    assert (delivery.output, delivery.verify, delivery.patience) == (tmp_path / "out", True, 7.5)
    assert (delivery.cache_to, delivery.record, delivery.once) == (None, True, False)


def test_what_the_project_says_goes_along_to_who_builds_elsewhere() -> None:
    config = ProjectConfig(
        base="debian:bookworm", channels=("own",), interpreter="conda", compression="gzip", slim=True, verify=False,
        labels=(("team", "till"),), tag="till:1", cache_from="registry.example/from", cache_to="registry.example/to",
    )  # fmt: skip
    expected = {
        "base": "debian:bookworm", "channels": ["own"], "interpreter": "conda", "compression": "gzip", "slim": True,
        "verify": False, "labels": ["team=till"], "tag": "till:1", "cache_from": "registry.example/from",
        "cache_to": "registry.example/to", "template": None, "install_base": None, "push": None, "platform": None,
    }  # fmt: skip
    assert part(carry_options(config, ImageOptions()), expected) == expected
    stated = ImageOptions(
        base="debian:trixie", channels=("other",), interpreter="captured", compression="zstd", verify=True,
        labels=("team=b",), tag="b:2", cache_from="registry.example/mine", cache_to="", platform="linux/arm64",
        push="registry.example/b:2", install_base="./base", locked=True, allow_sdist=True, allow_unsigned_base=True,
        network="host", engine="native", verify_timeout=7.5, no_cache=True, verify_cache=True,
    )  # fmt: skip
    expected = {
        "base": "debian:trixie", "channels": ["other"], "interpreter": "captured", "compression": "zstd",
        "verify": True, "labels": ["team=till", "team=b"], "tag": "b:2", "cache_from": "registry.example/mine",
        "platform": "linux/arm64", "push": "registry.example/b:2", "install_base": str(Path("base").absolute()),
        "locked": True, "allow_sdist": True, "allow_unsigned_base": True, "network": "host", "engine": "native",
        "verify_timeout": 7.5, "no_cache": True, "verify_cache": True,
    }  # fmt: skip
    assert part(carry_options(config, stated), expected) == expected


def test_what_verify_was_asked_for_reaches_who_judges(world: World, image: Any, hear: Hear) -> None:
    given = hear("kbuild.api.verifying:judge_image")
    asked = VerifyOptions(timeout=7.5, rtol=0.25)
    session = session_of(world)
    with pytest.raises(Heard):
        verify("till:1", asked, session=session)
    expected = {"run": session.tools.run, "cache": session.tools.cache, "timeout": 7.5, "option": "--timeout"}
    assert part(given, expected) == expected and given["image"].digest == image.digest
    assert given["choose"](DEFAULT) == replace(DEFAULT, relative=0.25, relative_single=0.25)


@pytest.mark.parametrize("more", [{"rtol": 0.1}, {"atol": 0.1}])
def test_exact_allows_no_difference(more: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="exact allows no difference: leave out rtol and atol"):
        verify("till:1", VerifyOptions(exact=True, **more), session=SimpleNamespace())  # type: ignore[arg-type]
    assert VerifyOptions(exact=True).choose(DEFAULT) == EXACT


def test_what_a_build_verifies_with_reaches_who_judges(world: World, image: Any, hear: Hear) -> None:
    given = hear("kbuild.verify.judging:judge_image")
    looked: list[object] = []
    with pytest.raises(Heard):
        verify_built(
            {HOST: image}, LocalImages(world.tools.cache / "images"), world.tools, Delivery(patience=9.5),
            again=False, look=looked.append,
        )  # fmt: skip
    # The hint of an image that is too slow names the option of the command that was typed.
    expected = {
        "image": image, "run": world.tools.run, "cache": world.tools.cache, "timeout": 9.5,
        "option": "--verify-timeout",
    }  # fmt: skip
    assert part(given, expected) == expected and looked == [given["progress"]]
    assert given["choose"](DEFAULT) == DEFAULT


@pytest.mark.parametrize("record", [True, False])
def test_who_judges_tells_the_run_only_where_it_is_recorded(
    world: World, image: Any, monkeypatch: pytest.MonkeyPatch, record: bool
) -> None:
    def judge(image: Any, run: Any, *, tell: Callable[[str], None], **_: Any) -> None:
        tell("failed")
        raise VerificationFailed("no", hint="look")

    monkeypatch.setattr("kbuild.verify.judging.judge_image", judge)
    images = LocalImages(world.tools.cache / "images")
    with pytest.raises(VerificationFailed) as caught:
        verify_built({HOST: image}, images, world.tools, Delivery(record=record), again=False, look=lambda _: None)
    assert [tags["kbuild.verify"] for _, tags, _ in world.store.tags] == ["failed"] * record
    assert str(caught.value.hint).startswith("look; the image was given to nobody; kbuild run sha256:")
    assert str(caught.value.hint).endswith(" starts it, --no-verify delivers it all the same")


def test_who_judges_hands_on_what_the_image_is_asked_with(tmp_path: Path, hear: Hear) -> None:
    given = hear("kbuild.verify.judging:verify_image")
    stated = {
        "cache": tmp_path, "timeout": 3.5, "progress": Silent(), "option": "--x", "choose": lambda own: own,
    }  # fmt: skip
    with pytest.raises(Heard):
        judge_image("the image", "the runner", tell=lambda _: None, **stated)  # type: ignore[arg-type]
    assert given == {"image": "the image", "run": "the runner", **stated}


def test_an_image_is_started_on_a_free_port_and_stopped(tmp_path: Path, hear: Hear) -> None:
    stopped: list[str] = []
    running = SimpleNamespace(stop=lambda: stopped.append("stopped"), read_file=lambda path: b"{}")
    start = hear("kbuild.verify.verify_image:start_image", running)
    wait = hear("kbuild.verify.verify_image:wait_until_ready", None)
    ask = hear("kbuild.verify.verify_image:verify_predictions")
    progress = Silent()
    with pytest.raises(Heard):
        verify_image(
            "the image", "the runner", cache=tmp_path, timeout=4.5, progress=progress, option="--y",
            choose=lambda own: EXACT,
        )  # type: ignore[arg-type]  # fmt: skip
    expected = {"port": None, "cache": tmp_path, "run": "the runner", "progress": progress}
    assert part(start, expected) == expected and stopped == ["stopped"]
    assert not start["log"].parent.exists(), "the log's folder goes with the image"
    expected = {"running": running, "timeout": 4.5, "progress": progress, "option": "--y"}
    assert part(wait, expected) == expected
    expected = {
        "running": running, "model_path": "/opt/model", "example": None, "prediction": None, "tolerance": EXACT,
        "own": DEFAULT, "timeout": 4.5,
    }  # fmt: skip
    assert part(ask, expected) == expected


@pytest.mark.parametrize("ready", [True, False])
def test_what_run_was_asked_for_reaches_who_starts(world: World, image: Any, hear: Hear, ready: bool) -> None:
    stopped: list[str] = []
    running = SimpleNamespace(stop=lambda: stopped.append("stopped"), started=0.0, url="")
    start = hear("kbuild.api.running:start_image", running)
    wait = hear("kbuild.api.running:wait_until_ready", *([None] if ready else []))
    session = session_of(world)
    asked = RunOptions(port=None, timeout=2.5, variables={"KBUILD_MAX_QUEUE": "3", "A": "x"})
    with (
        pytest.raises(Heard) if not ready else nullcontext(),
        started("till:1", asked, session, environment={"A": "b"}, processors=1.5) as found,
    ):
        assert not stopped and found.digest == image.digest and found.platform == str(HOST)
        assert found.reference.familiar == "till:1"
    expected = {
        "port": None, "environment": {"A": "b", "KBUILD_MAX_QUEUE": "3"}, "cache": session.tools.cache,
        "run": session.tools.run,
        "processors": 1.5,
    }  # fmt: skip
    assert part(start, expected) == expected and stopped == ["stopped"]
    assert (wait["timeout"], wait["option"]) == (2.5, "--timeout")


@pytest.mark.parametrize(
    ("models", "version"), [((), None), (("till/4",), "4"), (("till/4", "till/5"), None), (("till/4", "kiosk/1"), None)]
)
def test_the_server_is_told_the_version_that_the_image_is_known_by(
    world: World, image: Any, hear: Hear, models: tuple[str, ...], version: str | None
) -> None:
    Verdicts(world.tools.cache / "images").add(image.digest, models=models)
    start = hear("kbuild.api.running:start_image")
    with pytest.raises(Heard), started("till:1", RunOptions(), session_of(world)):
        pass
    assert start["environment"].get("KBUILD_MODEL_VERSION") == version
    with (
        pytest.raises(Heard),
        started("till:1", RunOptions(variables={"KBUILD_MODEL_VERSION": "9"}), session_of(world)),
    ):
        pass
    assert start["environment"]["KBUILD_MODEL_VERSION"] == "9"


def test_what_a_base_is_looked_for_with(world: World, hear: Hear) -> None:
    given = hear("kbuild.workflow.prepare:resolve_base")
    request = world.request(assembling=Assembling(debian_mirror="https://mirror.example/debian", allow_unsigned=True))
    with pytest.raises(Heard):
        build_image(replace(request, lock=replace(request.lock, locked=True)), Delivery(), world.tools)
    expected = {
        "platform": HOST, "recorded": None, "locked": True, "cache": world.tools.cache,
        "assembling": request.assembling,
    }  # fmt: skip
    assert part(given, expected) == expected


@pytest.mark.parametrize("reuse", [True, False])
def test_what_an_image_is_built_with(world: World, hear: Hear, reuse: bool) -> None:
    given = hear("kbuild.workflow.build:build")
    request = world.request(builder="remote", network="host", compression="gzip", engine="native")
    with pytest.raises(Heard):
        build_image(request, Delivery(), world.tools, reuse=reuse)
    prepared = given["prepared"]
    assert (prepared.settings.builder, prepared.settings.network) == ("remote", "host")
    assert dict(prepared.settings.contexts) == {} and prepared.request.compression == "gzip"
    assert (prepared.platform, prepared.request.cache_from, given["reuse"]) == (HOST, None, reuse)
    assert prepared.request.engine == "native"


FILES = {"tag": "files:1", "output": Path("out"), "push": "registry.example/files:1"}


@pytest.mark.parametrize(
    ("ask", "where", "request_has", "delivery_has"),
    [
        (
            image_of_files, "kbuild.api.packing:build_model_image",
            {
                "model": "models:/m/1", "platforms": (Platform.parse("linux/arm64"),), "base": "debian:bookworm",
                "labels": (("of", "project"), ("a", "b")), "compression": "gzip",
            },
            {**FILES, "load": True},
        ),
        (
            modelpack, "kbuild.api.packing:build_modelpack",
            {"model": "models:/m/1", "labels": (("of", "project"), ("a", "b")), "compression": "gzip"},
            FILES,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("no_cache", [True, False])
def test_what_files_alone_are_made_with(
    world: World, hear: Hear, ask: Any, where: str, request_has: Any, delivery_has: Any, no_cache: bool
) -> None:
    given = hear(where)
    session = replace(session_of(world), config=ProjectConfig(labels=(("of", "project"),)))
    asked = ImageOptions(
        platform="linux/arm64", base="debian:bookworm", labels=("a=b",), compression="gzip", load=True,
        no_cache=no_cache, **FILES,
    )  # fmt: skip
    with pytest.raises(Heard):
        ask("models:/m/1", asked, session=session)
    assert part(vars_of(given["request"]), request_has) == request_has
    # Files alone are not the model's image: its run is not told of them.
    assert given["delivery"] == Delivery(record=False, **delivery_has)
    assert given["reuse"] is not no_cache and given["tools"] is session.tools


@pytest.mark.parametrize(
    ("ask", "where", "compression"),
    [
        (image_of_files, "kbuild.api.packing:build_model_image", "gzip"),
        (modelpack, "kbuild.api.packing:build_modelpack", "none"),  # a project's is of images
    ],
)
def test_what_files_alone_are_made_with_where_nothing_is_said(
    world: World, hear: Hear, ask: Any, where: str, compression: str
) -> None:
    given = hear(where)
    session = replace(session_of(world), config=ProjectConfig(compression="gzip"))
    with pytest.raises(Heard):
        ask("models:/m/1", session=session)
    assert given["request"].compression == compression and given["delivery"] == Delivery(record=False)
    assert getattr(given["request"], "platforms", (HOST,)) == (HOST,)


@pytest.mark.parametrize("ask", [image_of_files, modelpack])
@pytest.mark.parametrize("name", ["tag", "push"])
def test_a_name_that_none_can_be_is_told_before_files_are_fetched(world: World, ask: Any, name: str) -> None:
    world.store.down = True
    with pytest.raises(InvalidReference):
        ask("models:/m/1", ImageOptions(**{name: "Not One"}), session=session_of(world))


def vars_of(value: Any) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def test_what_a_table_is_scored_with(world: World, hear: Hear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = hear("kbuild.api.packing:score_tables")
    stated = {
        "workers": 3, "on_error": "null", "keep": "a,b", "format": "csv", "overwrite": True, "part_rows": 7,
        "batch_rows": 5,
    }  # fmt: skip
    asked = ScoreOptions(params={"k": 1}, base="debian:bookworm", **stated)
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("a\n1\n", encoding="utf-8")
    with pytest.raises(Heard):
        score("models:/m/1", "in.csv", Path("out"), asked, session=session_of(world))
    batch = {"input": "in.csv", "output": "out", "params": '{"k": 1}', **stated}
    assert vars_of(given["batch"]) == batch
    assert (given["request"].model, given["request"].base) == ("models:/m/1", "debian:bookworm")


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        (("nix.csv", "out"), "nix.csv is not there"),
        (("file:///nix/in.csv", "out"), "/nix/in.csv is not there"),
        (("nix*.csv", "out"), "fits no table"),
        (("in.csv", "out.xlsx"), "not written as xlsx"),
    ],
)
def test_what_is_wrong_with_tables_of_this_machine_is_told_before_the_model_is_packed(
    world: World, hear: Hear, tables: tuple[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear("kbuild.api.packing:score_tables")
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("a\n1\n", encoding="utf-8")
    with pytest.raises((InputRefused, ConfigurationError), match=re.escape(said)):
        score("models:/m/1", *tables, session=session_of(world))


@pytest.mark.parametrize("given", ["in*.csv", "folder", "s3://lake/in"])
def test_what_only_the_models_packages_can_tell_is_left_to_them(
    world: World, hear: Hear, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear("kbuild.api.packing:score_tables")
    monkeypatch.chdir(tmp_path)
    Path("in1.csv").write_text("a\n1\n", encoding="utf-8")
    Path("folder/_delta_log").mkdir(parents=True)
    with pytest.raises(Heard):
        score("models:/m/1", given, "out", session=session_of(world))


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.TGZ"])
def test_an_image_is_not_written_as_what_its_name_promises_and_it_is_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="would be a folder") as caught:
        make_delivery(ProjectConfig(), ImageOptions(output=tmp_path / name))
    assert caught.value.hint == f"--output {tmp_path}/x.tar"
    (tmp_path / name).mkdir()
    for each in (name, "x.tar", "x", "churn-1.2"):
        assert make_delivery(ProjectConfig(), ImageOptions(output=tmp_path / each)).output == tmp_path / each


def test_on_a_cluster_a_table_is_scored_with_its_settings(world: World, hear: Hear) -> None:
    given = hear("kbuild.workflow.batch.spark:score_on_spark")
    asked = ScoreOptions(spark="spark://h:7077", spark_settings={"spark.x": "1"})
    with pytest.raises(Heard):
        score("models:/m/1", "in.csv", "out", asked, session=session_of(world))
    assert (given["master"], given["settings"]) == ("spark://h:7077", {"spark.x": "1"})
    assert given["batch"].params is None and given["request"].model == "models:/m/1"


@pytest.mark.parametrize(("base", "glibc"), [("debian:bookworm", "2.36"), (None, None)])
def test_what_a_lock_is_made_with(world: World, hear: Hear, base: str | None, glibc: str | None) -> None:
    """A base that somebody asks for binds it: what wants a newer C library is not locked."""
    given = hear("kbuild.workflow.tools:lock_bundle")
    asked = world.lock_request()
    with pytest.raises(Heard):
        lock_model(world.model, asked, world.tools, output=None, base=base, force=base is not None)
    assert given["force"] is (base is not None)
    target = given["request"].target
    assert target.chosen is (base is not None) and (base is None or (target.base, target.glibc) == (base, glibc))
    assert replace(given["request"], target=asked.target) == asked


@pytest.mark.parametrize("reused", [True, False])
def test_what_an_archive_is_packed_with(world: World, hear: Hear, reused: bool) -> None:
    said: list[str] = []
    session = replace(session_of(world), voice=SimpleNamespace(say=said.append))
    given = hear("kbuild.api.packing:pack_model", SimpleNamespace(reused=reused))
    pack("models:/m/1", Path("m.tar.zst"), BuildOptions(labels=("a=b",)), no_cache=not reused, session=session)
    assert (given["output"], given["reuse"], given["request"].labels) == (Path("m.tar.zst"), reused, (("a", "b"),))
    assert said == ["nothing has changed since this was packed (--no-cache packs again)"] * reused


OWN: dict[str, Callable[[Path], Any]] = {
    "auditing": lambda _: audit(),
    "building": lambda _: build_one(),
    "building ": lambda _: lock(),
    "building  ": lambda _: build_images(),
    "building   ": lambda folder: render(output=folder / "context"),
    "comparing": lambda _: diff(),
    "deploying": lambda folder: deploy("models:/m/1", folder),
    "fleet.watching": lambda _: open_watch(WatchOptions()),
    "inspecting": lambda _: inspect_one(),
    "measuring": lambda _: measure(),
    "packing": lambda _: pack(),
    "packing ": lambda _: image_of_files(),
    "packing  ": lambda _: modelpack(),
    "packing   ": lambda folder: score(None, folder / "in.csv", folder / "out.csv"),
    "rebuilding": lambda _: rebuild(),
    "running": lambda _: run_image().__enter__(),
    "verifying": lambda _: verify(),
}
"""What is asked for without a session, by its module; a blank more for each function of it."""


@pytest.mark.parametrize("where", OWN)
def test_without_a_session_that_of_the_folder_is_opened(
    hear: Hear, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    (tmp_path / "in.csv").write_text("a\n1\n")
    hear(f"kbuild.api.{where.strip()}:open_session")
    with pytest.raises(Heard):
        OWN[where](tmp_path)


@pytest.mark.parametrize("name", [None, "mine"])
def test_what_a_worker_works_with(world: World, hear: Hear, monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    pytest.importorskip("procrastinate")
    given: dict[str, Any] = {}
    opened: list[Any] = []
    app = SimpleNamespace(connector=SimpleNamespace())

    def worker(**stated: Any) -> None:
        given.update(stated)
        raise Heard

    monkeypatch.setattr("kbuild.workflow.queue.worker.Worker", worker)
    monkeypatch.setattr(
        "kbuild.workflow.queue.database.open_app", lambda address, *, program: opened.append((address, program)) or app
    )
    address = QueueAddress("postgresql://me:pw@h/d")
    session = session_of(world)
    with pytest.raises(Heard):
        work(
            address, session=session, watcher="watcher", jobs=3, once=True, name=name, lease=12.0, audit="the audit",
        )  # type: ignore[arg-type]  # fmt: skip
    assert opened == [(address, "kbuild worker")]
    expected = {"app": app, "watcher": "watcher", "teller": session.voice, "jobs": 3, "once": True}
    assert part(given, expected) == expected
    # Others tell two workers of one machine apart, and who looks at the queue finds the process.
    assert given["name"] == (name or f"{socket.gethostname()}:{os.getpid()}")
    beat = given["beat"]
    assert beat.lease == 12.0 and 2 <= beat.lease / beat.every <= 10, "one heartbeat that is lost ends no worker"
    assert "pw" not in given["conceal"]("pw is wrong")
    # A job is built with the programs and phases by which the worker stops it.
    built, ended = hear("kbuild.api.fleet.queueing:build_asked"), hear("kbuild.api.fleet.queueing:tell_end", None)
    with pytest.raises(Heard):
        given["build"]("what is asked", run="its programs", phases="its phases", gates="its gates")
    assert (built["asked"], built["gates"], built["audit"]) == ("what is asked", "its gates", "the audit")
    tools = built["session"].tools
    assert (tools.run, tools.phases, tools.cache) == ("its programs", "its phases", session.tools.cache)
    given["end_watched"]("what is stated", "the outcome")
    assert ended == {"stated": "what is stated", "outcome": "the outcome", "session": session}


@pytest.mark.parametrize("no_cache", [True, False])
def test_what_a_job_is_built_with(world: World, hear: Hear, no_cache: bool) -> None:
    """By what came with it and by nothing of the worker's project; the registry is sent nothing that it has."""
    given = hear("kbuild.api.fleet.queueing:build_image")
    options = carry_options(
        ProjectConfig(),
        ImageOptions(push="registry.example/x:1", no_cache=no_cache, verify_cache=True, labels=("a=b",)),
    )
    session = session_of(world)
    session = replace(session, config=ProjectConfig(labels=(("of", "worker"),), base="debian:trixie", tag="worker:1"))
    with pytest.raises(Heard):
        build_asked(Asked(model="models:/m/1", options=options), session, "gates")  # type: ignore[arg-type]
    request, delivery = given["request"], given["delivery"]
    assert (request.model, request.base, request.labels) == ("models:/m/1", None, (("a", "b"),))
    assert (delivery.push, delivery.tag, delivery.once) == ("registry.example/x:1", None, True)
    assert (given["reuse"], given["gates"], given["tools"].verify_cache) == (not no_cache, "gates", True)
    assert given["tools"].shared is not session.tools.shared


def test_packages_are_fetched_by_what_the_lock_was_made_with(hear: Hear, tmp_path: Path) -> None:
    given = hear("kbuild.environment.index.download:fetch_packages", {})
    locked: Any = SimpleNamespace(
        environ={"CONDA_CHANNEL_ALIAS": "https://mirror.example"}, channel="the channel", indexes="the indexes",
        spec=SimpleNamespace(channels=("conda-forge",)), lockfile=SimpleNamespace(digest="its digest"),
    )  # fmt: skip
    tools: Any = SimpleNamespace(cache=tmp_path, phases=lambda _: nullcontext(Silent()), shared=Shared())
    assert download_packages(locked, ["a package"], tools) == {}  # type: ignore[list-item]
    expected = {
        "packages": ["a package"], "cache": tmp_path / "downloads", "channel": "the channel",
        "environ": locked.environ, "indexes": "the indexes",
    }  # fmt: skip
    assert part(given, expected) == expected
    # Asked for only where a package came from another one.
    assert given["channels"]() == ["https://mirror.example/conda-forge"]
