"""The doctor's checks, on a machine that is told of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.version import Version

from kbuild.doctor import checks
from kbuild.environment.index.package_indexes import Indexes
from kbuild.errors import EngineUnavailable, KbuildError, TrackingUnavailable
from kbuild.model.registry import MlflowRegistry, WebhookDelivery
from kbuild.trigger.trigger_settings import GithubTrigger, GitlabTrigger, LocalTrigger, WebhookTrigger

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("free", "status"), [(1 * GB, "fail"), (3 * GB - 1, "fail"), (3 * GB, "warn"), (8 * GB - 1, "warn"), (8 * GB, "ok")]
)
def test_little_disk_is_told_before_it_is_too_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    (check,) = checks._disk(SimpleNamespace(cache=tmp_path / "cache"))  # type: ignore[arg-type]
    assert (check.name, check.status) == ("disk", status)
    assert check.detail == f"{free / GB:.1f} GB free in {tmp_path / 'cache'}"
    assert check.hint == f"KBUILD_CACHE_DIR=FOLDER, or rm -r {tmp_path / 'cache'}"


def fail(error: Exception) -> Any:
    raise error


def patient(**given: Any) -> Any:
    outbox = SimpleNamespace(messages=list, folder="here")
    config = SimpleNamespace(channels=(), interpreter="auto", trigger=None)
    return SimpleNamespace(
        **{"config": config, "environ": {}, "site": SimpleNamespace(outbox=outbox), "run": None} | given
    )


@pytest.mark.parametrize(
    ("look", "variable"),
    [("_runtime", "KBUILD_RUNTIME"), ("_tracking", "MLFLOW_REGISTRY_URI"), ("_webhooks", "MLFLOW_REGISTRY_URI")],
)
def test_an_empty_variable_is_none(look: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a job's definition takes one away that a machine sets; what works goes by that as well."""
    asked: list[object] = []

    def store(**given: object) -> Any:
        asked.append(given)
        return SimpleNamespace(ping=lambda: None)

    def choose(wanted: str, **_: object) -> Any:
        asked.append(wanted)
        return SimpleNamespace(name="bwrap")

    monkeypatch.setattr(checks, "MlflowStore", store)
    monkeypatch.setattr(checks, "MlflowRegistry", lambda **_: SimpleNamespace(test_webhooks=list))
    monkeypatch.setattr(checks, "check_server", lambda *_, **__: None)
    monkeypatch.setattr(checks, "DockerDaemon", lambda: fail(EngineUnavailable("no daemon")))
    monkeypatch.setattr(checks, "choose_runtime", choose)
    rows = [
        list(getattr(checks, look)(patient(tracking="http://mlflow.example", environ=environ)))
        for environ in ({}, {variable: ""})
    ]
    assert rows[0] == rows[1] and [row.status for row in rows[0]] == ["ok"]
    assert len(asked) == 2 and asked[0] == asked[1]


@pytest.mark.parametrize("error", [ValueError("odd"), PermissionError(13, "no"), KbuildError("said", hint="type this")])
def test_a_check_that_cannot_be_made_fails_alone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Iterator[Any]:
        raise error
        yield

    def look(_: Any) -> Iterator[Any]:
        yield SimpleNamespace(name="next", status="ok")

    monkeypatch.setattr(checks, "_CHECKS", {"first": fail, "next": look})
    first, second = checks.examine(patient())
    assert (first.name, first.status, second.status) == ("first", "fail", "ok")
    assert str(error) in first.detail
    assert first.hint == getattr(error, "hint", None)


@pytest.mark.parametrize(
    ("installed", "status", "told"),
    [
        ({"kedro": "1.0.0", "mlflow": "3.1.0"}, "ok", "mlflow 3.1.0"),
        ({"kedro": "1.9.0", "mlflow": "3.99.0rc1"}, "ok", "kedro 1.9.0"),
        ({"kedro": "2.0.0", "mlflow": "3.1.0"}, "fail", "kedro 2.0.0 is not"),
        ({"kedro": "1.0.0", "mlflow": "2.22.0"}, "fail", "mlflow 2.22.0 is not"),
        ({"kedro": "1.0.0"}, "fail", "mlflow is not installed"),
    ],
)
def test_versions_are_those_that_are_supported(
    installed: dict[str, str], status: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(checks, "version", version)
    (check,) = checks._versions(patient())
    assert (check.status, told in check.detail) == (status, True)


@pytest.mark.parametrize(
    ("interpreter", "answers", "status"),
    [("auto", True, "ok"), ("conda", True, "ok"), ("conda", False, "fail"), ("auto", False, "warn"),
     ("captured", False, "warn")],
)  # fmt: skip
def test_a_channel_has_to_answer_where_the_interpreter_comes_from_it(
    interpreter: str, answers: bool, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "answers_as_channel", lambda _, **__: answers)
    config = SimpleNamespace(channels=("https://me:secret@conda.example/own",), interpreter=interpreter)
    (check,) = checks._channels(patient(config=config))
    assert check.status == status and ("CONDA_CHANNEL_ALIAS=URL" in str(check.hint)) is not answers
    assert ("images get the interpreter that runs here" in check.detail) is (status == "warn")
    assert ("interpreter: captured" in str(check.hint)) is (status == "fail")
    assert "conda.example/own" in check.detail
    assert "secret" not in check.detail


def test_a_channel_is_named_as_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "answers_as_channel", lambda _, **__: False)
    config = SimpleNamespace(channels=("conda-forge",), interpreter="auto")
    environ = {"CONDA_CHANNEL_ALIAS": "https://mirror.example/"}
    (check,) = checks._channels(patient(config=config, environ=environ))
    assert check.detail.startswith("conda-forge does not answer at https://mirror.example/conda-forge")


def test_a_channel_is_asked_with_what_its_own_configuration_permits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a lock is made: who names a server so in kbuild.yml has its credentials sent there."""
    given: list[dict[str, str]] = []
    monkeypatch.setattr(checks, "answers_as_channel", lambda _, **__: True)
    monkeypatch.setattr(checks, "permitted", lambda channels: {f"{channels[0]}_IN_CLEAR": "1"})
    monkeypatch.setattr(checks, "channel_urls", lambda channels, environ: given.append(environ) or channels)
    config = SimpleNamespace(channels=("own",), interpreter="auto")
    list(checks._channels(patient(config=config, environ={"USER_OF_OWN": "me", "own_IN_CLEAR": "0"})))
    assert given == [{"USER_OF_OWN": "me", "own_IN_CLEAR": "1"}]


@pytest.mark.parametrize(("environ", "status"), [({}, "fail"), ({"S": ""}, "fail"), ({"S": "x"}, "ok")])
def test_a_triggers_secret_has_to_be_there(environ: dict[str, str], status: str) -> None:
    trigger = WebhookTrigger(url="https://hook.example", secret_env="S")  # noqa: S106
    config = SimpleNamespace(trigger=trigger)
    (check,) = checks._trigger(patient(config=config, environ=environ))
    assert check.status == status
    outbox = SimpleNamespace(messages=lambda: ["one"], folder="here")
    *_, waiting = checks._trigger(patient(config=config, site=SimpleNamespace(outbox=outbox)))
    assert (waiting.name, waiting.status) == ("trigger", "warn")
    assert waiting.detail == "1 messages about finished trainings were not taken yet: here"


@pytest.mark.parametrize(("releases", "status"), [({}, "fail"), ({Version("3.2"): [], Version("3.10"): []}, "ok")])
def test_an_index_has_to_have_mlflow(
    releases: dict[Version, list[str]], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Indexes(urls=("https://me:secret@index.example/simple",), environment={"PASSWORD_OF_INDEX": "secret"})
    given: list[Any] = []

    def find(*asked: Any, environ: Any, session: Any) -> Any:
        given.append((*asked, environ))
        return releases

    monkeypatch.setattr(checks, "package_indexes", lambda **_: found)
    monkeypatch.setattr(checks, "find_releases", find)
    (check,) = checks._index(patient(environ={"HOME": "/me"}))
    assert given == [("mlflow", found, {"HOME": "/me", "PASSWORD_OF_INDEX": "secret"})], "as a lock asks it"
    assert check.status == status
    assert "index.example" in check.detail and "secret" not in check.detail
    told = "answers, newest mlflow 3.10" if releases else "has no release of mlflow"
    assert check.detail.endswith(told) and (check.hint is None) is bool(releases)
    assert check.hint in (None, "pip config set global.index-url URL")
    *_, uv = checks._index(patient(environ={"HOME": "/me", "UV_INDEX": "own=https://own.example/simple"}))
    assert (uv.name, uv.status) == ("index", "warn") and "own.example/simple, and pip is not" in uv.detail


def test_webhooks_that_do_not_arrive_are_told_with_what_mlflows_server_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        WebhookDelivery(url="https://a:b@kbuild.example/webhook", delivered=True),
        WebhookDelivery(url="http://10.0.0.1/webhook", delivered=False, reason="10.0.0.1 is not a public IP address"),
    ]
    monkeypatch.setattr(MlflowRegistry, "test_webhooks", lambda registry: found)
    good, bad = checks._webhooks(patient(tracking="https://mlflow.example"))
    assert (good.status, good.detail) == ("ok", "from MLflow's server to https://***@kbuild.example/webhook: delivered")
    assert bad.status == "warn" and "is not a public IP address" in bad.detail
    for name in ("SECRET_ENCRYPTION_KEY", "ALLOWED_SCHEMES", "ALLOW_PRIVATE_IPS"):
        # As MLflow's environment_variables.py has them.
        assert bad.hint is not None and f"MLFLOW_WEBHOOK_{name}" in bad.hint
    found.clear()

    def down(_: MlflowRegistry) -> list[WebhookDelivery]:
        raise TrackingUnavailable("told by the check of the server")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowRegistry, "test_webhooks", down)
        assert list(checks._webhooks(patient(tracking="https://mlflow.example"))) == []
    (none,) = checks._webhooks(patient(tracking="https://mlflow.example"))
    assert none.status == "ok" and "kbuild watch --register URL" in none.detail
    assert list(checks._webhooks(patient(tracking="sqlite:///mlflow.db"))) == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)  # whoever is root may write anywhere
    with pytest.raises(KbuildError, match="cannot be written") as caught:
        list(checks._disk(patient(cache=tmp_path / "cache")))
    assert caught.value.hint == "KBUILD_CACHE_DIR=FOLDER"


@pytest.mark.parametrize(
    ("trigger", "variable"),
    [
        (GithubTrigger(repository="me/shop"), "KBUILD_GITHUB_TOKEN"),
        (GithubTrigger(repository="me/shop", token_env="MINE"), "MINE"),  # noqa: S106  the variable's name
        (GitlabTrigger(project="7", ref="main"), "KBUILD_GITLAB_TOKEN"),
        (WebhookTrigger(url="https://hook.example"), "KBUILD_WEBHOOK_SECRET"),
        (LocalTrigger(), None),
        (None, None),
    ],
)
def test_what_follows_training_needs_its_variable(trigger: Any, variable: str | None) -> None:
    config = SimpleNamespace(trigger=trigger)
    (check,) = checks._trigger(patient(config=config))
    assert check.status == ("ok" if variable is None else "fail")
    assert trigger is not None or check.detail == "none: after a training nothing is built by itself"
    assert variable is None or (f"variable {variable} is not set" in check.detail and variable in str(check.hint))
    if variable is not None:
        (check,) = checks._trigger(patient(config=config, environ={variable: "x"}))
        assert (check.status, check.detail) == ("ok", trigger.kind)
