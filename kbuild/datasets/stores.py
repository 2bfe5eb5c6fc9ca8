"""Where a stored model is: the one a run logged, a version of the registry, brought to a folder of this machine.

MLflow's settings are the process's: whoever opens the store holds it alone, other threads wait.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io.core import DatasetError

from kbuild.progress import at_most
from kbuild.project.model_settings import default_tracking_uri
from kbuild.recording.mlflow_run import quiet_mlflow
from kbuild.tracking.mlflow_client import find_logged, find_versions, list_files, version_uri
from kbuild.tracking.preflight import without_userinfo

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient

process_lock = threading.RLock()
_SHOWN = 10  # of the versions and aliases that there are
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_downloads: dict[tuple[str, str], Path] = {}


class ModelMissing(DatasetError):  # type: ignore[misc]
    """There is no such run, version, alias or model; any other failure is a plain DatasetError."""


@contextmanager
def open_store() -> Iterator[MlflowClient]:
    """A client of the store MLflow is set to, else of the project's default store, as the training hook has it.

    Raises DatasetError when there is no such store or it does not answer.
    """
    with process_lock, quiet_mlflow():
        import mlflow
        from mlflow.exceptions import MlflowException

        default = None
        if not mlflow.tracking.is_tracking_uri_set() and get_active_run() is None:
            default = _find_default_store()
            mlflow.set_tracking_uri(default)
        try:
            yield mlflow.MlflowClient()
        except MlflowException as error:
            raise _translate(error, mlflow.get_tracking_uri()) from error
        finally:
            if default is not None:
                mlflow.set_tracking_uri(None)


def get_active_run() -> ActiveRun | None:
    """The active run: of this thread, else the newest of another, since runners save in threads of their own."""
    import mlflow
    from mlflow.tracking.fluent import _active_run_stack

    # Asked first: in a forked process, asking for this thread's run makes MLflow forget the parent's.
    stacks = _active_run_stack.get_all_thread_values()
    alive = {thread.ident for thread in threading.enumerate()}
    others = [run for thread, stack in stacks.items() if thread in alive for run in stack]
    return mlflow.active_run() or max(others, key=lambda run: run.info.start_time, default=None)


@contextmanager
def saving_run(run_id: str | None) -> Iterator[ActiveRun]:
    """The run to save to, made the active one of this thread: the active run, else the given one, which is ended again.

    Raises DatasetError when there is neither, or another run is active than the given one.
    """
    import mlflow
    from mlflow.tracking.fluent import _active_run_stack

    active = get_active_run()
    if active is None and run_id is None:
        raise DatasetError("there is no active MLflow run to save the model to; start one with mlflow.start_run()")
    if active is None:
        with mlflow.start_run(run_id=run_id) as resumed:
            yield resumed
        return
    if run_id not in (None, active.info.run_id):
        raise DatasetError(
            f"the model would be saved to the active run {active.info.run_id}, but the entry names run {run_id}; "
            "remove run_id, or use another entry to load"
        )
    if mlflow.active_run() is not None:
        yield active
        return
    # In a runner's worker. MLflow's own way to make a run active here would end it for all.
    stack = _active_run_stack.get()
    stack.append(active)
    try:
        yield active
    finally:
        stack.remove(active)


def find_run_model(client: MlflowClient, run_id: str, name: str) -> str:
    """The uri of the model that a run logged under that name, the newest of several.

    Raises ModelMissing naming what the run has instead.
    """
    try:
        run = client.get_run(run_id)
    except _mlflow_exception() as error:
        # A run id that cannot be one is an invalid parameter.
        if getattr(error, "error_code", "") not in (*_MISSING, "INVALID_PARAMETER_VALUE"):
            raise
        raise ModelMissing(
            f"there is no run {run_id} in {_get_store_name()}; see run_id and MLFLOW_TRACKING_URI"
        ) from error
    ids = dict.fromkeys(output.model_id for output in (run.outputs.model_outputs if run.outputs else ()))
    logged = [model for model_id in ids for model in find_logged(client, model_id)]
    ready = sorted((model for model in logged if str(model.status) == "READY"), key=lambda m: m.creation_timestamp)
    for model in reversed(ready):
        if model.name == name:
            return f"models:/{model.model_id}"
    # MLflow 2 kept models among the run's artifacts.
    if any(item.path == f"{name}/MLmodel" for item in list_files(run, name)):
        return f"runs:/{run_id}/{name}"
    names = sorted({str(model.name) for model in ready})
    known = f"it has {', '.join(map(repr, names))}; name one of these" if names else "it logged none"
    raise ModelMissing(f"run {run_id} has no model {name!r}: {known}")


def find_registered_model(client: MlflowClient, name: str, version: str | None, alias: str | None) -> str:
    """The uri of a version of a registered model: by number, stage, "latest", or alias.

    Raises ModelMissing naming the versions and aliases that there are.
    """
    versions = find_versions(client, name)
    if not versions:
        raise ModelMissing(f"there is no registered model {name!r} in {_get_store_name()}; see model_name")
    newest_first = sorted(versions, key=lambda each: int(each.version), reverse=True)
    aliases = dict(client.get_registered_model(name).aliases)
    # No alias is spelled like MLflow's stage "None".
    number = aliases.get(alias, "") if alias is not None else str(version)
    for each in newest_first:
        if number == "latest" or str(number).lower() in (str(each.version), str(each.current_stage).lower()):
            return (
                f"models:/{each.model_id}"
                if getattr(each, "model_id", None)
                else version_uri(client, name, str(each.version))
            )
    asked = f"alias {alias!r}" if alias is not None else f"version or stage {version!r}"
    numbers = ", ".join(str(each.version) for each in reversed(newest_first[:_SHOWN]))
    more = len(newest_first) - _SHOWN
    numbers = f"versions {f'{more} older ones, ' if more > 0 else ''}{numbers}"
    names = at_most(sorted(aliases), _SHOWN) or "none"
    raise ModelMissing(f"the registered model {name!r} has no {asked}; it has {numbers}; aliases {names}")


def download(uri: str) -> Path:
    """The model's files in a folder of their own, deleted when the process ends; once for a logged model.

    A copy even of local stores: importing the model's code writes bytecode beside it.
    """
    import mlflow

    key = (mlflow.get_tracking_uri(), uri)
    found = _downloads.get(key)
    if found is not None and found.is_dir():
        return found
    folder = tempfile.mkdtemp(prefix="kbuild-model-")
    # Unlike atexit, this also runs in the processes of a parallel runner.
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=0)
    path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))
    if uri.startswith("models:/m-"):
        _downloads[key] = path
    return path


def _find_default_store() -> str:
    from kedro.utils import find_kedro_project

    project = Path(find_kedro_project(Path.cwd()) or Path.cwd())
    uri = default_tracking_uri(project)
    # MLflow would make an empty one, and say that it has no such run.
    if not Path(uri.removeprefix("sqlite:///")).is_file():
        raise DatasetError(
            f"MLFLOW_TRACKING_URI is not set and {project} has no mlflow.db; set it to the store that has the model"
        )
    return uri


def _mlflow_exception() -> type[Exception]:
    from mlflow.exceptions import MlflowException

    kind: type[Exception] = MlflowException
    return kind


def _get_store_name() -> str:
    import mlflow

    return without_userinfo(mlflow.get_tracking_uri())


def _translate(error: Any, uri: str) -> DatasetError:
    text = without_userinfo(" ".join(str(error.message).split()))
    uri = without_userinfo(uri)
    if error.error_code in _MISSING:
        return ModelMissing(f"{text} (asked {uri})")
    # MLflow says so of every request that fails on its way.
    if text.startswith("API request to"):
        return DatasetError(f"the MLflow server {uri} does not answer as one: {text[:300]}; see MLFLOW_TRACKING_URI")
    return DatasetError(text)
