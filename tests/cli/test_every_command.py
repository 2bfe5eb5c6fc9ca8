"""What test_every_option.py does not ask of builds: the environment and the options of all other commands, and a way to
every exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from inspect import getmembers, isclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from readme_reference import commands

from kbuild import errors
from kbuild.cli.app import cli
from kbuild.cli.kedro_plugin import kbuild_group
from kbuild.platform import Platform
from kbuild.recording.modelify import ModelifyRequest
from kbuild.recording.preflight.project import Checked

ROOT = Path(__file__).parents[2]
ARM = Platform("linux", "arm64")
_FLAG = r"(?<![-\w])--?[a-zA-Z][-\w]*"


class Done(Exception):
    """Ends a command where its work would begin."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    for name in ("x", "y", "in.csv"):
        (tmp_path / name).write_text("")
    return tmp_path


def hear(monkeypatch: pytest.MonkeyPatch, place: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stop(*given: Any, **more: Any) -> None:
        seen.append((given, more))
        raise Done

    monkeypatch.setattr(f"kbuild.{place}", stop)
    return seen


NEEDED = {
    "deploy": "m --to kubernetes -o o", "render": "m -o o", "score": "m in.csv out", "trigger": "--flush",
}  # fmt: skip
OF_KEDRO = {"check": "", "modelify": "-p x -i y", "ui": ""}


def has_env(command: click.Command) -> bool:
    return any("--env" in each.opts for each in command.params)


@pytest.mark.parametrize("variable", [True, False])
@pytest.mark.parametrize("name", [name for name, command in commands().items() if has_env(command)])
def test_the_environment_that_is_named_is_the_one_that_is_read(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: bool
) -> None:
    asked: list[str | None] = []

    def read(folder: Path, env: str | None) -> None:
        asked.append(env)
        raise Done

    monkeypatch.setattr("kbuild.cli.config.read_project_config", read)
    typed = [*name.split(), *NEEDED.get(name, "").split()]
    if variable:
        monkeypatch.setenv("KEDRO_ENV", "prod")
    done = CliRunner().invoke(cli, [*typed, *([] if variable else ["--env", "prod"])])
    assert isinstance(done.exception, Done) and asked == ["prod"], done.output
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    CliRunner().invoke(cli, typed)
    assert asked == ["prod", None]


def test_every_command_that_reads_the_project_can_be_told_of_which_environment() -> None:
    reads = {
        path.stem
        for path in (ROOT / "kbuild/cli").glob("*.py")
        if re.search(r"\b(open_here|project_config)\(", path.read_text("utf-8"))
    }
    told = {name for name, command in commands().items() if has_env(command)} | OF_KEDRO.keys()
    # A worker's project is that of its folder; what is completed is completed in any.
    assert reads - told == {"options", "config", "model_image", "worker", "completion"}


def kedro(*argv: str) -> Any:
    return CliRunner().invoke(kbuild_group, list(argv))


def test_kedros_commands_take_kedros_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modelified, checked = hear(monkeypatch, "cli.modelify.modelify"), hear(monkeypatch, "cli.check.check_project")
    for typed, env in (([], None), (["--env", "prod"], "prod"), (["-e", "prod"], "prod")):
        kedro("modelify", "-p", "x", "-i", "y", *typed)
        kedro("check", *typed)
        assert modelified[-1][0][1:] == (here, env) and checked[-1][1]["env"] == env


MODELIFY: dict[str, tuple[str, dict[str, Any]]] = {
    "pipeline": ("--pipeline other", {"inference": "other"}),
    "input_name": ("--input-name other", {"input_name": "other"}),
    "training": ("--training t", {"training": "t"}),
    "model_name": ("--model-name n", {"log_model_kwargs": {"name": "n"}}),
    "registered_model_name": ("--registered-model-name n", {"log_model_kwargs": {"registered_model_name": "n"}}),
    "await_registration_for": ("--await-registration-for 0", {"log_model_kwargs": {"await_registration_for": 0}}),
    "infer_signature": (
        "--no-infer-signature",
        {"log_model_kwargs": {"signature": None, "input_example": False}},
    ),
    "infer_input_example": ("--no-infer-input-example", {"log_model_kwargs": {"input_example": False}}),
    "copy_mode": ('--copy-mode {"a":"copy"}', {"kpm_kwargs": {"copy_mode": {"a": "copy"}}}),
    "code_paths": ("--code-paths x --code-paths y", {"log_model_kwargs": {"code_paths": ["x", "y"]}}),
    "conda_env": ("--conda-env x", {"log_model_kwargs": {"conda_env": "x"}}),
    "pip_requirements": ("--pip-requirements x", {"log_model_kwargs": {"pip_requirements": "x"}}),
    "extra_pip_requirements": ("--extra-pip-requirements x", {"log_model_kwargs": {"extra_pip_requirements": "x"}}),
}


def test_what_is_typed_after_modelify_is_what_is_logged(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = hear(monkeypatch, "cli.modelify.modelify")
    command = kbuild_group.get_command(click.Context(kbuild_group), "modelify")
    assert command is not None and {each.name for each in command.params} == {*MODELIFY, "env"}
    for typed, expected in [("", {}), *MODELIFY.values()]:
        kedro("modelify", "-p", "x", "-i", "y", *typed.split())
        usual: dict[str, Any] = {"inference": "x", "input_name": "y", "training": None, "kpm_kwargs": {}}
        assert seen[-1][0][0] == ModelifyRequest(**{**usual, "log_model_kwargs": {}, **expected}), typed
    kedro("modelify", "-p", "x", "-i", "y", "--infer-signature", "--infer-input-example", "--copy-mode", "deepcopy")
    assert seen[-1][0][0].log_model_kwargs == {"signature": "auto", "input_example": "auto"}
    assert seen[-1][0][0].kpm_kwargs == {"copy_mode": "deepcopy"}


def test_what_is_typed_after_check_is_what_is_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def check(root: Path, **more: Any) -> Checked:
        seen.append(more)
        return Checked(pipelines=("a",), findings=(), notes=())

    monkeypatch.setattr("kbuild.cli.check.check_project", check)
    usual = {"env": None, "names": (), "data": True, "stores": True}
    for typed, expected in {
        "": {}, "-p a --pipeline b": {"names": ("a", "b")}, "--skip data": {"data": False},
        "--skip stores": {"stores": False}, "--skip data --skip stores": {"data": False, "stores": False},
    }.items():  # fmt: skip
        assert kedro("check", *typed.split()).exit_code == 0
        assert seen[-1] == usual | expected


@pytest.mark.parametrize(
    ("typed", "place", "given", "more"),
    [
        ("diff", "cli.diff.diff", ("@latest~1", "@latest"), {"platform": None}),
        ("diff a", "cli.diff.diff", ("a", "@latest"), {"platform": None}),
        ("diff a b --platform linux/arm64", "cli.diff.diff", ("a", "b"), {"platform": ARM}),
        ("inspect", "cli.inspect.inspect", (None,), {"packages": None, "platform": None}),
        ("inspect i --packages", "cli.inspect.inspect", ("i",), {"packages": True, "platform": None}),
        ("inspect i --no-packages", "cli.inspect.inspect", ("i",), {"packages": False, "platform": None}),
        ("inspect i --platform linux/arm64", "cli.inspect.inspect", ("i",), {"packages": None, "platform": ARM}),
        ("lock m", "cli.lock.lock", ("m",), {"base": None, "force": False, "output": Path("conda-lock.yml")}),
        ("lock m --base b --force -o l", "cli.lock.lock", ("m",), {"base": "b", "force": True, "output": Path("l")}),
        ("render m -o o", "cli.render.render", ("m",), {"output": Path("o")}),
        ("pack m", "cli.pack.pack", ("m", Path("model.tar.gz")), {"no_cache": False}),
        ("pack m -o p.tar --no-cache", "cli.pack.pack", ("m", Path("p.tar")), {"no_cache": True}),
    ],
)
def test_what_is_typed_is_what_is_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, typed: str, place: str, given: tuple[Any, ...], more: dict[str, Any]
) -> None:
    seen = hear(monkeypatch, place)
    monkeypatch.setattr("kbuild.cli.lock.pin_model", lambda model, _: model)
    done = CliRunner().invoke(cli, typed.split())
    assert isinstance(done.exception, Done), done.output
    (arguments, named) = seen[-1]
    assert arguments[: len(given)] == given and {name: named[name] for name in more} == more


@pytest.mark.parametrize(
    ("typed", "place", "number"),
    [
        ("diff a b", "comparing.existing_image", 2),
        ("inspect i", "inspecting.existing_image", 1),
        ("audit i", "auditing.existing_image", 1),
        ("audit models:/m/1 --image i", "auditing.existing_image", 2),
        ("verify i", "verifying.found_image", 1),
        ("verify i --rebuild", "rebuilding.found_image", 1),
        ("run i", "running.found_image", 1),
        ("measure i", "running.found_image", 1),
    ],
)
@pytest.mark.parametrize("platform", [None, ARM])
def test_every_image_that_is_named_is_that_of_the_platform(
    here: Path, monkeypatch: pytest.MonkeyPatch, typed: str, place: str, number: int, platform: Platform | None
) -> None:
    asked: list[Platform | None] = []

    @contextmanager
    def find(text: str, tools: Any, platform: Platform | None = None) -> Iterator[None]:
        asked.append(platform)
        if len(asked) == number:
            raise Done
        yield None

    monkeypatch.setattr(f"kbuild.api.{place}", find)
    monkeypatch.setattr("kbuild.api.auditing.Auditor", lambda *_: None)
    monkeypatch.setattr("kbuild.api.rebuilding.existing_index", lambda *_: nullcontext())
    done = CliRunner().invoke(cli, [*typed.split(), *(["--platform", str(platform)] if platform else [])])
    assert isinstance(done.exception, Done), done.output
    assert asked == [platform] * number


@pytest.mark.parametrize("engine", ["native", "buildkit"])
def test_the_demo_is_built_where_and_by_what_is_said(here: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    monkeypatch.setattr("kbuild.cli.demo.check_extra", lambda *_, **__: None)
    seen = hear(monkeypatch, "cli.demo.run_demo")
    CliRunner().invoke(cli, ["demo", "--dir", "there", "--engine", engine])
    ((folder, make_request, make_tools), _) = seen[-1]
    request = make_request("a" * 32)
    assert (folder, request.engine, request.model) == (here / "there", engine, "a" * 32)
    assert make_tools(folder).cache == here / "cache"


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))


@pytest.mark.slow
def test_some_test_types_every_option() -> None:
    """Under the command's name; those that all commands have in common are known by test_promises.py."""
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    words = [(set(re.findall(r"[\"' (]([a-z]+)(?=[\"' ])", each)), set(re.findall(_FLAG, each))) for each in texts]
    promised = {"image", "lock", "render", "pack", "score", "watch", "audit", "verify", "run", "measure", "deploy"}
    for path, command in [*leaves(cli), *leaves(kbuild_group)]:
        typed = {flag for names, flags in words if path[-1] in names for flag in flags}
        for option in command.params:
            if path[0] in promised or option.name in ("help", "quiet", "verbose", "env", "as_json"):
                continue
            if isinstance(option, click.Option):
                assert typed & {*option.opts, *option.secondary_opts}, f"{' '.join(path)} {option.opts[0]}"


@pytest.mark.slow
def test_there_is_a_way_to_every_exit_code() -> None:
    """Each error is raised somewhere, and some test expects it."""
    known = {name for name, each in getmembers(errors, isclass) if issubclass(each, errors.KbuildError)}
    known.remove("KbuildError")
    for folder, but in (("kbuild", "errors.py"), ("tests", "test_errors.py")):
        paths = (path for path in (ROOT / folder).rglob("*.py") if path.name != but)
        named = {name for path in paths for name in re.findall(r"\b[A-Z]\w+", path.read_text("utf-8"))}
        assert known <= named, folder
