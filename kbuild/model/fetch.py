"""Fetching: from a ModelReference to a ModelBundle in a local folder, and files written back to the run."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kbuild.errors import AmbiguousModel, KbuildError, ModelNotFound, OutputError, RunWithoutModel, TrackingUnavailable
from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.model.reference import ModelReference

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

_TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
# MLflow's own defaults wait for minutes on a server that is not there; a person is waiting here.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What a tracking server tells of a run."""

    tags: Mapping[str, str]
    parameters: Mapping[str, str]


MODEL_ID = re.compile(r"\bm-[0-9a-f]{32}\b")


class ModelStore(Protocol):
    """Where models come from and where facts about them go back to."""

    def fetch(self, reference: ModelReference, into: Path) -> ModelBundle:
        """Bring the model's files below ``into``."""

    def pin(self, reference: ModelReference) -> ModelReference:
        """The reference with its alias resolved to the version that has it now; one without an alias as it is."""

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        """One file or folder of the run's own artifacts, or None when the run has none of that name."""

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        """Add files to the run's artifacts under ``path``."""

    def read_run(self, run_id: str) -> RunFacts:
        """Tags and parameters of a run."""

    def registered(self) -> list[str]:
        """``models:/NAME/VERSION`` of the newest version of every registered model and of those with an alias."""

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_id: str | None = None) -> None:
        """Tag the run, and the registered versions of its models, of ``model_id`` alone where one is named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowStore:
    """The ``ModelStore`` of an MLflow tracking server or database, by its uri."""

    tracking_uri: str
    registry_uri: str | None = None

    def fetch(self, reference: ModelReference, into: Path) -> ModelBundle:
        """Bring the model's files below ``into`` (a local model folder is read where it lies).

        Raises ModelNotFound, RunWithoutModel, AmbiguousModel, TrackingUnavailable or InvalidModel.
        """
        if reference.path is not None:
            return read_bundle(reference.path)
        with self._speaking(str(reference)):
            client = self._client()
            uri = _resolve(client, reference)
            return read_bundle(self._download(uri, into))

    def pin(self, reference: ModelReference) -> ModelReference:
        """See ModelStore. Raises ModelNotFound or TrackingUnavailable."""
        if reference.alias is None:
            return reference
        with self._speaking(str(reference)):
            found = self._client().get_model_version_by_alias(str(reference.name), reference.alias)
            return reference.at(str(found.version))

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        """See ModelStore."""
        with self._speaking(run_id):
            client = self._client()
            parent = path.rpartition("/")[0] or None
            if path not in {item.path for item in client.list_artifacts(run_id, parent)}:
                return None
            return Path(client.download_artifacts(run_id, path, _made(into)))

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        """See ModelStore."""
        with self._speaking(run_id):
            client = self._client()
            for file in files:
                client.log_artifact(run_id, str(file), path)

    def ping(self) -> None:
        """Ask the store anything; raises TrackingUnavailable, or ModelNotFound where no database is yet."""
        with self._speaking("the experiments"):
            self._client().search_experiments(max_results=1)

    def read_run(self, run_id: str) -> RunFacts:
        """See ModelStore. Raises ModelNotFound where the store has no such run, or TrackingUnavailable."""
        with self._speaking(run_id):
            data = self._client().get_run(run_id).data
            return RunFacts(tags=dict(data.tags), parameters=dict(data.params))

    def registered(self) -> list[str]:
        """See ModelStore. Raises TrackingUnavailable."""
        with self._speaking("the registered models"):
            client = self._client()
            found: list[str] = []
            token = None
            while True:
                page = client.search_registered_models(max_results=100, page_token=token)
                for model in page:
                    # A search tells the aliases, but of the versions not reliably the newest.
                    versions = client.search_model_versions(f"name = '{model.name}'")
                    newest = {str(max(int(each.version) for each in versions))} if versions else set()
                    chosen = newest | {str(version) for version in (model.aliases or {}).values()}
                    found += [f"models:/{model.name}/{version}" for version in sorted(chosen, key=int)]
                token = page.token
                if not token:
                    return found

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_id: str | None = None) -> None:
        """See ModelStore. Raises ModelNotFound where the store has no such run, or TrackingUnavailable."""
        with self._speaking(run_id):
            client = self._client()
            for name, value in tags.items():
                client.set_tag(run_id, name, value)
            for version in client.search_model_versions(f"run_id = '{run_id}'"):
                # The open-source registry keeps no model id, but the model's own uri or folder, which has it.
                # A version that MLflow 2 registered has none there: a run had one model of a name then.
                found = MODEL_ID.search(str(version.source))
                if model_id is None or found is None or found[0] == model_id:
                    for name, value in tags.items():
                        client.set_model_version_tag(version.name, version.version, name, value)

    def _download(self, uri: str, into: Path) -> Path:
        import mlflow.artifacts

        return Path(
            mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=_made(into), tracking_uri=self.tracking_uri)
        )

    def _client(self) -> MlflowClient:
        _require_database(self.tracking_uri)
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        if self.registry_uri is not None:
            mlflow.set_registry_uri(self.registry_uri)
        return mlflow.MlflowClient(self.tracking_uri, self.registry_uri)

    @contextmanager
    def _speaking(self, what: str) -> Iterator[None]:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        import requests
        from mlflow.exceptions import MlflowException

        try:
            with _SETTINGS:
                yield
        except MlflowException as error:
            raise _translated(error, what, self.tracking_uri) from error
        except requests.RequestException as error:
            raise _unavailable(self.tracking_uri, error) from error
        except OSError as error:
            raise OutputError(f"the model's files cannot be stored: {error.strerror or error}") from error


class _KeptSettings:
    """Leave the process's tracking uri as it was: downloads of models:/ uris ask it, whatever client is at hand.

    MLflow keeps it in a variable of its own and writes it into the environment, and tells the two apart nowhere.
    Several threads may speak at once, with one store: the last to end puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._speakers = 0
        self._variable: str | None = None
        self._setting: Any = None

    def __enter__(self) -> None:
        from mlflow.tracking._tracking_service import utils

        with self._lock:
            if self._speakers == 0:
                self._variable, self._setting = os.environ.get(_TRACKING_VARIABLE), utils._tracking_uri
            self._speakers += 1

    def __exit__(self, *error: object) -> None:
        import mlflow

        with self._lock:
            self._speakers -= 1
            if self._speakers == 0:
                mlflow.set_tracking_uri(self._setting)
                if self._variable is not None:
                    os.environ[_TRACKING_VARIABLE] = self._variable


_SETTINGS = _KeptSettings()


def _resolve(client: MlflowClient, reference: ModelReference) -> str:
    match reference:
        case ModelReference(model_id=str(model_id)):
            return f"models:/{client.get_logged_model(model_id).model_id}"
        case ModelReference(name=str(name), alias=str(alias)):
            return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
        case ModelReference(name=str(name), version=str(version)):
            return f"models:/{name}/{client.get_model_version(name, version).version}"
        case ModelReference(run_id=str(run_id), name=name):
            return _resolve_run(client, run_id, name)
    raise ModelNotFound(f"{reference} is not kept by a tracking server")


def _resolve_run(client: MlflowClient, run_id: str, name: str | None) -> str:
    run = client.get_run(run_id)
    ids = [output.model_id for output in (run.outputs.model_outputs if run.outputs else ())]
    logged = [model for model_id in dict.fromkeys(ids) for model in _find_logged(client, model_id)]
    ready = [model for model in logged if str(model.status) == "READY"]
    chosen = [model for model in ready if name in (None, model.name)]
    if len(chosen) == 1:
        return f"models:/{chosen[0].model_id}"
    if chosen:
        chosen.sort(key=lambda model: (str(model.name), str(model.model_id)))  # MLflow has no order of its own
        names = ", ".join(f"models:/{model.model_id} ({model.name})" for model in chosen)
        raise AmbiguousModel(f"run {run_id} logged {len(chosen)} models: {names}", hint="name one of them")
    # MLflow 2 kept models among the run's artifacts, without a LoggedModel.
    paths = [path for path in _artifact_models(client, run_id) if name in (None, path)]
    if len(paths) == 1:
        return f"runs:/{run_id}/{paths[0]}"
    if paths:
        names = ", ".join(f"runs:/{run_id}/{path}" for path in paths)
        raise AmbiguousModel(f"run {run_id} logged {len(paths)} models: {names}", hint="name one of them")
    if name is not None and ready:
        known = ", ".join(str(model.name) for model in ready)
        raise ModelNotFound(f"run {run_id} has no model {name!r}, only {known}")
    unfinished = [model.name for model in logged if str(model.status) != "READY"]
    detail = f" (its model {unfinished[0]!r} was never finished)" if unfinished else ""
    raise RunWithoutModel(
        f"run {run_id} logged no model{detail}",
        hint="register a PipelineML in pipeline_registry.py and run the pipeline again; kbuild's hook logs it",
    )


def _find_logged(client: MlflowClient, model_id: str) -> list[LoggedModel]:
    """The model, or nothing: a run goes on naming a model that was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return [client.get_logged_model(model_id)]
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []


def _artifact_models(client: MlflowClient, run_id: str) -> list[str]:
    found = []
    for item in client.list_artifacts(run_id):
        if item.is_dir and any(
            inner.path == f"{item.path}/MLmodel" for inner in client.list_artifacts(run_id, item.path)
        ):
            found.append(item.path)
    return found


def _require_database(uri: str) -> None:
    """Refuse a sqlite uri without a file: MLflow would silently make an empty database there."""
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not path.is_file():
        raise ModelNotFound(
            f"there is no MLflow database at {path}",
            hint="run kbuild in the Kedro project's folder, or set MLFLOW_TRACKING_URI",
        )


def _translated(error: Any, what: str, uri: str) -> KbuildError:
    code = getattr(error, "error_code", "")
    text = _without_credentials(" ".join(str(error.message if hasattr(error, "message") else error).split()))
    uri = _without_credentials(uri)
    if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
        return ModelNotFound(f"{what}: {text}", hint=f"asked {uri}; MLFLOW_TRACKING_URI chooses another server")
    if code == "INVALID_PARAMETER_VALUE":
        return ModelNotFound(f"{what}: {text}", hint=f"asked {uri}")
    return _unavailable(uri, text)


def _unavailable(uri: str, why: object) -> TrackingUnavailable:
    text = _without_credentials(" ".join(str(why).split()))
    uri = _without_credentials(uri)
    return TrackingUnavailable(
        f"the MLflow tracking server {uri} does not answer as one: {text[:300]}",
        hint="check MLFLOW_TRACKING_URI and that the server runs",
    )


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


def _made(folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return str(folder)
