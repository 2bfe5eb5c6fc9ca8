"""Sessions as they are typed, in ``said.txt``: each line that a command prints, on stdout or on stderr (``!``), and the
code it ends with (``[51]``). What differs from day to day and from machine to machine is left out: sizes, seconds,
digests, versions."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from world import HOST, MODEL_ID, RUN_ID, VERSION, World

from kbuild._version import __version__
from kbuild.answers import DEFAULT, compare
from kbuild.cli.app import cli, report
from kbuild.environment.index.withdrawn import Withdrawn
from kbuild.errors import (
    ConfigurationError,
    KbuildError,
    ModelNotFound,
    NothingToAsk,
    TrackingUnavailable,
    VerificationFailed,
)
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.find import RegisteredVersion
from kbuild.verify.golden import VerificationReport

OTHER = "linux/arm64" if HOST.architecture == "amd64" else "linux/amd64"
PAGES = (Path(__file__).parent / "said.txt").read_text("utf-8").split("\n## ")[1:]
SESSIONS = {page.partition("\n")[0]: page.partition("\n")[2] for page in PAGES}
LOCK = """\
version: 1
metadata: {{channels: [], platforms: [linux-64]}}
package:
- {{name: jinja2, version: {version}, manager: pip, platform: linux-64}}
"""
Happen = Callable[[World, pytest.MonkeyPatch], object]


def answers(got: float, *, expected: float | None = 1.0) -> Happen:
    """Images answer this; the container itself is not what is told of here."""

    def verify(image: Any, run: Any, *, choose: Any = lambda own: own, **_: Any) -> VerificationReport:
        found = compare(expected, got, choose(DEFAULT))
        return VerificationReport(
            url="http://x", runtime="r", prediction=got, expected=expected, compared=expected is not None,
            largest=found.largest, tolerance=choose(DEFAULT), own=DEFAULT,
            fault=None if expected is None else found.fault,
            kept=expected is None or compare(expected, got, DEFAULT).same,
        )  # fmt: skip

    return lambda world, patch: patch.setattr("kbuild.verify.judging.verify_image", verify)


def register(world: World, patch: pytest.MonkeyPatch) -> None:
    versions = [
        RegisteredVersion(
            name="till", version="3", aliases=("live",), run_id="1", tags={"kbuild.pushed": "r@sha256:1"}
        ),
        RegisteredVersion(name="till", version="2", run_id="2", tags={"kbuild.image_digest": "sha256:2"}),
        RegisteredVersion(name="stall", version="1", run_id="3"),
        RegisteredVersion(name="shop", version="1"),
    ]
    locks = {"1": "2.4.1", "2": "3.1.6"}
    world.store.files |= {(run, "kbuild/conda-lock.yml"): LOCK.format(version=it).encode() for run, it in locks.items()}
    patch.setattr(world.store, "fleet", lambda: versions, raising=False)
    world.store.models["models:/till/3"] = world.store.models[world.model]


def describe(world: World, **changes: object) -> None:
    """Write other facts into the model's MLmodel."""
    path = world.store.models[world.model] / "MLmodel"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text("utf-8")), **changes}), "utf-8")


def sign(world: World, patch: pytest.MonkeyPatch) -> None:
    columns = [{"name": "a", "type": "double", "required": True}, {"name": "b", "type": "string", "required": False}]
    tensor = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]
    describe(world, signature={"inputs": json.dumps(columns), "outputs": json.dumps(tensor)}, mlflow_version="3.1.0")


def withdraw(*releases: str, unasked: str | None = None) -> Happen:
    found = Withdrawn(releases=releases, unasked=unasked)
    name = "kbuild.environment.index.withdrawn.find_withdrawn"
    return lambda world, patch: patch.setattr(name, lambda *_, **__: found)


def raises(name: str, error: KbuildError) -> Happen:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return lambda world, patch: patch.setattr(name, fail)


def own(name: str, error: KbuildError) -> Happen:
    """Of the tracking server."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    return lambda world, patch: patch.setattr(world.store, name, fail, raising=False)


def damage(world: World, patch: pytest.MonkeyPatch) -> None:
    wheel = next((world.tools.cache / "downloads").glob("*/one-*.whl"))
    content = wheel.read_bytes()
    wheel.unlink()
    wheel.write_bytes(content + b"!")


def push(world: World, patch: pytest.MonkeyPatch) -> None:
    """A registry that takes everything."""

    class Registry:
        def __init__(self, *, places: Any, base: ImageReference | None) -> None:
            pass

        def publish(self, image: Any, reference: Any, *, progress: Any) -> None:
            progress.made(f"it has {reference}")

    patch.setattr("kbuild.workflow.publishing.RegistryPublisher", Registry)


EVENTS: dict[str, Happen] = {
    "the image answers as the model did": answers(1.0),
    "the image answers otherwise": answers(2.0),
    "the model recorded no answer": answers(1.0, expected=None),
    "the image answers an error": raises(
        "kbuild.verify.judging.verify_image",
        VerificationFailed("the image answers 500: no such column", hint="look at its log"),
    ),
    "the model has no example": raises("kbuild.verify.judging.verify_image", NothingToAsk("it has no input example")),
    "the model has a signature": sign,
    "a release is withdrawn": withdraw("one 1 was yanked: it is broken"),
    "the index says nothing of releases": withdraw(unasked="the index does not answer"),
    "the run is another server's": own("read_run", ModelNotFound("no such run")),
    "the server says nothing of runs": own("read_run", TrackingUnavailable("the server is down")),
    "the server gives no files": own("download", TrackingUnavailable("the server is down", hint="start it")),
    "pip's settings cannot be read": raises(
        "kbuild.workflow.tools.package_indexes", ConfigurationError("pip.conf is not one", hint="mend it")
    ),
    "the run names another image": lambda world, patch: world.store.set_tags(
        RUN_ID, {"kbuild.image": "shop@sha256:1", "kbuild.image_digest": "sha256:1"}
    ),
    "the run takes no tags": lambda world, patch: setattr(world.store, "refuses_tags", True),
    "the server is down": lambda world, patch: setattr(world.store, "down", True),
    "three models are registered": register,
    "the registry takes it": push,
    "a download is damaged": damage,
    "images are verified": lambda world, patch: patch.delenv("KBUILD_VERIFY"),
    "the base's folder is entered": lambda world, patch: patch.chdir(world.folder),
}
"""What happens between two commands (``*``)."""


class Machine:
    """Where sessions take place; paths, names and versions are said in capital letters."""

    def __init__(self, world: World, here: Path, patch: pytest.MonkeyPatch) -> None:
        self.world, self.here, self.patch = world, here, patch
        self.words = {
            "LOCKED": f"--lockfile {world.lockfile} --base oci:{world.base}", "LOCKFILE": str(world.lockfile),
            "BASE": f"oci:{world.base}", "CACHE": str(world.tools.cache), "STORE": str(world.folder),
            "HERE": str(here), "RUN": world.model, "OTHER": OTHER, "PLATFORM": str(HOST), "PYTHON": VERSION,
        }  # fmt: skip

    def run(self, line: str) -> Result:
        for name, value in self.words.items():
            line = re.sub(rf"\b{name}\b", value, line)
        return CliRunner().invoke(cli, shlex.split(line))

    def type(self, line: str, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
        done = self.run(line)
        code, said = done.exit_code, done.stderr
        if isinstance(done.exception, KbuildError):
            code, said = report(done.exception), done.stderr + capsys.readouterr().err
        elif done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        yield from filter(None, map(self.plain, done.stdout.splitlines()))
        yield from (f"! {each}" for each in map(self.plain, said.splitlines()) if each)
        if code:
            yield f"[{code}]"

    def plain(self, line: str) -> str:
        """A line without what differs from one day and one machine to the next."""
        for name, value in self.words.items():
            line = line.replace(value, name)
        line = re.sub(r"sha256:[0-9a-f]{12,64}", "sha256:…", line)
        line = re.sub(r"\b\d+(\.\d+)? (-> \d+ )?(kB|MB|GB|s|%)(?!\w)", r"_ \3", line)
        line = re.sub(r"\b20(2[4-9]|[3-9]\d)-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?", "TODAY", line)
        line = re.sub(r"\b(pack|write) +\d+ files", r"\1 _ files", line)
        line = re.sub("[0-9a-f]{60,64}", "DIGEST", line)
        line = re.sub(r"libzstd [\d.]+", "libzstd _", line).replace(
            f"io.kbuild.version={__version__}", "io.kbuild.version=_"
        )
        line = line.replace(" -h' for help", " --help' for help")  # click before 8.2 names the first of them
        return " ".join(re.sub("[█▉▊▋▌▍▎▏─]+", "", line).split())


@pytest.fixture
def machine(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    here = tmp_path / "here"
    here.mkdir()
    world.store.models[f"models:/{MODEL_ID}"] = world.store.models[world.model]
    for name, value in {"KBUILD_CACHE_DIR": world.tools.cache, "KBUILD_VERIFY": "0", "COLUMNS": "500"}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("KBUILD_QUEUE", "KBUILD_WEBHOOK_SECRET", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("kbuild.api.session.open_store", lambda *_, **__: world.store)
    monkeypatch.chdir(here)
    (here / "advisories.json").write_text(json.dumps(
        {"id": "PYSEC-1", "aliases": ["CVE-2014-1402"], "modified": "2026-11-01T00:00:00Z",
         "affected": [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "versions": ["2.4.1"]}]}
    ))  # fmt: skip
    return Machine(world, here, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("title", SESSIONS)
def test_a_session_says(title: str, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    for line in SESSIONS[title].splitlines():
        if line.startswith("* "):
            said.append(line)
            EVENTS[line[2:]](machine.world, machine.patch)
        elif line.startswith("$ kbuild "):
            said += [line, *machine.type(line[len("$ kbuild ") :], capsys)]
    assert said == [line for line in SESSIONS[title].splitlines() if line]


COLOURS = [
    # What the work went on in spite of is yellow, what it ended with is red.
    ("what is pushed is told of", "the run is not tagged with this image", "33"),
    ("an image is asked", "the verdict is not written to MLflow", "33"),
    ("an image is asked", "the model's own tolerance (within", "33"),
    ("an image is asked", "the model recorded no prediction to compare with", "33"),
    ("what is told besides", "not verified: it has no input example", "33"),
    ("what is told besides", "one 1 was yanked", "33"),
    ("many models", "models:/m-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb: 'till:{version}'", "31"),
]


@pytest.mark.parametrize("title", sorted({title for title, _, _ in COLOURS}))
def test_on_a_terminal_what_went_wrong_is_coloured(title: str, machine: Machine) -> None:
    machine.patch.setenv("FORCE_COLOR", "1")
    machine.patch.setenv("TERM", "xterm")
    shown = ""
    for line in SESSIONS[title].splitlines():
        if line.startswith("* "):
            EVENTS[line[2:]](machine.world, machine.patch)
        elif line.startswith("$ kbuild "):
            shown += machine.run(line[len("$ kbuild ") :]).stderr
    for _, words, colour in (each for each in COLOURS if each[0] == title):
        lines = [line for line in shown.splitlines() if words in line]
        assert lines and all(f"\x1b[{colour}m" in line for line in lines), (words, lines)
