from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbuild.errors import ConfigurationError, DeliveryFailed, OutputError, TriggerFailed
from kbuild.trigger import fire as firing
from kbuild.trigger.background import read_job
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.fire import Site, fire, flush
from kbuild.trigger.outbox import Outbox
from kbuild.trigger.trigger_settings import CommandTrigger, LocalTrigger, WebhookTrigger, make_trigger

HOOK = WebhookTrigger(url="http://127.0.0.1:9/x")
FIELDS = {"model_uri": "models:/m-1", "model_name": "model", "tracking_uri": "u", "project": "shop"}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run ids that a server was told of; one called down refuses."""
    found: list[str] = []

    def send(trigger: WebhookTrigger, event: TrainingEvent, **options: object) -> None:
        if trigger.url == "down":
            raise DeliveryFailed("down does not answer")
        found.append(event.run_id)

    monkeypatch.setattr(firing, "send", send)
    return found


def test_local_takes_every_step_and_pushes_last(event: TrainingEvent, site: Site, programs: Any) -> None:
    line = fire(LocalTrigger(push="r.example/x:{run_id}"), replace(event, env="prod"), site, ended=True)
    ((argv, env, log),) = programs.started
    job = read_job(Path(argv[-1]))
    assert [step.name for step in job.steps] == ["lock", "image", "verify", "audit", "push"]
    # The very image that is pushed afterwards, with the packages of its base.
    assert job.steps[3].argv[-4:-2] == ("--image", "{image}")
    assert all(step.argv[-2:] == ("--env", "prod") for step in job.steps)
    assert job.steps[-1].argv[-4:-2] == ("--push", "r.example/x:{run_id}")
    assert "process 4242" in line and str(log) in line and log.is_relative_to(site.state)
    assert env == {
        "PATH": "/bin",
        "KBUILD_RUN_ID": event.run_id,
        "KBUILD_MODEL_URI": event.model_uri,
        "MLFLOW_TRACKING_URI": site.tracking_uri,
    }
    assert "secret" not in Path(argv[-1]).read_text(encoding="utf-8")


def test_local_leaves_out_what_is_switched_off(event: TrainingEvent, site: Site, programs: Any) -> None:
    fire(LocalTrigger(verify=False, audit=False), event, site, ended=False)
    job = read_job(Path(programs.started[0][0][-1]))
    assert [step.name for step in job.steps] == ["lock", "image"]


def test_a_command_is_started_with_its_placeholders(event: TrainingEvent, site: Site, programs: Any) -> None:
    fire(CommandTrigger(argv=("tell", "{model_uri}", "{x}")), event, site, ended=True)
    job = read_job(Path(programs.started[0][0][-1]))
    assert job.steps[0].argv == ("tell", event.model_uri, "{x}")


def test_a_command_can_be_waited_for(event: TrainingEvent, site: Site, programs: Any) -> None:
    trigger = CommandTrigger(argv=("tell", "{run_id}"), wait=True)
    assert fire(trigger, event, site, ended=True) == "tell is done"
    ((argv, env),) = programs.ran
    assert argv == ["tell", event.run_id] and env["KBUILD_MODEL_URI"] == event.model_uri
    programs.code, programs.stderr = 3, "why\nbecause\n"
    with pytest.raises(TriggerFailed, match="tell failed with exit code 3: because"):
        fire(trigger, event, site, ended=True)


def test_a_server_that_takes_it_leaves_nothing_behind(event: TrainingEvent, site: Site, told: list[str]) -> None:
    site = replace(site, remotes={"webhook": HOOK})
    assert fire(HOOK, event, site, ended=True) == "webhook was told"
    assert told == [event.run_id] and site.outbox.messages() == []


def test_what_was_not_taken_goes_with_the_next_run(event: TrainingEvent, site: Site, told: list[str]) -> None:
    down = replace(site, remotes={"webhook": replace(HOOK, url="down")})
    with pytest.raises(DeliveryFailed, match="webhook was not told: down does not answer"):
        fire(HOOK, event, down, ended=True)
    with pytest.raises(DeliveryFailed):
        fire(HOOK, event, down, ended=True)
    assert len(site.outbox.messages()) == 1, "one message, however often it is tried"
    later = replace(event, run_id="f" * 32)
    up = replace(site, remotes={"webhook": HOOK})
    assert fire(HOOK, later, up, ended=True) == "webhook was told, and of 1 earlier runs"
    assert told == [event.run_id, later.run_id] and site.outbox.messages() == []


def test_a_server_that_is_down_is_asked_once_for_all_its_messages(
    event: TrainingEvent, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def send(trigger: WebhookTrigger, event: TrainingEvent, **options: object) -> None:
        asked.append(event.run_id)
        raise DeliveryFailed("down does not answer")

    monkeypatch.setattr(firing, "send", send)
    site = replace(site, remotes={"webhook": HOOK})
    for number in range(3):
        site.outbox.put("webhook", TrainingEvent(**{**FIELDS, "run_id": str(number) * 32, "model_id": f"m-{number}"}))
    flushed = flush(site)
    assert asked == ["0" * 32]
    assert len(flushed.failed) == len(site.outbox.messages()) == 3


def test_an_open_run_is_waited_for_and_told_then(
    event: TrainingEvent, site: Site, programs: Any, told: list[str]
) -> None:
    line = fire(HOOK, event, replace(site, remotes={"webhook": HOOK}), ended=False)
    assert line == f"webhook is told once the run ends: process 4242, log {programs.started[0][2]}"
    job = read_job(Path(programs.started[0][0][-1]))
    assert job.steps[0].argv[-2:] == ("trigger", "--flush") and told == []
    assert [message.event for message in site.outbox.messages()] == [event]
    fire(HOOK, replace(event, env="prod"), replace(site, remotes={"webhook": HOOK}), ended=False)
    job = read_job(Path(programs.started[1][0][-1]))
    assert job.steps[0].argv[-4:] == ("trigger", "--flush", "--env", "prod"), "whose servers and secrets count"


def test_a_section_that_went_away_is_told(event: TrainingEvent, site: Site) -> None:
    kept = site.outbox.put("webhook", event)
    ((_, error),) = flush(site).failed
    assert (error.message, error.hint) == ("kbuild.yml has no section webhook any more", f"remove {kept.path}")


def test_one_process_delivers_at_a_time(event: TrainingEvent, site: Site) -> None:
    site.outbox.put("webhook", event)
    with site.outbox.alone() as alone:
        assert alone and flush(site).busy


def test_the_outbox_is_not_for_the_repository_and_damage_is_named(event: TrainingEvent, site: Site) -> None:
    message = site.outbox.put("webhook", event)
    assert (site.state / ".gitignore").read_text().endswith("*\n")
    assert [path.name for path in message.path.parent.iterdir()] == [message.path.name]
    message.path.write_text("{")
    with pytest.raises(TriggerFailed, match=message.path.name):
        site.outbox.messages()


def test_an_outbox_that_cannot_be_written_is_one_line(event: TrainingEvent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write") as caught:
        Outbox(tmp_path / "file" / "outbox").put("webhook", event)
    assert caught.value.hint == "state_folder in kbuild.yml names another place"
    with pytest.raises(OutputError, match="cannot write"), Outbox(tmp_path / "file" / "outbox").alone():
        pytest.fail("there is no place for it")


def test_what_could_not_be_written_whole_leaves_nothing(
    event: TrainingEvent, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kbuild.trigger.outbox.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        site.outbox.put("webhook", event)
    assert not list(site.outbox.folder.iterdir()) and site.outbox.messages() == []


def test_a_trigger_without_its_section() -> None:
    assert make_trigger({}) is None and make_trigger({"trigger": "none"}) is None
    assert make_trigger({"trigger": "local", "push": "r/x"}) == LocalTrigger(push="r/x")


@pytest.mark.parametrize(("kind", "section"), [("webhook", {"url": "http://h/x"}), ("command", {"argv": ["make"]})])
def test_a_trigger_that_is_named_needs_its_section(kind: str, section: dict[str, Any]) -> None:
    made = make_trigger({"trigger": kind, kind: section})
    assert made is not None and made.kind == kind
    with pytest.raises(ConfigurationError, match=f"trigger is {kind}, but there is no section {kind}") as caught:
        make_trigger({"trigger": kind})
    assert caught.value.hint == f"add the section {kind} to kbuild.yml"
