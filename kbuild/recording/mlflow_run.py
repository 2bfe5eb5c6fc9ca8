"""The MLflow run of a training run: found or started, tagged, and ended."""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import TrackingRefused, TrackingUnavailable
from kbuild.process.variables import change_defaults, default_variables
from kbuild.project.model_settings import default_artifact_uri, default_tracking_uri
from kbuild.project.tracking_settings import TrackingSettings
from kbuild.recording.run.git import NAMES as GIT_TAGS
from kbuild.recording.run.git import GitState, git_tags
from kbuild.recording.run.named import check_experiment, find_place
from kbuild.tracking.preflight import check_server, find_refusal, make_refusal, one_line
from kbuild.urls.credentials import without_credentials
from kbuild.urls.secret_names import hide_secrets

# Of what Kedro says about a run; project_path is left out, since tags are read on other machines.
_RUN_PARAMS = (
    "run_id",
    "session_id",
    "env",
    "kedro_version",
    "pipeline_names",
    "pipeline_name",
    "tags",
    "from_nodes",
    "to_nodes",
    "node_names",
    "from_inputs",
    "to_outputs",
    "namespaces",
    "load_versions",
    "runtime_params",
    "runner",
    "only_missing_outputs",
)
# About a minute: a server that is busy or restarts is waited for, one that is gone not for longer.
_RETRIES = 5
# MLflow's client reads it for each request anew.
_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_NOISY_LOGGERS = ("mlflow", "alembic")
_OBJECT = re.compile(r"<([\w.]+) object at 0x[0-9a-fA-F]+>")
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,199}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRun:
    """The MLflow run of a training; ``own`` when it was started here and is to be ended here.

    ``default_store`` when the tracking uri was set here, and is to be unset again.
    """

    run_id: str
    own: bool
    default_store: bool


def read_licence(project_path: Path) -> str | None:
    """The SPDX expression that the project's pyproject.toml states (PEP 639), None where it states none."""
    try:
        project = tomllib.loads((project_path / "pyproject.toml").read_text("utf-8")).get("project")
    except (OSError, ValueError):
        return None  # a project without one; one that is broken is told by who needs it
    licence = project.get("license") if isinstance(project, dict) else None
    return licence if isinstance(licence, str) and _SPDX.fullmatch(licence) else None


def start_training_run(
    project_path: Path,
    experiment_name: str,
    tags: Mapping[str, str],
    settings: TrackingSettings | None = None,
    *,
    logs_models: bool = True,
) -> TrainingRun:
    """Use the active run, or start one; MLflow's own variables decide where, else the project's default store.

    ``experiment_name`` is that of a project which names none. Raises TrackingUnavailable when the tracking server does
    not answer or keeps no models, TrackingRefused when credentials or permissions are missing: both in seconds, before
    anything is trained.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    settings = settings or TrackingSettings()
    default_store = not mlflow.tracking.is_tracking_uri_set()
    if default_store:
        mlflow.set_tracking_uri(default_tracking_uri(project_path))
    try:
        with quiet_mlflow():
            check_server(mlflow.get_tracking_uri(), logs_models=logs_models)
            active = mlflow.active_run()
            if active is not None and not settings.nested:
                client = mlflow.MlflowClient()
                for name, value in tags.items():
                    client.set_tag(active.info.run_id, name, value)
                return TrainingRun(run_id=active.info.run_id, own=False, default_store=default_store)
            run = _start(project_path, experiment_name, tags, settings, default_store)
            _take_back_foreign(run, tags)
    except (TrackingUnavailable, TrackingRefused):
        if default_store:
            mlflow.set_tracking_uri(None)
        raise
    except (MlflowException, OSError) as error:
        if default_store:
            mlflow.set_tracking_uri(None)
        refused = find_refusal(error)
        if refused is not None:
            raise make_refusal(mlflow.get_tracking_uri(), refused) from error
        message = getattr(error, "message", None) or str(error)
        raise TrackingUnavailable(
            f"no MLflow run could be started: {' '.join(message.split())}",
            hint="see that MLFLOW_TRACKING_URI names a server that answers, or unset it to use the project's own store",
        ) from error
    return TrainingRun(run_id=run.info.run_id, own=True, default_store=default_store)


def _start(
    project_path: Path, name: str, tags: Mapping[str, str], settings: TrackingSettings, default_store: bool
) -> Any:
    import mlflow

    if settings.disable_autologging:
        mlflow.autolog(disable=True)
    given: dict[str, Any] = {"tags": dict(tags), "nested": settings.nested, "run_name": settings.run_name}
    if settings.run_id is not None and not os.environ.get("MLFLOW_RUN_ID"):
        return mlflow.start_run(**given, run_id=settings.run_id)
    if not any(os.environ.get(f"MLFLOW_{name}") for name in ("RUN_ID", "EXPERIMENT_ID", "EXPERIMENT_NAME")):
        experiment_id = _ensure_experiment(project_path, settings.experiment or name, default_store, settings)
        return mlflow.start_run(**given, experiment_id=experiment_id)
    find_place(mlflow.MlflowClient(), settings, name)
    return mlflow.start_run(**given)


def _take_back_foreign(run: Any, tags: Mapping[str, str]) -> None:
    """MLflow tags a run with the commit of the repository that its program lies in, a virtual environment's say."""
    import mlflow

    for name in GIT_TAGS:
        if name in run.data.tags and name not in tags:
            mlflow.MlflowClient().delete_tag(run.info.run_id, name)


def _ensure_experiment(project_path: Path, name: str, default_store: bool, settings: TrackingSettings) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    found = client.get_experiment_by_name(name)
    if found is None:
        place = settings.artifact_location or (default_artifact_uri(project_path) if default_store else None)
        try:
            return str(client.create_experiment(name, place, dict(settings.experiment_tags) or None))
        except MlflowException as error:
            # Another training, begun at the same moment, may have made it.
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or (found := client.get_experiment_by_name(name)) is None:
                raise
    if found.lifecycle_stage == "deleted" and settings.restore_if_deleted:
        client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    check_experiment(found)
    return str(found.experiment_id)


def end_training_run(run: TrainingRun, status: str) -> str | None:
    """End a run that was started here with FINISHED, FAILED or KILLED; another's run is left open.

    Returns None, or why the run could not be marked: its server may be gone, which is no reason to hide another error.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    active = mlflow.active_run()
    try:
        # A run that failed may have failed because the server is gone: minutes of asking would be for nothing.
        with quiet_mlflow(), patience(_RETRIES if status == "FINISHED" else 1):
            if run.own and active is not None and active.info.run_id == run.run_id:
                mlflow.end_run(status)
            elif run.own:
                # A node ended the run itself, or started one of its own in between.
                mlflow.MlflowClient().set_terminated(run.run_id, status)
    except (MlflowException, OSError) as error:
        return f"run {run.run_id} could not be marked {status}: {one_line(error)}"
    finally:
        if run.default_store:
            mlflow.set_tracking_uri(None)
    return None


def patience(retries: int = _RETRIES) -> AbstractContextManager[None]:
    """How often MLflow asks again, in pauses that double from two seconds; a variable of the user's counts more.

    ``Retry-After`` is not heeded, for MLflow waits as long as it says, an hour too, and asks for its sake again where
    asking is no use: a store whose quota is used up may send it with a 413.
    """
    return default_variables({_VARIABLE: str(retries), "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false"})


def lose_patience() -> None:
    """Within a block of ``patience``: the server was waited for in vain, and is not for as long once more."""
    change_defaults({_VARIABLE: "1"})


def make_tags(
    run_params: Mapping[str, Any], git: GitState | None, source: str, settings: TrackingSettings | None = None
) -> dict[str, str]:
    """Tags of a run: Kedro's run parameters that say something, and the commit, as far as ``settings`` has them.

    Secrets among the parameters are blanked out.
    """
    settings = settings or TrackingSettings()
    tags = {
        f"kedro.{name}": _to_text(value)
        for name in _RUN_PARAMS
        if settings.log_arguments and (value := run_params.get(name)) not in (None, "", [], (), {}, False)
    }
    if "kedro.runner" in tags:
        tags["kedro.runner"] = _name_runner(tags["kedro.runner"])
    # MLflow would name the kedro program's own path, and the commit of whatever repository that is in.
    tags["mlflow.source.name"] = source
    return tags | (git_tags(git) if settings.log_commit else {})


def _name_runner(text: str) -> str:
    """The class of a runner, which Kedro tells as an object at an address; its own ones without their module."""
    if text == "None":
        return "SequentialRunner"  # what Kedro takes where none is named
    found = _OBJECT.fullmatch(text)
    if found is None:
        return text
    return found[1].rpartition(".")[2] if found[1].startswith("kedro.runner.") else found[1]


def _to_text(value: Any) -> str:
    return without_credentials(
        value if isinstance(value, str) else json.dumps(hide_secrets("", value), default=_to_json)
    )


def _to_json(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """MLflow without its migration log, progress bars and hints; warnings and errors stay."""
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with default_variables({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
