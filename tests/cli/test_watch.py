"""``kbuild watch`` as it is typed: what is watched, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from kbuild.api.fleet import watching
from kbuild.api.fleet.watching import WatchOptions, open_watch
from kbuild.api.request import ImageOptions
from kbuild.cli.app import cli
from kbuild.errors import ConfigurationError, DeliveryFailed, SomeFailed
from kbuild.model.find import RegisteredVersion
from kbuild.model.registry import WebhookDelivery

Call = Callable[..., Result]
PUSH = ["--push", "registry.example/{name}:{version}"]


class Registry:
    """MLflow's, of two models; webhooks arrive unless there is a ``reason``."""

    def __init__(self) -> None:
        self.kept = {
            ("churn", "1"): RegisteredVersion(name="churn", version="1", created=0),
            ("churn", "2"): RegisteredVersion(name="churn", version="2", created=0),
            ("other", "1"): RegisteredVersion(name="other", version="1", created=0),
        }
        self.hooks: list[tuple[str, str]] = []
        self.reason = ""

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        return [each for each in self.kept.values() if name in (None, each.name)]

    def tag(self, version: RegisteredVersion, tags: Any) -> None:
        pass

    def add_webhook(self, url: str, secret: str) -> WebhookDelivery:
        self.hooks.append((url, secret))
        return WebhookDelivery(url=url, delivered=not self.reason, reason=self.reason)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(watching, "open_registry", lambda session: made)
    monkeypatch.setattr("kbuild.cli.watch.open_registry", lambda session: made)
    return made


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ImageOptions, Any]]:
    """What was built, how and with which tools; a model of that name fails: ``other``."""
    seen: list[tuple[str, ImageOptions, Any]] = []

    def build(model: str, options: ImageOptions, *, session: Any) -> Any:
        seen.append((model, options, session.tools))
        if "other" in model:
            raise ConfigurationError("it has no lock")
        digest = "sha256:" + "c" * 64
        return SimpleNamespace(reference=f"x@{digest}", digest=digest, pushed=f"registry.example/x@{digest}")

    monkeypatch.setattr(watching, "build_image", build)
    return seen


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KBUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    monkeypatch.delenv("KBUILD_WEBHOOK_SECRET", raising=False)
    return lambda *argv: CliRunner().invoke(cli, ["watch", *argv])


def test_once_prints_what_it_built_and_fails_for_what_it_did_not(
    call: Call, registry: Registry, built: list[Any]
) -> None:
    done = call("--once", *PUSH, "--label", "team=a", "--no-verify")
    assert done.stdout.splitlines() == ["models:/churn/1", "models:/churn/2"]
    digest = "sha256:" + "c" * 64
    told = [line for line in done.stderr.splitlines() if digest in line]
    assert told == [f"models:/churn/{number} is registry.example/x@{digest}" for number in (1, 2)], "a log says which"
    assert isinstance(done.exception, SomeFailed) and "1 of 3 versions have no image" in done.exception.message
    models, options, tools = zip(*built, strict=True)
    assert sorted(models) == ["models:/churn/1", "models:/churn/2", "models:/other/1"]
    assert {(each.labels, each.verify, each.push) for each in options} == {(("team=a",), False, PUSH[1])}
    # A name that one build took is free for the next of the same version.
    assert len({id(each.shared) for each in tools}) == 3


def test_only_the_models_that_are_named_are_watched(call: Call, registry: Registry, built: list[Any]) -> None:
    done = call("--once", *PUSH, "--model", "ch*")
    assert done.exit_code == 0 and [model for model, *_ in built] == ["models:/churn/1", "models:/churn/2"]
    built.clear()
    assert call("--once", *PUSH, "--since", "2026-11-01").exit_code == 0, "those are from before"
    assert built == []


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--once", "--listen", ":0", *PUSH], 2),
        (["--once", "--push", "registry.example/churn:1"], ConfigurationError.exit_code),
        (["--once", *PUSH, "--every", "soon"], ConfigurationError.exit_code),
        (["--once", *PUSH, "--since", "soon"], ConfigurationError.exit_code),
        (["--listen", "nowhere", *PUSH], ConfigurationError.exit_code),
    ],
)
def test_what_cannot_be_is_refused(
    call: Call, registry: Registry, built: list[Any], monkeypatch: pytest.MonkeyPatch, argv: list[str], code: int
) -> None:
    monkeypatch.setenv("KBUILD_WEBHOOK_SECRET", "s")
    done = call(*argv)
    assert (done.exit_code if code == 2 else getattr(done.exception, "exit_code", None)) == code
    assert built == []


@pytest.mark.parametrize(
    ("config", "option", "variable"),
    [
        ("", [], "KBUILD_WEBHOOK_SECRET"),
        ("", ["--secret-env", "MINE"], "MINE"),
        ('[tool.kbuild.webhook]\nurl = "https://hook.example"\nsecret_env = "TEAMS"\n', [], "TEAMS"),
    ],
)
def test_mlflow_is_told_of_the_webhook_with_the_secret_of_the_named_variable(
    call: Call, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, option: list[str],
    variable: str,
) -> None:  # fmt: skip
    (tmp_path / "pyproject.toml").write_text(config)
    url = "https://kbuild.example/webhook"
    done = call("--register", url, *option)
    assert isinstance(done.exception, ConfigurationError) and variable in done.exception.message, done.exception
    assert f"export {variable}=" in str(done.exception.hint)
    monkeypatch.setenv(variable, "whsec_x")
    done = call("--register", url, *option)
    assert (done.exit_code, done.stdout) == (0, f"{url}\n") and registry.hooks == [(url, "whsec_x")]
    registry.reason = "a private address"
    done = call("--register", url, *option)
    assert isinstance(done.exception, DeliveryFailed) and "a private address" in done.exception.message
    assert done.stdout == f"{url}\n" and "MLFLOW_WEBHOOK" in str(done.exception.hint)


def test_it_listens_and_ends_at_sigterm(
    call: Call, registry: Registry, built: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it runs it answers at /healthz and refuses what nobody signed; a signal ends it with 0."""
    seen: dict[str, Any] = {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def run(watch: Any) -> None:
        place = f"http://{address}"
        seen["health"] = requests.get(f"{place}/healthz", timeout=10)
        seen["refused"] = requests.post(f"{place}/webhook", data=b"{}", timeout=10).status_code
        seen["every"] = watch.every
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal ends it")

    monkeypatch.setenv("KBUILD_WEBHOOK_SECRET", "s")
    monkeypatch.setattr("kbuild.workflow.fleet.watching.Watch.run", run)
    before = signal.getsignal(signal.SIGTERM)
    try:
        done = call("--listen", address, "--every", "90s", *PUSH)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 0, done.exception
    assert f"webhooks are taken at http://{address}/webhook" in done.stderr
    assert "asking the registry every 90 s" in done.stderr
    assert "refused a webhook from 127.0.0.1" in done.stderr and seen["refused"] == 401
    assert json.loads(seen["health"].content)["status"] and seen["every"] == 90.0


def test_from_python_the_same_is_refused(registry: Registry) -> None:
    with pytest.raises(ConfigurationError):
        open_watch(WatchOptions(image=ImageOptions(push="registry.example/churn:1")))
