"""The last act of training: what the project's trigger says is started or told, and training does not fail for it."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kbuild.errors import KbuildError
from kbuild.process import run, start
from kbuild.project.config import ProjectConfig, find_project
from kbuild.project.model_settings import default_tracking_uri
from kbuild.trigger.background import ENDED, ask_mlflow
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.fire import Site, fire
from kbuild.urls.credentials import without_credentials

if TYPE_CHECKING:
    from kbuild.recording.record import RecordedModel
    from kbuild.recording.run.git import GitState

_VARIABLE = "MLFLOW_TRACKING_URI"


def follow(
    config: ProjectConfig, recorded: RecordedModel, *, tracking_uri: str, project: str, git: GitState | None
) -> str:
    """Fire the project's trigger for a model that was logged; returns the line for the user: without one, what to type.

    Never raises: the model is logged, and what follows can be done again.
    """
    if config.trigger is None:
        return _next(config, recorded.run_id, tracking_uri)
    kind = config.trigger.kind
    try:
        event = TrainingEvent(
            run_id=recorded.run_id,
            model_id=recorded.model_id,
            model_uri=recorded.model_uri,
            model_name=recorded.name,
            tracking_uri=tracking_uri,
            project=project,
            env=config.env,
            git_commit=None if git is None else git.commit,
            git_dirty=None if git is None else git.dirty,
        )
        ended = ask_mlflow(recorded.run_id, tracking_uri) in ENDED
        return f"Trigger {kind}: {fire(config.trigger, event, make_site(config, tracking_uri), ended=ended)}"
    except KbuildError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return f"Trigger {kind}: {error.message}{hint}. The model is logged all the same."
    except Exception as error:  # noqa: BLE001 - see above: told, but no reason to fail a training that went well
        return f"Trigger {kind}: {type(error).__name__}: {error}. The model is logged all the same."


def _next(config: ProjectConfig, run_id: str, tracking_uri: str) -> str:
    """What to type: with the run where a command would find no project (that of a package that was installed), and
    with the store where it would look into another one."""
    root, project = config.root or Path.cwd(), None
    with suppress(KbuildError):
        project = find_project(root)
    command = f"kbuild image {run_id}" if project is None else "kbuild image"
    found = _variable_at_start() or default_tracking_uri(root)
    if _absolute(tracking_uri) == _absolute(found):
        return f"Next: {command} builds its image and checks it"
    uri = shlex.quote(without_credentials(tracking_uri))
    return (
        f"Next: {_VARIABLE}={uri} {command} builds its image and checks it "
        f"(without the variable commands look in {without_credentials(found)})"
    )


def _absolute(uri: str) -> str:
    """A database of this machine by its whole path; what is typed next is typed here."""
    scheme = "sqlite:///"
    return f"{scheme}{Path(uri.removeprefix(scheme)).resolve().as_posix()}" if uri.startswith(scheme) else uri


def _variable_at_start() -> str | None:
    """MLflow's variable as the shell has it: MLflow sets its own process's when somebody names a store there, as
    kedro-mlflow and a project's settings do (``mlflow.set_tracking_uri``)."""
    with suppress(OSError):
        name = f"{_VARIABLE}=".encode()
        lines = Path("/proc/self/environ").read_bytes().split(b"\0")
        return next((os.fsdecode(line.removeprefix(name)) for line in lines if line.startswith(name)), None)
    return os.environ.get(_VARIABLE)


def make_site(config: ProjectConfig, tracking_uri: str) -> Site:
    """Where triggers of this project are fired and its outbox is sent from."""
    return Site(
        project=config.root or Path.cwd(),
        state=config.state,
        tracking_uri=tracking_uri,
        environ=os.environ,
        remotes=config.remotes,
        run=run,
        start=start,
    )
