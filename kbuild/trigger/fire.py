"""What the end of training does: start or tell what the project's trigger says, and never fail training for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.errors import DeliveryFailed, KbuildError, TriggerFailed
from kbuild.process import Runner, Starter, last_line
from kbuild.trigger.background import KBUILD, BackgroundJob, JobStep, StartedJob, make_local_steps, start_job
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.outbox import Message, Outbox
from kbuild.trigger.send import send
from kbuild.trigger.trigger_settings import CommandTrigger, LocalTrigger, RemoteTrigger, Trigger

_JOBS, _OUTBOX = "jobs", "outbox"


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """Where training ran: the project's folder, kbuild's own folder in it, the environment and how to start things.

    ``remotes`` are all servers the configuration knows, for messages that wait; ``tracking_uri`` is MLflow's own.
    """

    project: Path
    state: Path
    tracking_uri: str
    environ: Mapping[str, str] = field(repr=False)
    remotes: Mapping[str, RemoteTrigger]
    run: Runner
    start: Starter

    @property
    def outbox(self) -> Outbox:
        """What no server has taken yet."""
        return Outbox(self.state / _OUTBOX)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flushed:
    """What became of the messages in the outbox; ``failed`` is (message, why)."""

    delivered: tuple[Message, ...] = ()
    failed: tuple[tuple[Message, KbuildError], ...] = ()
    busy: bool = False


def fire(trigger: Trigger, event: TrainingEvent, site: Site, *, ended: bool) -> str:
    """Start or tell; returns the line for the user. ``ended`` says whether the MLflow run has ended.

    A run still open is waited for by a process in the background, so that what is built from it is final.
    Raises KbuildError for what could not be done; messages to servers are in the outbox then.
    """
    match trigger:
        case LocalTrigger():
            lockfile = site.state.absolute() / _JOBS / f"{event.run_id}.conda-lock.yml"
            steps = make_local_steps(event.model_uri, trigger, lockfile=lockfile, env=event.env)
            started = _background(event, site, steps)
            return f"the image is built in the background: process {started.pid}, log {started.log}"
        case CommandTrigger():
            argv = tuple(map(event.fill, trigger.argv))
            if trigger.wait:
                return _run_command(argv, event, site)
            started = _background(event, site, [JobStep(name="command", argv=argv)])
            return f"{argv[0]} runs in the background: process {started.pid}, log {started.log}"
        case _:
            message = site.outbox.put(trigger.kind, event)
            if not ended:
                chosen = () if event.env is None else ("--env", event.env)
                started = _background(
                    event, site, [JobStep(name="flush", argv=(*KBUILD, "trigger", "--flush", *chosen))]
                )
                return f"{trigger.kind} is told once the run ends: process {started.pid}, log {started.log}"
            return _tell(message, site)


def flush(site: Site, *, on_delivered: Callable[[Message], None] = lambda message: None) -> Flushed:
    """Send what waits in the outbox, the oldest first, each to its server as the configuration has it now.

    A server that failed once is not tried again for its further messages. Raises OutputError and TriggerFailed when
    the outbox itself cannot be read.
    """
    delivered: list[Message] = []
    failed: list[tuple[Message, KbuildError]] = []
    down: dict[str, KbuildError] = {}
    with site.outbox.alone() as alone:
        if not alone:
            return Flushed(busy=True)
        for message in site.outbox.messages():
            error = down.get(message.kind) or _deliver(message, site)
            if error is None:
                site.outbox.remove(message)
                delivered.append(message)
                on_delivered(message)
            else:
                down[message.kind] = error
                failed.append((message, error))
    return Flushed(delivered=tuple(delivered), failed=tuple(failed))


def make_environment(event: TrainingEvent, site: Site) -> dict[str, str]:
    """What a program that follows training gets: this environment and three variables."""
    return {
        **site.environ,
        "KBUILD_RUN_ID": event.run_id,
        "KBUILD_MODEL_URI": event.model_uri,
        "MLFLOW_TRACKING_URI": site.tracking_uri,
    }


def _tell(message: Message, site: Site) -> str:
    flushed = flush(site)
    if flushed.busy:
        return f"another process is sending the outbox {site.outbox.folder}, this message with it"
    for other, error in flushed.failed:
        if other.path == message.path:
            raise DeliveryFailed(f"{message.kind} was not told: {error.message}", hint=error.hint)
    also = len(flushed.delivered) - 1
    return f"{message.kind} was told" + (f", and of {also} earlier runs" if also > 0 else "")


def _deliver(message: Message, site: Site) -> KbuildError | None:
    remote = site.remotes.get(message.kind)
    if remote is None:
        return DeliveryFailed(f"kbuild.yml has no section {message.kind} any more", hint=f"remove {message.path}")
    try:
        send(remote, message.event, environ=site.environ)
    except DeliveryFailed as error:
        return error
    return None


def _background(event: TrainingEvent, site: Site, steps: list[JobStep]) -> StartedJob:
    job = BackgroundJob(run_id=event.run_id, cwd=str(site.project), steps=tuple(steps))
    return start_job(
        job, site.state / _JOBS, name=event.run_id, environ=make_environment(event, site), start=site.start
    )


def _run_command(argv: tuple[str, ...], event: TrainingEvent, site: Site) -> str:
    done = site.run(argv, env=make_environment(event, site), cwd=site.project)
    if done.returncode != 0:
        words = last_line(done.stderr or done.stdout)
        raise TriggerFailed(f"{argv[0]} failed with exit code {done.returncode}: {words}".rstrip(": "))
    return f"{argv[0]} is done"
