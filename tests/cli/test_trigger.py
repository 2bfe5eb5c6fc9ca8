from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kbuild.cli.trigger import command
from kbuild.errors import ConfigurationError, DeliveryFailed, KbuildError, SignatureRefused
from kbuild.trigger import fire
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.fire import Site
from kbuild.trigger.outbox import Message, Outbox
from kbuild.trigger.signature import make_headers

pytestmark = pytest.mark.filterwarnings("ignore")
SECRET = {"KBUILD_WEBHOOK_SECRET": "hush"}


@pytest.fixture
def event() -> TrainingEvent:
    return TrainingEvent(
        run_id="r1", model_id="m-1", model_uri="models:/m-1", model_name="model", tracking_uri="u", project="shop"
    )


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.kbuild]\ntrigger = "webhook"\n[tool.kbuild.webhook]\nurl = "http://127.0.0.1:9/x"\nretries = 0\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("KEDRO_ENV", raising=False)
    return tmp_path


def call(*argv: str, body: bytes = b"", env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command, argv, input=body, env=env or {})


def verify(body: bytes, *, age: float = 0, secret: str = "hush", argv: tuple[str, ...] = ()) -> Result:  # noqa: S107
    at = int(time.time() - age)
    headers = [f"{name.lower()}: {text}" for name, text in make_headers(secret, "id-1", at, body).items()]
    return call("--verify", *(word for header in headers for word in ("-H", header)), *argv, body=body, env=SECRET)


def failure(result: Result) -> KbuildError:
    assert isinstance(result.exception, KbuildError), result.output
    return result.exception


def test_a_right_message_prints_its_model(project: Path, event: TrainingEvent) -> None:
    assert verify(event.body).stdout == "models:/m-1\n"
    assert json.loads(verify(event.body, argv=("--json",)).stdout)["run_id"] == "r1"
    assert verify(event.body, age=400, argv=("--tolerance", "500")).exit_code == 0


def test_wrong_ones_are_refused(project: Path, event: TrainingEvent) -> None:
    assert isinstance(failure(verify(event.body, secret="other")), SignatureRefused)  # noqa: S106
    assert "s off, more than the 300 s" in failure(verify(event.body, age=400)).message
    assert "no JSON" in failure(verify(b"{")).message
    assert isinstance(failure(verify(b'{"event": "other"}')), SignatureRefused)
    assert "no header" in failure(call("--verify", body=event.body, env=SECRET)).message


def test_verifying_without_the_secret(project: Path) -> None:
    error = failure(call("--verify", "--secret-env", "MY_SECRET"))
    assert isinstance(error, ConfigurationError) and "MY_SECRET is not set" in error.message


def test_the_outbox_is_listed_and_stays_when_nobody_answers(project: Path, event: TrainingEvent) -> None:
    assert call().stdout == "" and call("--flush").exit_code == 0
    Outbox(project / ".kbuild" / "outbox").put("webhook", event)
    assert call().stdout == f"webhook {event.id} models:/m-1 run r1\n"
    result = call("--flush", "--json", env=SECRET)
    assert isinstance(failure(result), DeliveryFailed)
    answer = json.loads(result.stdout)
    assert answer["delivered"] == [] and "does not answer" in answer["failed"][0]["error"]
    assert json.loads(call("--json").stdout)[0]["id"] == event.id


def test_where_one_server_takes_its_message_and_another_does_not_the_other_waits_and_is_the_exit_code(
    project: Path, event: TrainingEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver(message: Message, site: Site) -> KbuildError | None:
        return None if message.kind == "github" else DeliveryFailed("nobody there")

    monkeypatch.setattr(fire, "_deliver", deliver)
    outbox = Outbox(project / ".kbuild" / "outbox")
    for kind in ("webhook", "github"):
        outbox.put(kind, event)
    done = call("--flush", env=SECRET)
    assert done.stdout == f"github {event.id} models:/m-1 run r1\n"
    assert "1 of 2 messages wait to be sent again: nobody there" in failure(done).message
    assert [each.kind for each in outbox.messages()] == ["webhook"]


def test_what_another_process_is_sending_is_left_to_it(project: Path, event: TrainingEvent) -> None:
    outbox = Outbox(project / ".kbuild" / "outbox")
    outbox.put("webhook", event)
    with outbox.alone() as alone:
        assert alone
        done = call("--flush", env=SECRET)
    assert (done.exit_code, done.stdout) == (0, "") and "another process is sending what waits now" in done.stderr
    assert len(outbox.messages()) == 1


@pytest.mark.parametrize("argv", [("--flush", "--verify"), ("--header", "a:b"), ("--verify", "-H", "nonsense")])
def test_options_that_do_not_go_together(argv: tuple[str, ...], project: Path) -> None:
    assert call(*argv, env=SECRET).exit_code == 2


def test_the_schema_is_printed() -> None:
    assert json.loads(call("--schema").stdout)["properties"]["event"] == {"const": "model.logged"}


def test_that_none_waits_is_told_apart_from_that_none_is_made(project: Path) -> None:
    set_one = call()
    assert (set_one.exit_code, set_one.stdout) == (0, "")
    assert set_one.stderr == "no message about a finished training waits to be sent\n"
    (project / "pyproject.toml").write_text('[tool.kbuild]\ntrigger = "none"\n')
    for argv in ((), ("--flush",)):
        none = call(*argv)
        assert none.exit_code == 0 and none.stderr.endswith(": no trigger is set (kbuild help triggers)\n")
