"""What cannot be is refused in one line, with what to type instead."""

from __future__ import annotations

import json
import re
import socket
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from world import HOST, World

from kbuild import inspect, run
from kbuild.api.fleet.options import carry_options
from kbuild.api.fleet.watching import parse_duration
from kbuild.api.inspecting import _model
from kbuild.api.rebuilding import Rebuilt
from kbuild.api.request import BuildOptions, ImageOptions, make_image_request, parse_label
from kbuild.api.running import RunOptions
from kbuild.cli.help import command as help_command
from kbuild.cli.image import parse_best
from kbuild.cli.trigger import _parse_header as parse_header
from kbuild.digest import Digest
from kbuild.errors import (
    ConfigurationError,
    ContainerFailed,
    InvalidImage,
    InvalidReference,
    KbuildError,
    LabelError,
    OutputError,
    PackedOtherwise,
    PlatformError,
    RegistryError,
    VerificationFailed,
)
from kbuild.image.deliver.naming import fill_name, make_values
from kbuild.image.oci.image_reference import ImageReference
from kbuild.init.project_files import USUAL, InitRequest, make_files
from kbuild.model.bundle import read_bundle
from kbuild.model.find import RegisteredVersion
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform
from kbuild.project.config import ProjectConfig
from kbuild.scoring.errors import WorkerLost
from kbuild.verify.verify_image import read_example
from kbuild.workflow import Delivery, build_image
from kbuild.workflow.batch.packing import pack_model
from kbuild.workflow.batch.scoring import ask_scorer
from kbuild.workflow.batch.spark import score_on_spark
from kbuild.workflow.fleet.receiver import listening, parse_address
from kbuild.workflow.fleet.retag import retag
from kbuild.workflow.fleet.shard import Shard
from kbuild.workflow.fleet.wanted import Rules, find_wanted
from kbuild.workflow.once import Shared

OTHER = "linux/arm64" if HOST.architecture == "amd64" else "linux/amd64"
VALUES = make_values(name="till", version=None, run_id="1", model_id=None)


def claim_twice() -> None:
    shared = Shared()
    shared.claim("till:1", Digest("1" * 64))
    shared.claim("till:1", Digest("1" * 64))  # the same image may have its name twice
    shared.claim("till:1", Digest("2" * 64))


def listen_twice() -> None:
    with listening(None, ("127.0.0.1", 0)) as place, listening(None, ("127.0.0.1", int(place.partition(":")[2]))):  # type: ignore[arg-type]
        pass


def init(**given: Any) -> None:
    facts: dict[str, Any] = {"push": None, "trigger": "none", "python": "3.12", "install": "kbuild", "expires": None}
    make_files(InitRequest(**{**facts, "project": (), "policy": False, "kinds": USUAL, **given}))


Refused = tuple[Callable[[], object], type[Exception], str, str | None]
REFUSED: dict[str, Refused] = {
    "a shard": (lambda: Shard.parse("4/3"), ConfigurationError, "'4/3' is not a shard",
        "give K/N with K from 1 to N, such as 3/40"),
    "the share of none": (lambda: Shard.parse("0/3"), ConfigurationError, "'0/3' is not a shard",
        "give K/N with K from 1 to N, such as 3/40"),
    "a name": (lambda: fill_name("x:{version}", VALUES), InvalidReference, "'x:{version}': the model has no version",
        "use {name}, {run_id}, or name the registered model: models:/NAME, models:/NAME@ALIAS"),
    "another's name": (claim_twice, InvalidReference,
        f"till:1 is already the name of another of these images, sha256:{'1' * 64}",
        "tell the models apart with more placeholders, such as {name}:{version} or {model_id}"),
    "an address": (lambda: parse_address("host"), ConfigurationError, "'host' is not HOST:PORT",
        "such as --listen 0.0.0.0:8090"),
    "a port": (lambda: parse_address(":65536"), ConfigurationError, "':65536' is not HOST:PORT",
        "such as --listen 0.0.0.0:8090"),
    "a port in use": (listen_twice, ConfigurationError, "cannot listen on 127.0.0.1:PORT: Address already in use",
        "--listen names another"),
    "a duration": (lambda: parse_duration("0.5s"), ConfigurationError, "'0.5s' is not a length of time",
        "such as 90s, 5m, 1h or 2d; 1s is the shortest"),
    "an alias of nothing": (lambda: Rules(aliases=("a",)).check(), ConfigurationError,
        "--alias names tags of a registry", "--push registry.example/{name}:{version} says of which"),
    "one name of many": (lambda: Rules(push="r.example/x:{version}").check(), ConfigurationError,
        "--push r.example/x:{version} does not tell registered versions apart by their names and numbers",
        "as --push registry.example/{name}:{version} does"),
    "an option of this machine": (lambda: carry_options(ProjectConfig(), ImageOptions(load=True)), ConfigurationError,
        "--load is of this machine, and a worker builds elsewhere", "leave it out"),
    "a builder of no engine": (
        lambda: make_image_request(ProjectConfig(), "m", "native", BuildOptions(builders=("b",))), ConfigurationError,
        "--builder is of BuildKit, and --engine native asks none", None),
    "a label": (lambda: parse_label("team"), LabelError, "--label 'team' is not KEY=VALUE", LabelError.default_hint),
    "a metric": (lambda: parse_best(" :min"), click.BadParameter, "' :min' names no metric", None),
    "a header": (lambda: parse_header("signature"), click.BadParameter, "'signature' is not NAME:VALUE", None),
    "a header of no name": (lambda: parse_header(" :1"), click.BadParameter, "' :1' is not NAME:VALUE", None),
    "a Python": (lambda: init(python="3"), ConfigurationError, "--python '3' is not a version such as 3.11", None),
    "a push of two lines": (lambda: init(push="a/b:1\nc"), ConfigurationError,
        "--push holds a line break or another control character", None),
    "an install of two lines": (lambda: init(install="a\nb"), ConfigurationError,
        "--install holds a line break or another control character", None),
    "an image without a model": (lambda: read_example(SimpleNamespace(read_file=lambda _: None)), InvalidImage,  # type: ignore[arg-type]
        "the image has no model at /opt/model", "was it built by kbuild?"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_is_refused_with_what_to_type(what: str) -> None:
    do, kind, message, hint = REFUSED[what]
    with pytest.raises(kind) as caught:
        do()
    said = caught.value.message if isinstance(caught.value, KbuildError | click.BadParameter) else ""
    said = re.sub(r" \(while attempting to bind .*", "", said)  # Python's own words
    assert re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", said) == message
    if isinstance(caught.value, KbuildError):
        assert caught.value.hint == hint or (hint is None and caught.value.hint == kind.default_hint)


def test_images_that_would_be_elsewhere_are_refused_before_anything_is_fetched(world: World, tmp_path: Path) -> None:
    world.store.down = True
    request, other = world.request(), Platform.parse(OTHER)
    both = replace(request, lock=replace(request.lock, platforms=(other, other)))
    with pytest.raises(PlatformError) as loaded:
        build_image(both, Delivery(load=True), world.tools)
    assert loaded.value.message == f"--load takes the image for {HOST} from an index"
    assert loaded.value.hint == "add it to --platform, or use --output"
    (tmp_path / "m.tar").mkdir()
    with pytest.raises(OutputError) as packed:
        pack_model(request, world.tools, output=tmp_path / "m.tar")
    assert (packed.value.message, packed.value.hint) == (f"{tmp_path}/m.tar is a folder", "name a file")
    with pytest.raises(ConfigurationError) as spark:
        score_on_spark(request, None, "sc://host", {}, world.tools)  # type: ignore[arg-type]
    assert (spark.value.message, spark.value.hint) == (
        "sc://host is Spark Connect", "name a master, such as spark://HOST:7077",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "lines", "stderr", "kind", "said"),
    [
        (-9, [], "", WorkerLost, "the scorer was ended by signal 9"),
        (1, [], "it broke\n", KbuildError, "the scorer failed: it broke"),
        (1, [], "", KbuildError, "the scorer failed: it said nothing"),
        (80, ['{"error": [83, "killed", "again"]}'], "", WorkerLost, "killed"),
        (3, ['{"error": [3, "no such key", null]}'], "", ConfigurationError, "no such key"),
    ],
)
def test_how_a_scorer_ends_is_told(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    lines: list[str],
    stderr: str,
    kind: type[KbuildError],
    said: str,
) -> None:
    asked: list[Any] = []
    monkeypatch.setenv("PYTHONPATH", "/somebody's")  # of another Python than the archive's

    def run(argv: list[str], *, env: Any, on_line: Callable[[str], None]) -> Any:
        asked.append((argv, sorted(name for name in env if name.startswith("PYTHON"))))
        for line in lines:
            on_line(line)
        return SimpleNamespace(returncode=code, stdout="", stderr=stderr)

    with pytest.raises(kind) as caught, world.heard("score") as progress:
        ask_scorer(world.folder, ["--only=plan"], replace(world.tools, run=run), progress)  # type: ignore[arg-type]
    assert caught.value.message == said
    if code < 0:
        assert caught.value.hint == "the same command goes on where it was stopped"
    assert asked == [([f"{world.folder}/bin/kbuild-score", "--progress=json", "--only=plan"], [])]


def test_what_a_scorer_says_meanwhile_is_shown(world: World) -> None:
    counted: list[Any] = []
    notes: list[str] = []
    reports = [{"rows": 0, "total": 9, "left": None, "rate": 0}, {"rows": 5, "total": 9, "left": 2.4, "rate": 1234.5}]

    def run(argv: list[str], *, env: Any, on_line: Callable[[str], None]) -> Any:
        for line in ("a library talks", *map(json.dumps, reports)):
            on_line(line)
        return SimpleNamespace(returncode=0, stdout='noise\n{"rows": 9}\n', stderr="")

    progress = SimpleNamespace(note=notes.append, count=lambda *given: counted.append(given))
    answer = ask_scorer(world.folder, [], replace(world.tools, run=run), progress)  # type: ignore[arg-type]
    assert answer == {"rows": 9} and counted == [(0, 9, "rows"), (5, 9, "rows")]
    assert notes == ["loading the model", "a library talks", "1,234 rows/s, 2 s left"]


def test_two_versions_of_one_name_are_told_which_has_it() -> None:
    versions = [RegisteredVersion(name=name, version="1", created=when) for name, when in (("A b", 1.0), ("a-b", 2.0))]
    wanted = find_wanted(versions, Rules(push="r.example/{name}:{version}"), now=9.0)
    [(version, error)] = wanted.refused
    assert version.name == "a-b"
    assert error.message == "r.example/a-b:1 is what the image of models:/A b/1 is called"
    assert error.hint == "rename one of them, or tell them apart with more placeholders of --push"


def test_a_tar_of_something_else_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(world.tools.cache))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("note")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "note.txt", "note.txt")
    with pytest.raises(InvalidImage) as caught:
        inspect(str(tmp_path / "other.tar"))
    assert caught.value.message == f"{tmp_path}/other.tar holds no OCI image layout"


def test_a_model_of_no_run_is_inspected_without_asking_for_one(world: World) -> None:
    folder = world.store.models[world.model]
    stated = yaml.safe_load((folder / "MLmodel").read_text("utf-8"))
    del stated["run_id"]
    (folder / "MLmodel").write_text(yaml.safe_dump(stated), "utf-8")
    facts = _model(ModelReference.parse(str(folder)), read_bundle(folder), world.tools)
    assert facts["run"] is None


def test_pages_that_cannot_be_written_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda _: pytest.fail("nothing is there to be opened"))
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path))
    done = CliRunner().invoke(help_command, ["--html"])
    assert isinstance(done.exception, OutputError)
    assert done.exception.message == "the pages cannot be written: No space left"


@pytest.mark.parametrize(
    ("verdicts", "kind", "said"),
    [
        (["same"], None, ""),
        (["same", "differs"], VerificationFailed, "building models:/m again gives AFTER, not BEFORE"),
        (["repacked", "differs"], VerificationFailed, "building models:/m again gives AFTER, not BEFORE"),
        (
            ["same", "repacked"], PackedOtherwise,
            "same content, packed otherwise by zlib 1: BEFORE; here a packer that it does not name gives AFTER",
        ),
    ],
)  # fmt: skip
def test_what_an_image_is_that_was_built_again(verdicts: list[str], kind: type[KbuildError] | None, said: str) -> None:
    reports: Any = {
        number: SimpleNamespace(
            verdict=verdict, same=verdict == "same", claims=SimpleNamespace(model="models:/m"),
            diff=SimpleNamespace(before="BEFORE", after="AFTER"), packed_by=("zlib 1", None),
        )
        for number, verdict in enumerate(verdicts)
    }  # fmt: skip
    rebuilt = Rebuilt(image="till:1", digest=Digest("1" * 64), reports=reports, is_index=True)
    assert rebuilt.same is (kind is None)
    if kind is None:
        rebuilt.raise_for_verdict()
        return
    with pytest.raises(kind) as caught:
        rebuilt.raise_for_verdict()
    assert caught.value.message == said
    assert str(caught.value.hint) == (
        "what differs is printed; another version of kbuild's tools may explain it"
        if kind is VerificationFailed
        else "every file, label and setting is equal; build it anew to have the digest that others get"
    )


def test_a_port_that_is_taken_is_told_before_an_image_is_looked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ContainerFailed) as caught, run("nothing:1", RunOptions(port=port)):
            pass
    assert caught.value.message == f"port {port} of 127.0.0.1 is taken by another server"
    assert caught.value.hint == "name another one with --port, or none to get a free one"


def test_an_image_of_another_repository_gets_no_name() -> None:
    source = ImageReference.parse(f"registry.example/a@sha256:{'1' * 64}")
    for target, there in (("registry.example/b:1", source), ("registry.example/a", source)):
        with pytest.raises(RegistryError) as caught:
            retag(there, ImageReference.parse(target))
        assert caught.value.message.endswith(f"cannot name {source}, which is in another repository")
        assert str(caught.value.hint).startswith("--push must give all versions of a model one repository")
    with pytest.raises(RegistryError):
        retag(ImageReference.parse("registry.example/a:2"), ImageReference.parse("registry.example/a:1"))
