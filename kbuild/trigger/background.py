"""Background jobs: steps that a process of its own takes once the MLflow run has ended, with a log that is kept."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kbuild.errors import KbuildError, TriggerFailed
from kbuild.process import Runner, Starter, last_line
from kbuild.trigger.outbox import write_whole
from kbuild.trigger.trigger_settings import LocalTrigger

KBUILD = (sys.executable, "-P", "-m", "kbuild")
"""``kbuild`` with this interpreter, whatever is on the PATH and in the working directory."""
_IMAGE = "{image}"
ENDED = ("FINISHED", "FAILED", "KILLED")
"""The states of an MLflow run that are final."""
# How long a run that somebody else keeps open is waited for, and how often it is asked, in seconds.
_PATIENCE, _INTERVAL = 3600.0, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStep:
    """One program; ``{image}`` in ``argv`` becomes what the step called image printed last."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackgroundJob:
    """What is to be done after ``run_id`` in the folder ``cwd``; kept as a file beside its log."""

    run_id: str
    cwd: str
    steps: tuple[JobStep, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedJob:
    """A job under way."""

    pid: int
    log: Path


def start_job(job: BackgroundJob, folder: Path, *, name: str, environ: Mapping[str, str], start: Starter) -> StartedJob:
    """Write the job to ``folder`` and start the process that does it. Raises OutputError.

    It leads a session of its own, so it outlives training, its terminal and Ctrl-C.
    """
    path = folder / f"{name}.json"
    log = path.with_suffix(".log")
    write_whole(path, json.dumps(asdict(job), indent=1).encode())
    process = start([sys.executable, "-P", "-m", "kbuild.trigger", str(path)], env=environ, log=log)
    return StartedJob(pid=process.pid, log=log)


def read_job(path: Path) -> BackgroundJob:
    """Read what ``start_job`` wrote; raises TriggerFailed."""
    try:
        value = json.loads(path.read_bytes())
        steps = tuple(JobStep(name=step["name"], argv=tuple(step["argv"])) for step in value["steps"])
        return BackgroundJob(run_id=value["run_id"], cwd=value["cwd"], steps=steps)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TriggerFailed(f"{path} is not a job of kbuild: {error}") from error


def run_job(
    job: BackgroundJob,
    *,
    run: Runner,
    say: Callable[[str], None],
    find_status: Callable[[str], str],
    sleep: Callable[[float], None] = time.sleep,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Wait for the run's end and take the steps, saying each line; the first that fails ends it (TriggerFailed)."""
    status = _wait(job.run_id, find_status, sleep)
    if status != "FINISHED":
        raise TriggerFailed(f"run {job.run_id} is {status}: nothing is built from it")
    image = ""
    for step in job.steps:
        argv = [word.replace(_IMAGE, image) for word in step.argv]
        say(f"{step.name}: {shlex.join(argv)}")
        begin = time.monotonic()
        done = run(argv, env=environ, cwd=Path(job.cwd), on_line=say)
        for line in done.stdout.splitlines():
            say(line)
        if done.returncode != 0:
            raise TriggerFailed(f"{step.name} failed with exit code {done.returncode}")
        say(f"{step.name}: done in {time.monotonic() - begin:.1f} s")
        if step.name == "image":
            image = last_line(done.stdout)


def _wait(run_id: str, find_status: Callable[[str], str], sleep: Callable[[float], None]) -> str:
    waited = 0.0
    while (status := find_status(run_id)) not in ENDED:
        if waited >= _PATIENCE:
            raise TriggerFailed(f"run {run_id} is still {status} after {_PATIENCE / 60:.0f} minutes")
        sleep(_INTERVAL)
        waited += _INTERVAL
    return status


def ask_mlflow(run_id: str, tracking_uri: str | None = None) -> str:
    """The status of a run, at the tracking uri of the environment by default. Raises TriggerFailed."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.MlflowClient(tracking_uri).get_run(run_id).info.status)
    except MlflowException as error:
        raise TriggerFailed(f"the MLflow tracking server does not tell of run {run_id}: {error.message}") from error


def make_local_steps(model_uri: str, trigger: LocalTrigger, *, lockfile: Path, env: str | None) -> list[JobStep]:
    """Lock, image, verify, audit, push: what is wrong is found before anybody can pull it."""
    chosen = () if env is None else ("--env", env)

    def make(name: str, *argv: str) -> JobStep:
        return JobStep(name=name, argv=(*KBUILD, *argv, *chosen))

    steps = [
        make("lock", "lock", model_uri, "--output", str(lockfile)),
        make("image", "image", model_uri, "--no-verify"),
    ]
    if trigger.verify:
        steps.append(make("verify", "verify", _IMAGE))
    if trigger.audit:
        steps.append(make("audit", "audit", model_uri, "--image", _IMAGE))
    if trigger.push is not None:
        again = () if trigger.verify else ("--no-verify",)
        steps.append(make("push", "image", model_uri, "--push", trigger.push, *again))
    return steps


def main(argv: Sequence[str], *, run: Runner) -> int:
    """The background process: ``argv`` is the job's file, its streams are the log. Returns the exit code."""

    def say(line: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}", flush=True)

    try:
        job = read_job(Path(argv[0]))
        say(f"job of run {job.run_id}, process {os.getpid()}")
        run_job(job, run=run, say=say, find_status=ask_mlflow)
    except KbuildError as error:
        say(f"error: {error.message}")
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the log is the only place where anybody will see it
        say(f"error: {type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    say("finished")
    return 0
