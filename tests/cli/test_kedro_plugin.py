"""``kedro kbuild``: kbuild's commands in Kedro's own program."""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from kbuild.cli import kedro_plugin
from kbuild.errors import PipelineMLError, TrackingUnavailable
from kbuild.recording.preflight.fault import Fault
from kbuild.recording.preflight.project import Checked


def test_kedro_finds_the_plugin() -> None:
    (found,) = (each for each in entry_points(group="kedro.project_commands") if each.name == "kbuild")
    assert found.load() is kedro_plugin.commands
    assert list(kedro_plugin.commands.commands) == ["kbuild"]


def test_every_kedro_command_imports_it_so_it_imports_little() -> None:
    heavy = ("mlflow", "kedro", "docker", "rich", "pandas", "kbuild.cli.app")
    code = f"import sys, kbuild.cli.kedro_plugin; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_commands_are_those_of_the_program() -> None:
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "--help"])
    assert result.exit_code == 0, result.output
    for name in ("audit", "check", "image", "init", "modelify", "ui"):
        assert name in result.output
    assert "..." not in result.output.partition("Commands:")[2], "a sentence that is cut tells nobody anything"
    group: Any = kedro_plugin.kbuild_group
    with click.Context(group) as context:
        for name in ("audit", "image", "init"):
            assert group.get_command(context, name) is importlib.import_module(f"kbuild.cli.{name}").command
        assert group.get_command(context, "demo") is None


def test_a_mistyped_command_is_told_with_the_one_that_may_be_meant() -> None:
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "imgae"])
    assert (result.exit_code, "Did you mean image?" in result.stderr) == (2, True)


def test_errors_are_one_line_with_their_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PipelineMLError("there is no pipeline 'x'", hint="register it")

    monkeypatch.setattr("kbuild.cli.modelify.modelify", refuse)
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "modelify", "-p", "x", "-i", "y"])
    assert result.exit_code == 16
    told = "error: there is no pipeline 'x'\n  register it\n  more: kbuild help exit-codes#16\n"
    assert result.stderr == told


def test_a_command_line_that_cannot_be_is_clicks_own_affair() -> None:
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "modelify", "-p", "x"])
    assert result.exit_code == 2
    assert "Missing option '--input-name'" in result.stderr


def test_without_the_build_tools_the_rest_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        if name == "kbuild.cli.image":
            raise ModuleNotFoundError("No module named 'docker'", name="docker")
        return importlib.import_module(name)

    monkeypatch.setattr(kedro_plugin, "importlib", type("Fake", (), {"import_module": staticmethod(find)}))
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "--help"])
    assert result.exit_code == 0
    assert "not installed" in result.output
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "image", "abc", "--tag", "x"])
    assert result.exit_code == 5
    assert result.stderr.startswith("error: kbuild's build tools are not installed (docker is missing)")


# What the extra "build" alone brings: neither Kedro nor MLflow has it.
OF_BUILDS = (
    *("license_expression", "conda_lock", "cvss", "cyclonedx", "detect_secrets", "dockerfile_parse", "installer"),
    *("picklescan", "platformdirs", "elftools", "rattler", "zstandard"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check", "modelify", "ui", "init"])
def test_what_a_project_needs_while_it_trains_is_there_without_the_build_tools(name: str) -> None:
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {OF_BUILDS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from click.testing import CliRunner
from kbuild.cli import kedro_plugin
result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", {name!r}, "--help"])
print(result.output)
result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "--help"])
print([line for line in result.output.splitlines() if line.split()[:1] == [{name!r}]])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not installed" not in done.stdout, done.stdout
    assert "Options:" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--json"], ["-e", "prod"]])
def test_doctor_finds_that_the_build_tools_are_lacking(options: list[str]) -> None:
    """As everything that it finds: a row with what to type, and its own exit code."""
    code = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in {OF_BUILDS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
from kbuild.cli import main
sys.argv[1:] = ["doctor", *{options!r}]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 6 and "error: the build tools are not installed" in done.stderr, done.stderr
    if options == ["--json"]:
        (row,) = json.loads(done.stdout)
        assert (row["status"], row["hint"]) == ("fail", "pip install 'kbuild[build]'")
    else:
        assert done.stdout.startswith("fail build tools") and "-> pip install 'kbuild[build]'\n" in done.stdout


def test_modelify_says_only_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def take(request: Any, folder: Any, env: Any) -> Any:
        seen.append(request)
        return type("Recorded", (), {"name": "m", "run_id": "r", "model_uri": "models:/m-1", "notes": ()})

    monkeypatch.setattr("kbuild.cli.modelify.modelify", take)
    command = ["kbuild", "modelify", "-p", "inference", "-i", "table"]
    result = CliRunner().invoke(kedro_plugin.commands, command)
    assert (result.exit_code, result.stdout) == (0, "models:/m-1\n")
    assert (seen[-1].training, seen[-1].kpm_kwargs, seen[-1].log_model_kwargs) == (None, {}, {})
    more = [
        "--no-infer-signature",
        "--copy-mode",
        '{"a": "copy"}',
        "--model-name",
        "x",
        "--code-paths",
        ".",
        "--await-registration-for",
        "0",
    ]
    assert CliRunner().invoke(kedro_plugin.commands, [*command, *more]).exit_code == 0
    assert seen[-1].kpm_kwargs == {"copy_mode": {"a": "copy"}}
    assert seen[-1].log_model_kwargs == {
        "name": "x",
        "await_registration_for": 0,
        "code_paths": ["."],
        "signature": None,
        "input_example": False,
    }
    result = CliRunner().invoke(kedro_plugin.commands, [*command, "--copy-mode", "{a"])
    assert result.exit_code == 3
    assert "--copy-mode is not JSON" in result.stderr


@pytest.mark.parametrize("found", [0, 2])
def test_check_gives_the_list_and_its_own_exit_code(monkeypatch: pytest.MonkeyPatch, found: int) -> None:
    errors = [PipelineMLError(f"no {number}", hint="mend it") for number in range(found)]
    checked = Checked(
        pipelines=("training",),
        findings=tuple(("training", Fault(about="input", error=each)) for each in errors),
        notes=("By the way.",),
    )
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr("kbuild.cli.check.check_project", lambda root, **kwargs: asked.append(kwargs) or checked)
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "check", "--skip", "data", "-p", "training"])
    assert asked == [{"env": None, "names": ("training",), "data": False, "stores": True}]
    assert result.exit_code == (8 if found else 0)
    assert result.stdout == "".join(f"training: input: no {number}\n     mend it\n" for number in range(found))
    assert "By the way." in result.stderr
    assert ("2 found in training" if found else "Nothing found in training") in result.stderr
    result = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "check", "--json"])
    assert result.exit_code == (8 if found else 0)
    said = json.loads(result.stdout)
    assert said["findings"] == [
        {"pipeline": "training", "about": "input", "problem": f"no {number}", "remedy": "mend it", "exit_code": 16}
        for number in range(found)
    ]


def test_what_kedro_says_of_loading_a_project_does_not_hide_the_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(root: Path, **_: Any) -> Checked:
        for name, line in (("kedro.framework", 1), ("kedro_own", 2)):
            warnings.warn_explicit(f"of {name}", UserWarning, f"{name}.py", line, module=name)
        logging.getLogger("kedro.framework").info("loading")
        logging.getLogger("kedro.framework").error("broken")
        return Checked(pipelines=("training",), findings=(), notes=())

    monkeypatch.setattr("kbuild.cli.check.check_project", load)
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert CliRunner().invoke(kedro_plugin.commands, ["kbuild", "check"]).exit_code == 0
    assert [str(each.message) for each in warned] == ["of kedro_own"]
    assert [each.message for each in caplog.records] == ["broken"]
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("in_project", [True, False])
def test_what_is_checked_is_the_project_around_or_what_this_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_project: bool
) -> None:
    folder = tmp_path / "src" / "shop"
    folder.mkdir(parents=True)
    if in_project:
        (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "shop"\n')
    monkeypatch.chdir(folder)
    roots: list[Path] = []
    none = Checked(pipelines=(), findings=(), notes=())
    monkeypatch.setattr("kbuild.cli.check.check_project", lambda root, **_: roots.append(root) or none)
    CliRunner().invoke(kedro_plugin.commands, ["kbuild", "check"])
    assert roots == [tmp_path if in_project else folder]


def test_the_ui_is_mlflows_on_the_projects_own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "x"\n')
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    started: list[Any] = []
    monkeypatch.setattr("kbuild.cli.ui.stay", lambda words, env: started.append(words) or len(env) * 0)
    monkeypatch.setattr("webbrowser.open", started.append)
    none = CliRunner().invoke(kedro_plugin.commands, ["kbuild", "ui"])
    assert none.exit_code == TrackingUnavailable.exit_code and "there are no runs yet" in none.stderr
    (tmp_path / "mlflow.db").touch()
    assert CliRunner().invoke(kedro_plugin.commands, ["kbuild", "ui", "--port", "5001"]).exit_code == 0
    assert started.pop()[3:] == [
        "ui", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--host", "127.0.0.1", "--port", "5001"
    ]  # fmt: skip
    for code, ends in ((3, 3), (-2, 0)):  # ended by a signal it was ended as it is to be
        monkeypatch.setattr("kbuild.cli.ui.stay", lambda words, env, code=code: code)
        assert CliRunner().invoke(kedro_plugin.commands, ["kbuild", "ui"]).exit_code == ends
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    assert CliRunner().invoke(kedro_plugin.commands, ["kbuild", "ui"]).stdout == "http://127.0.0.1:9\n"
    assert started == ["http://127.0.0.1:9"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert CliRunner().invoke(kedro_plugin.commands, ["kbuild", "ui"]).stdout == "https://mlflow.example\n"
    assert started[1:] == ["https://mlflow.example"]


def test_modelify_finds_the_project_from_any_folder_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "x"\n')
    (tmp_path / "src" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "src" / "x")
    asked: list[Path] = []

    def note(_: Any, project: Path, env: str | None) -> None:
        asked.append(project)
        raise PipelineMLError("enough")

    monkeypatch.setattr("kbuild.cli.modelify.modelify", note)
    CliRunner().invoke(kedro_plugin.commands, ["kbuild", "modelify", "-p", "x", "-i", "y"])
    assert asked == [tmp_path]
