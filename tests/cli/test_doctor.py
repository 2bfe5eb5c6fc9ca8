"""``kbuild doctor``: its rows, its exit code, and what its other checks make of a machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from kbuild.cli import doctor
from kbuild.doctor import checks
from kbuild.doctor.checks import Examined
from kbuild.errors import (
    ConfigurationError,
    EngineUnavailable,
    EnvironmentUnfit,
    ModelNotFound,
    RegistryError,
    RuntimeUnavailable,
    TrackingUnavailable,
)
from kbuild.process import Completed
from kbuild.project.config import ProjectConfig

ROWS = [
    Examined(name="disk", status="ok", detail="9 GB free", hint="not shown"),
    Examined(name="engine", status="warn", detail="no buildkit", hint="install Docker"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


def patient(**given: Any) -> Any:
    facts = {"config": ProjectConfig(), "problem": None, "tracking": "sqlite:///x.db", "environ": {}, "run": None}
    return SimpleNamespace(**(facts | given))


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_a_warning_is_told_with_its_remedy_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: iter(ROWS))
    done = CliRunner().invoke(doctor.command, [])
    assert done.exit_code == 0
    ok, warn, hint = done.stdout.splitlines()
    assert ok.split() == ["ok", "disk", "9", "GB", "free"] and warn.split()[:2] == ["warn", "engine"]
    assert hint.split() == ["->", "install", "Docker"]
    said = json.loads(CliRunner().invoke(doctor.command, ["--json"]).stdout)
    assert [(each["name"], each["status"], each["hint"]) for each in said] == [
        ("disk", "ok", None), ("engine", "warn", "install Docker")
    ]  # fmt: skip


def test_a_failure_is_the_exit_code_after_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [Examined(name=name, status="fail", detail="no") for name in ("index", "disk", "disk")]
    monkeypatch.setattr(doctor, "examine", lambda _: iter([*failing, *ROWS]))
    done = CliRunner().invoke(doctor.command, [])
    assert isinstance(done.exception, EnvironmentUnfit)
    assert "3 of 5 checks failed: index, disk" in done.exception.message
    assert "no buildkit" in done.stdout


def test_a_configuration_that_cannot_be_read_is_one_of_the_findings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(doctor, "examine", lambda given: iter([seen.append(given)][:0]))
    for text, problem in (("[project", True), ("[tool.kbuild]\nbasee = 'x'\n", True), ("", False)):
        (folder / "pyproject.toml").write_text(text)
        assert CliRunner().invoke(doctor.command, []).exit_code == 0
        assert (seen[-1].problem is not None) is problem, text
    (row,) = checks._configuration(patient(problem=ConfigurationError("odd", hint="mend it")))
    assert (row.status, row.detail, row.hint) == ("fail", "odd", "mend it")
    (row,) = checks._configuration(patient())
    assert row.status == "warn" and "no Kedro project" in row.detail
    (row,) = checks._configuration(patient(config=ProjectConfig(root=folder)))
    assert (row.status, row.detail) == ("ok", f"project {folder}")


@pytest.mark.parametrize(
    ("ping", "server", "status", "told"),
    [
        (None, None, "ok", "https://***@mlflow.example answers"),
        (ModelNotFound("no store"), None, "warn", "no store"),
        (None, TrackingUnavailable("too old", hint="newer"), "warn", "kedro run logs no model: too old"),
    ],
)
def test_of_a_tracking_server_it_is_told_what_it_is_good_for(
    ping: Exception | None, server: Exception | None, status: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(error: Exception | None) -> Any:
        return (lambda *_, **__: None) if error is None else raising(error)

    monkeypatch.setattr(checks, "MlflowStore", lambda **_: SimpleNamespace(ping=answer(ping)))
    monkeypatch.setattr(checks, "check_server", answer(server))
    (row,) = checks._tracking(patient(tracking="https://me:secret@mlflow.example"))
    assert (row.status, row.detail) == (status, told)


@pytest.mark.parametrize(("code", "status", "told"), [(0, "ok", "solver 2.1"), (1, "fail", "fails: it is broken")])
def test_the_solver_is_started(code: int, status: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_solver", lambda folder: Path("/somewhere/solver"))
    done = Completed(argv=("solver",), returncode=code, stdout="2.1\n", stderr="words\nit is broken\n")
    (row,) = checks._solver(patient(run=lambda argv, **_: done))
    assert row.status == status and told in row.detail


def test_engines_and_what_runs_images_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_engine(name: str, run: Any) -> Any:
        failing = raising(EngineUnavailable("no daemon", hint="start it"))
        return SimpleNamespace(probe=failing if name == "buildkit" else lambda: "2 processors")

    monkeypatch.setattr(checks, "make_engine", make_engine)
    native, buildkit = checks._engine(patient())
    assert (native.status, native.detail) == ("ok", "native: 2 processors")
    assert (buildkit.status, buildkit.detail, buildkit.hint) == ("warn", "no buildkit: no daemon", "start it")
    monkeypatch.setattr(checks, "DockerDaemon", lambda: SimpleNamespace(version="29.1"))
    (row,) = checks._runtime(patient())
    assert (row.status, row.detail) == ("ok", "Docker 29.1 runs images")
    monkeypatch.setattr(checks, "DockerDaemon", raising(EngineUnavailable("no daemon")))
    monkeypatch.setattr(checks, "choose_runtime", lambda wanted, run: SimpleNamespace(name="bwrap"))
    for wanted in ("auto", "bwrap"):
        (row,) = checks._runtime(patient(environ={"KBUILD_RUNTIME": wanted}))
        assert (row.status, row.detail) == ("ok", "bwrap runs images")
    with pytest.raises(EngineUnavailable):
        list(checks._runtime(patient(environ={"KBUILD_RUNTIME": "docker"})))
    monkeypatch.setattr(checks, "choose_runtime", raising(RuntimeUnavailable("none here", hint="install bubblewrap")))
    (row,) = checks._runtime(patient())
    assert (row.status, row.detail, row.hint) == ("warn", "no run and no verify: none here", "install bubblewrap")


def test_a_registry_has_to_let_us_in(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = checks._registry(patient())
    assert row.status == "warn" and "nothing is pushed unless --push says where" in row.detail
    assert str(row.hint).startswith("push: ")
    config = ProjectConfig(push="registry.example/churn:{run_id}")
    for error, status in ((None, "ok"), (RegistryError("401", hint="docker login"), "fail")):
        access = raising(error) if error else lambda: None
        monkeypatch.setattr(
            checks, "RegistryClient", lambda reference, access=access: SimpleNamespace(check_access=access)
        )
        (row,) = checks._registry(patient(config=config))
        assert row.status == status
        assert row.detail == ("401" if error else "registry.example answers and lets us in")


def test_the_base_is_read_as_a_build_reads_it() -> None:
    (row,) = checks._base(patient(config=ProjectConfig(base="registry.example/base:1")))
    assert (row.status, row.detail) == ("ok", "registry.example/base:1")
    assert next(checks._base(patient())).status == "ok"


@pytest.mark.parametrize("registry", [None, "", "http://registry.example"])
def test_the_registry_is_asked_where_it_is(monkeypatch: pytest.MonkeyPatch, registry: str | None) -> None:
    asked: list[Any] = []

    class Store:
        def __init__(self, *, tracking_uri: str, registry_uri: str | None) -> None:
            asked.append((tracking_uri, registry_uri))

        def ping(self) -> None:
            raise ModelNotFound("nothing was logged yet")

    monkeypatch.setattr(checks, "MlflowStore", Store)
    environ = {} if registry is None else {"MLFLOW_REGISTRY_URI": registry}
    [row] = checks._tracking(patient(tracking="http://tracking.example", environ=environ))
    assert asked == [("http://tracking.example", registry or None)]
    assert (row.status, row.detail, row.hint) == (
        "warn", "nothing was logged yet", "kedro run, or MLFLOW_TRACKING_URI=URL",
    )  # fmt: skip
