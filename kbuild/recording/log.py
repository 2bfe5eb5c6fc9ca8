"""Hand checked model files to MLflow: all of them become a logged model, or nothing does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kbuild.cache.recorded import note_recorded
from kbuild.errors import RecordingError
from kbuild.recording.mlflow_run import lose_patience, patience
from kbuild.recording.run.git import NAMES as GIT_TAGS
from kbuild.recording.run.git import GitState, git_tags
from kbuild.tracking.preflight import one_line
from kbuild.tracking.uploads import uploading_side_by_side

_LOG_KWARGS = ("await_registration_for", "model_type", "params", "prompts", "registered_model_name", "step", "tags")

# requests' words, which MLflow passes on; 413 is of RFC 9110, 507 of RFC 4918.
_NO_ROOM = re.compile(r"\b(413|507) (?:Client|Server) Error")
_ROOM = {
    "413": "the artifact store, or a proxy before the tracking server, takes no file of this size: raise its limit "
    "(nginx: client_max_body_size) or quota, and run the pipeline again",
    "507": "the artifact store has no room left: make some or raise its quota, and run the pipeline again",
}


class _CheckedFiles:
    """What ``Model.log`` takes for a flavor: it moves the checked files where MLflow wants them."""

    def __init__(self, saved: Path, name: str) -> None:
        self._saved = saved
        self._name = name
        self.model_id: str | None = None

    def save_model(self, path: str, mlflow_model: Any, **_: Any) -> None:
        from mlflow.models import Model

        self.model_id = mlflow_model.model_id
        shutil.move(self._saved, path)
        checked = Model.load(path)
        for name in ("flavors", "signature", "saved_input_example_info", "metadata", "model_size_bytes"):
            setattr(mlflow_model, name, getattr(checked, name))
        for name in ("resources", "auth_policy"):
            setattr(mlflow_model, name, getattr(checked, name, None))
        # MLflow puts the artifact store's location here, an absolute path with a local store.
        mlflow_model.artifact_path = self._name
        mlflow_model.save(str(Path(path) / "MLmodel"))
        note_recorded(Path(path))


def log_checked_files(
    saved: Path, log_model_kwargs: Mapping[str, Any], run_id: str, *, source: str, git: GitState | None
) -> str:
    """Log the model folder ``saved``, which is moved away, to a run; returns the model's id.

    Its tags tell the project, ``source``, and its commit: MLflow would name the kedro program's path on this machine,
    and the commit of whatever repository that is in.

    Raises RecordingError when MLflow's store fails; what it had begun to log is deleted then.
    """
    import mlflow
    from mlflow.models import Model
    from mlflow.tracking.context.registry import resolve_tags

    name = log_model_kwargs["name"]
    files = _CheckedFiles(saved, name)
    kwargs = {name: log_model_kwargs[name] for name in _LOG_KWARGS if name in log_model_kwargs}
    tags = {"mlflow.source.name": source, **git_tags(git), **(kwargs.get("tags") or {})}
    foreign = resolve_tags().keys() & set(GIT_TAGS) - tags.keys()
    kwargs["tags"] = tags
    try:
        # The clean process has done what MLflow's own validation would do, and more.
        with patience(), uploading_side_by_side(failed=lose_patience):
            Model.log(None, files, name=name, run_id=run_id, validate_serving_input=False, **kwargs)
            for tag in sorted(foreign):
                mlflow.MlflowClient().delete_logged_model_tag(str(files.model_id), tag)
    except Exception as error:  # a store may raise anything: the model must not stay half-logged
        with patience(1):
            left = _delete(mlflow.MlflowClient(), files.model_id)
        said = one_line(error)
        raise RecordingError(f"the model could not be logged: {said}{left}", hint=_hint(said)) from error
    except BaseException:  # Ctrl-C, or SIGTERM
        with patience(1):
            _delete(mlflow.MlflowClient(), files.model_id)
        raise
    return str(files.model_id)


def _hint(said: str) -> str | None:
    found = _NO_ROOM.search(said)
    return None if found is None else _ROOM[found[1]]


def _delete(client: Any, model_id: str | None) -> str:
    """Delete what MLflow began; returns what to tell when that fails too (MLflow has marked it FAILED by then)."""
    if model_id is None:
        return ""
    try:
        client.delete_logged_model(model_id)
    except Exception as error:  # noqa: BLE001 - told with the first error, which matters more
        return f" (and the failed model {model_id} could not be deleted: {one_line(error)})"
    return ""
