"""What is typed, and what the project sets, arrives where the work is done: every option, each by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.api.request import Measure
from kbuild.cli.app import cli
from kbuild.errors import BaseImageError, ConfigurationError, InvalidReference, LabelError, TemplateError
from kbuild.model.sweep import Best
from kbuild.platform import Platform, host_platform
from kbuild.workflow.delivery import Delivery

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")
MODEL = "models:/churn/3"
RUN = "a" * 32


class Stop(Exception):
    """Ends a command where its work would begin."""


@dataclass
class Asked:
    """The arguments that the work was to be done with."""

    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.given.append((arguments, options))
        raise Stop

    @property
    def request(self) -> Any:
        return self.given[-1][0][0]

    @property
    def options(self) -> dict[str, Any]:
        return self.given[-1][1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Asked]:
    made = {name: Asked() for name in ("build", "lock_model", "render_context")}
    for name, each in made.items():
        monkeypatch.setattr(f"kbuild.api.building.{name}", each)
    made["image_many"] = Asked()
    monkeypatch.setattr("kbuild.cli.image.image_many", made["image_many"])
    return made


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("VERIFY", "VERIFY_CACHE", "DEBIAN_MIRROR", "ALLOW_UNSIGNED_BASE", "INSTALL_BASE", "BUILD_NETWORK"):
        monkeypatch.delenv(f"KBUILD_{name}", raising=False)
    (tmp_path / "mine.j2").write_text("FROM scratch\n")
    (tmp_path / "conda-lock.yml").write_text("")

    def run(*argv: str) -> Result:
        done = CliRunner().invoke(cli, list(argv))
        if done.exception is not None and not isinstance(done.exception, Stop):
            raise done.exception
        return done

    return run


LOCK = {
    "--interpreter auto": ("interpreter", "auto"),
    "--interpreter conda": ("interpreter", "conda"),
    "--interpreter captured": ("interpreter", "captured"),
    "--channel a --channel b": ("channels", ("a", "b")),
    "--platform linux/arm64": ("platforms", (ARM,)),
    "--platform linux-64,linux-aarch64": ("platforms", (AMD, ARM)),
    "--lockfile conda-lock.yml": ("lockfile", Path("conda-lock.yml")),
    "--locked": ("locked", True),
    "--allow-sdist": ("allow_sdist", True),
}
BUILD = {
    "--base debian:trixie": ("base", "debian:trixie"),
    "--allow-unsigned-base": ("assembling.allow_unsigned", True),
    "--template mine.j2": ("template.file", Path("mine.j2")),
    "--template in-container --install-base oci:x": ("template.install_base", "oci:x"),
    "--label a=b --label c=d=e": ("labels", (("a", "b"), ("c", "d=e"))),
    "--slim": ("slim", True),
}
IMAGE = {
    "--engine native": ("engine", "native"),
    "--engine buildkit": ("engine", "buildkit"),
    "--builder mine": ("builder", "mine"),
    "--network host": ("network", "host"),
    "--compression gzip": ("compression", "gzip"),
}
DELIVERY = {
    "--tag churn:1": ("tag", "churn:1"),
    "--output out.tar": ("output", Path("out.tar")),
    "--load": ("load", True),
    "--push r.example/churn:{version}": ("push", "r.example/churn:{version}"),
    "--no-verify": ("verify", False),
    "--verify": ("verify", True),
    "--verify-timeout 7": ("patience", 7.0),
}


def part(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("typed", LOCK)
@pytest.mark.parametrize("command", ["image", "lock", "render"])
def test_options_of_the_lock(call: Any, asked: dict[str, Asked], command: str, typed: str) -> None:
    call(command, MODEL, *(["-o", "new"] if command == "render" else []), *typed.split())
    name, value = LOCK[typed]
    if command == "lock":
        request = asked["lock_model"].given[-1][0][1]
    else:
        request = asked["build" if command == "image" else "render_context"].request.lock
    assert getattr(request, name) == value
    others = {key: getattr(request, key) for key, _ in LOCK.values() if key != name}
    default = {"interpreter": "auto", "channels": (), "platforms": (host_platform(),), "lockfile": None}
    default |= {"locked": False, "allow_sdist": False}
    assert others == {key: value for key, value in default.items() if key != name}


WRONG = {
    "--template mien.j2": (TemplateError, "there is no template mien.j2"),
    "--template bad.j2": (TemplateError, "line 2"),
    "--base Nobody//": (BaseImageError, "is not a base image"),
    "--base ./nowhere": (BaseImageError, "nowhere is not a base image: there is no such folder"),
    "--base .": (BaseImageError, "is not a base image: the folder has no index.json"),
    "--base ./bad.j2": (BaseImageError, "bad.j2 is not a base image: it is no folder"),
    "--template in-container --install-base Nobody//": (BaseImageError, "is not a base image"),
}


@pytest.mark.parametrize("typed", WRONG)
@pytest.mark.parametrize("command", ["image", "image --all-registered", "render", "lock"])
def test_a_base_or_template_that_is_none_is_told_before_any_model_is_looked_for(
    call: Any, asked: dict[str, Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, typed: str
) -> None:
    if command == "lock" and "--base" not in typed.split():
        pytest.skip("a lock has no template")
    (tmp_path / "bad.j2").write_text("FROM scratch\n{% block")
    for module in ("building", "session"):
        monkeypatch.setattr(f"kbuild.api.{module}.take_model", lambda *_: pytest.fail("looked for a model"))
    monkeypatch.setattr("kbuild.cli.image._list_models", lambda *_: pytest.fail("looked for models"))
    kind, message = WRONG[typed]
    with pytest.raises(kind, match=re.escape(message)):
        call(*command.split(), *(["-o", "new"] if command == "render" else []), *typed.split())


@pytest.mark.parametrize("typed", BUILD)
@pytest.mark.parametrize("command", ["image", "render"])
def test_options_of_what_is_built(call: Any, asked: dict[str, Asked], command: str, typed: str) -> None:
    call(command, MODEL, *(["-o", "new"] if command == "render" else []), *typed.split())
    request = asked["build" if command == "image" else "render_context"].request
    name, value = BUILD[typed]
    assert request.model == MODEL and part(request, name) == value
    default = {"base": None, "assembling.allow_unsigned": False, "labels": (), "slim": False}
    assert {key: part(request, key) for key in default if key != name} == {
        key: value for key, value in default.items() if key != name
    }


@pytest.mark.parametrize("typed", IMAGE)
def test_options_of_the_engine(call: Any, asked: dict[str, Asked], typed: str) -> None:
    call("image", MODEL, *typed.split())
    name, value = IMAGE[typed]
    request = asked["build"].request
    assert getattr(request, name) == value
    # BuildKit's builder is asked by BuildKit.
    assert request.engine == ("buildkit" if typed.startswith("--builder") else value if name == "engine" else "auto")


@pytest.mark.parametrize("typed", DELIVERY)
def test_options_of_where_it_goes(call: Any, asked: dict[str, Asked], typed: str) -> None:
    call("image", MODEL, *typed.split())
    ((_, delivery, tools), options) = asked["build"].given[-1]
    name, value = DELIVERY[typed]
    default = Delivery(verify=True)
    assert {key: getattr(delivery, key) for key in Delivery.__slots__} == {
        key: getattr(default, key) for key in Delivery.__slots__
    } | {name: value}
    assert options == {"reuse": True} and tools.verify_cache is False


def test_options_of_the_cache(call: Any, asked: dict[str, Asked]) -> None:
    call("image", MODEL, "--no-cache", "--verify-cache")
    (_, _, tools), options = asked["build"].given[-1]
    assert options == {"reuse": False} and tools.verify_cache is True


@pytest.mark.parametrize("typed", [False, True])
def test_a_lock_is_written_where_it_is_wanted(call: Any, asked: dict[str, Asked], typed: bool) -> None:
    call("lock", MODEL, *(["-o", "here.yml", "--base", "debian:trixie", "--force"] if typed else []))
    (model, _, _), options = asked["lock_model"].given[-1]
    assert model == MODEL
    assert options == (
        {"output": Path("here.yml"), "base": "debian:trixie", "force": True}
        if typed
        else {"output": Path("conda-lock.yml"), "base": None, "force": False}
    )


PROJECT = """
[tool.kbuild]
base = "debian:bookworm"
template = "mine.j2"
channels = ["own"]
interpreter = "conda"
debian-mirror = "https://mirror.example/debian"
compression = "gzip"
slim = true
verify = false
labels = {team = "shop"}
tag = "shop:{run_id}"
push = "r.example/shop:{run_id}"
conda-names = {pytorch = "torch"}
[tool.kbuild.audit]
allowed-indexes = ["https://index.example/"]
allowed-channels = ["https://channel.example/"]
"""


@pytest.mark.parametrize(
    ("variable", "typed", "base"),
    [
        (None, [], "debian:bookworm"),
        ("prod", [], "debian:trixie"),
        ("prod", ["--env", "local"], "debian:bookworm"),
        (None, ["-e", "prod"], "debian:trixie"),
    ],
)
def test_the_environment_is_kedros(
    call: Any, asked: dict[str, Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    variable: str | None, typed: list[str], base: str,
) -> None:  # fmt: skip
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    for name in ("base", "local", "prod"):
        (tmp_path / "conf" / name).mkdir(parents=True)
    (tmp_path / "conf/prod/kbuild.yml").write_text("base: debian:trixie\n")
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    if variable is not None:
        monkeypatch.setenv("KEDRO_ENV", variable)
    call("image", MODEL, *typed)
    assert asked["build"].given[-1][0][0].base == base


def test_what_the_project_sets_counts_where_nothing_is_typed(
    call: Any, asked: dict[str, Asked], tmp_path: Path
) -> None:
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    call("image", MODEL)
    request, delivery = asked["build"].given[-1][0][:2]
    assert (request.base, request.compression, request.slim) == ("debian:bookworm", "gzip", True)
    assert (request.template.file, request.assembling.debian_mirror) == (
        tmp_path / "mine.j2",
        "https://mirror.example/debian",
    )
    assert (request.lock.channels, request.lock.interpreter) == (("own",), "conda")
    assert request.lock.names == (("pytorch", "torch"),)
    assert request.lock.allowed_indexes == ("https://index.example/",)
    assert request.lock.allowed_channels == ("https://channel.example/",)
    assert request.labels == (("team", "shop"),)
    # That a project has a place to push to does not push.
    assert (delivery.tag, delivery.push, delivery.verify) == ("shop:{run_id}", None, False)
    typed = ["--base", "debian:trixie", "--compression", "zstd", "--channel", "other", "--interpreter", "captured"]
    call("image", MODEL, *typed, "--label", "a=b", "--tag", "stall:1", "--verify")
    request, delivery = asked["build"].given[-1][0][:2]
    assert (request.base, request.compression) == ("debian:trixie", "zstd")
    assert (request.lock.channels, request.lock.interpreter) == (("other",), "captured")
    assert request.labels == (("team", "shop"), ("a", "b"))
    assert (delivery.tag, delivery.verify) == ("stall:1", True)
    (tmp_path / "pyproject.toml").unlink()
    call("image", MODEL)
    assert asked["build"].request.assembling.debian_mirror is None
    assert asked["build"].given[-1][0][1].verify is True


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--builder", "mine", "--engine", "native"], ConfigurationError),
        (["--label", "team"], LabelError),
        (["--tag", "Not One"], InvalidReference),
        (["--push", "churn:{nothing}"], InvalidReference),
    ],
)
def test_what_cannot_be_is_told_before_the_work(
    call: Any, asked: dict[str, Asked], argv: list[str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call("image", MODEL, *argv)
    assert asked["build"].given == []


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ("f1", Measure(metric="f1")),
        ("f1:max", Measure(metric="f1")),
        ("rmse:min", Measure(metric="rmse", lowest=True)),
        ("val:rmse:min", Measure(metric="val:rmse", lowest=True)),
        ("val:rmse", Measure(metric="val:rmse")),  # MLflow lets names have colons
        ("min", Measure(metric="min")),
    ],
)
def test_the_best_of_a_sweep(
    call: Any, asked: dict[str, Asked], monkeypatch: pytest.MonkeyPatch, text: str, measure: Measure
) -> None:
    """By the store's own reading of which child is the best; said with the value, and what could not be compared."""
    wanted: list[Any] = []

    def best_child(parent: Any, metric: str, *, lowest: bool) -> Best:
        wanted.append((parent.run_id, Measure(metric=metric, lowest=lowest)))
        return Best(run_id="b" * 32, name="brave-bat", value=0.125, compared=7, left_out=("odd-owl", "old-ox"))

    monkeypatch.setattr("kbuild.model.store.DirectStore.best_child", lambda self, *a, **b: best_child(*a, **b))
    for module in ("building", "session"):
        monkeypatch.setattr(f"kbuild.api.{module}.take_model", lambda model, *_: model)
    done = call("image", RUN, "--best", text)
    assert wanted == [(RUN, measure)]
    assert asked["build"].request.model == f"runs:/{'b' * 32}"
    which = "lowest" if measure.lowest else "highest"
    assert f"taking run {'b' * 12} (brave-bat): {measure.metric} 0.125, the {which} of 7" in done.stderr
    assert "left out: odd-owl, old-ox" in done.stderr
    call("image", f"runs:/{RUN}/inner", "--best", text)
    assert asked["build"].request.model == f"runs:/{'b' * 32}/inner"
    with pytest.raises(InvalidReference, match="is not a run"):
        call("image", MODEL, "--best", text)


def test_a_metric_without_a_name_is_refused(call: Any) -> None:
    for text in (":min", " ", ""):
        with pytest.raises(SystemExit):
            call("image", RUN, "--best", text)
    with pytest.raises(SystemExit):
        call("image", "--best", "f1")


def test_many_models_are_asked_for_alike(
    call: Any, asked: dict[str, Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "refs.txt").write_text("models:/a/1\nmodels:/b/2\n")
    call("image", "--from-file", "refs.txt", "--label", "a=b", "--engine", "native", "--report", "r.json")
    (requests, delivery, tools, _), options = asked["image_many"].given[-1]
    assert [(each.model, each.labels, each.engine) for each in requests] == [
        ("models:/a/1", (("a", "b"),), "native"), ("models:/b/2", (("a", "b"),), "native")
    ]  # fmt: skip
    assert delivery.verify is True and tools.verify_cache is False
    to_json = options.pop("to_json")
    assert to_json is None
    assert options == {
        "jobs": 2, "builders": (), "reuse": True, "report": Path("r.json"), "shared": None
    }  # fmt: skip
    call("image", "--from-file", "refs.txt", "--builder", "x, y", "--builder", "z,x", "--no-cache", "--json")
    (requests, *_), options = asked["image_many"].given[-1]
    assert options["builders"] == ("x", "y", "z") and options["jobs"] == 3 and options["reuse"] is False
    assert options["to_json"] is not None and {each.engine for each in requests} == {"buildkit"}
    call("image", "--from-file", "refs.txt", "--jobs", "5", "--builder", "x,y", "--verify-cache")
    assert asked["image_many"].options["jobs"] == 5 and asked["image_many"].given[-1][0][2].verify_cache is True
    call("image", "--from-file", "refs.txt", "--builder", "x")
    assert asked["image_many"].options["jobs"] == 2, "one waits for the network while the other works"
    monkeypatch.setattr("kbuild.model.store.DirectStore.registered", lambda store: ["models:/c/9"])
    call("image", "--all-registered")
    assert [each.model for each in asked["image_many"].given[-1][0][0]] == ["models:/c/9"]


@pytest.mark.parametrize(
    ("typed", "builders"),
    [
        ("--builder a", ("a",)), ("--builder a,b --builder c", ("a", "b", "c")),
        ("--builder a,,b, --builder a", ("a", "b")), ("--builder ,", ()), ("", ()),
    ],
)  # fmt: skip
def test_builders_are_named_each_or_together(typed: str, builders: tuple[str, ...]) -> None:
    from kbuild.cli.image import command

    context = command.make_context("image", ["m", *typed.split()])
    assert context.params["builders"] == builders
