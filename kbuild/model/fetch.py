"""Fetching: from a ModelReference to a ModelBundle in a local folder, and files written back to the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kbuild.cache.room import room_for
from kbuild.errors import KbuildError, ModelNotFound, OutputError
from kbuild.model.bundle import ModelBundle, read_bundle
from kbuild.model.cloud import stored_size
from kbuild.model.find import best_child, find_fleet, find_registered, resolve, versions_of
from kbuild.model.model_reference import ModelReference
from kbuild.model.shorthand import Choice, choose, suggesting
from kbuild.model.sweep import Best
from kbuild.process.variables import default_variables
from kbuild.tracking.kept_uris import KEPT_URIS
from kbuild.tracking.mlflow_client import list_files, version_with_alias, write_told
from kbuild.tracking.preflight import ALLOW_FOLDER, check_server, make_error, reach_server, without_userinfo

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from kbuild.model.find import RegisteredVersion

# About a minute, as kbuild's own questions: a server that is not there at all is told of before MLflow's client asks.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # it would be waited for whatever it says, a day too
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """What a tracking server tells of a run; of each metric the last value."""

    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)


class ModelStore(Protocol):
    """Where models come from and where facts about them go back to."""

    def fetch(self, reference: ModelReference, into: Path, *, kept: bool = False) -> ModelBundle:
        """Bring the model's files below ``into``.

        With ``kept``, the files of a logged model may be those that this machine got of it before, checked by digest.
        """

    def pin(self, reference: ModelReference) -> ModelReference:
        """The reference with its alias resolved to the version that has it now; one without an alias as it is."""

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        """One file or folder of the run's own artifacts, or None when the run has none of that name."""

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        """Add files to the run's artifacts under ``path``."""

    def read_run(self, run_id: str) -> RunFacts:
        """Tags, parameters and metrics of a run."""

    def best_child(self, reference: ModelReference, metric: str, *, lowest: bool = False) -> Best:
        """The child run of a run with the best value of a metric, of those that have models."""

    def choose(self, text: str, *, project: str | None) -> Choice:
        """The model that a shorthand stands for; see ``shorthand.choose``."""

    def registered(self) -> list[str]:
        """``models:/NAME/VERSION`` of the newest version of every registered model and of those with an alias.

        ``models:/NAME@latest`` of one whose versions cannot be read.
        """

    def fleet(self) -> list[RegisteredVersion]:
        """The same versions with what the registry tells of them."""

    def versions(self, run_id: str, model_uri: str) -> list[str]:
        """The registered versions whose source is this model of the run, through copies, as NAME/VERSION."""

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_uri: str | None = None) -> tuple[str, ...]:
        """Tag the run, and the registered versions whose source is the model of this uri, through copies; else none.

        Returns these versions, as NAME/VERSION. A deleted run cannot be tagged: there its model's versions are, where
        there are any.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class MlflowStore:
    """The ``ModelStore`` of an MLflow tracking server or database, by its uri; ``reached`` when it has answered."""

    tracking_uri: str
    registry_uri: str | None = None
    reached: bool = False

    def fetch(self, reference: ModelReference, into: Path, *, kept: bool = False) -> ModelBundle:
        """Bring the model's files below ``into`` (a local model folder is read where it lies); nothing is kept here.

        Raises ModelNotFound, RunWithoutModel, AmbiguousModel, TrackingUnavailable or InvalidModel.
        """
        if reference.path is not None:
            return read_bundle(reference.path)
        with self.speaking(str(reference)):
            client = self.client()
            with suggesting(client, reference):
                uri = resolve(client, reference)
            return read_bundle(self._download(uri, into))

    def pin(self, reference: ModelReference) -> ModelReference:
        """See ModelStore. Raises ModelNotFound or TrackingUnavailable."""
        if reference.alias is None:
            return reference
        with self.speaking(str(reference)):
            client = self.client()
            with suggesting(client, reference):
                return reference.at(version_with_alias(client, str(reference.name), reference.alias))

    def download(self, run_id: str, path: str, into: Path) -> Path | None:
        """See ModelStore."""
        with self.speaking(run_id):
            client = self.client()
            parent = path.rpartition("/")[0] or None
            sizes = {item.path: item.file_size or 0 for item in list_files(client.get_run(run_id), parent)}
            if path not in sizes:
                return None
            with room_for(into, sizes[path]):
                shutil.rmtree(into, ignore_errors=True)
                into.mkdir(parents=True)
                return Path(client.download_artifacts(run_id, path, str(into)))

    def upload(self, run_id: str, files: list[Path], path: str) -> None:
        """See ModelStore."""
        with self.speaking(run_id):
            client = self.client()
            for file in files:
                client.log_artifact(run_id, str(file), path)

    def ping(self) -> None:
        """Ask the store anything.

        Raises TrackingUnavailable, TrackingRefused, or ModelNotFound where no database is yet.
        """
        check_server(self.tracking_uri)
        with replace(self, reached=True).speaking("the experiments"):
            self.client().search_experiments(max_results=1)

    def read_run(self, run_id: str) -> RunFacts:
        """See ModelStore. Raises ModelNotFound where the store has no such run, or TrackingUnavailable."""
        with self.speaking(run_id):
            data = self.client().get_run(run_id).data
            return RunFacts(tags=dict(data.tags), parameters=dict(data.params), metrics=dict(data.metrics))

    def best_child(self, reference: ModelReference, metric: str, *, lowest: bool = False) -> Best:
        """See ModelStore. Raises RunWithoutModel, ModelNotFound or TrackingUnavailable."""
        with self.speaking(str(reference)):
            return best_child(self.client(), reference, metric, lowest=lowest)

    def choose(self, text: str, *, project: str | None) -> Choice:
        """See ModelStore. Raises ModelNotFound, RunWithoutModel, AmbiguousModel or TrackingUnavailable."""
        with self.speaking(text):
            return choose(self.client(), text, project=project)

    def registered(self) -> list[str]:
        """See ModelStore. Raises TrackingUnavailable."""
        with self.speaking("the registered models"):
            return [str(each) for each in find_registered(self.client())]

    def fleet(self) -> list[RegisteredVersion]:
        """See ModelStore. Raises TrackingUnavailable."""
        with self.speaking("the registered models"):
            return list(find_fleet(self.client()))

    def versions(self, run_id: str, model_uri: str) -> list[str]:
        """See ModelStore."""
        with self.speaking(run_id):
            return [f"{each.name}/{each.version}" for each in versions_of(self.client(), run_id, model_uri)]

    def set_tags(self, run_id: str, tags: Mapping[str, str], *, model_uri: str | None = None) -> tuple[str, ...]:
        """See ModelStore. Raises ModelNotFound where the store has no such run, or TrackingUnavailable."""
        with self.speaking(run_id):
            client = self.client()
            versions = [] if model_uri is None else versions_of(client, run_id, model_uri)
            write_told(client, run_id, tags, versions, model_uri)
            return tuple(f"{version.name}/{version.version}" for version in versions)

    def _download(self, uri: str, into: Path) -> Path:
        import mlflow.artifacts
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with room_for(into) as room:
            if room.limited:
                room.add(stored_size(get_artifact_repository(uri)))
            shutil.rmtree(into, ignore_errors=True)
            into.mkdir(parents=True)
            return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(into), tracking_uri=self.tracking_uri))

    def client(self) -> MlflowClient:
        """MLflow's client; for use while ``speaking``."""
        import mlflow

        mlflow.set_tracking_uri(self.tracking_uri)
        if self.registry_uri is not None:
            mlflow.set_registry_uri(self.registry_uri)
        return mlflow.MlflowClient(self.tracking_uri, self.registry_uri)

    @contextmanager
    def speaking(self, what: str) -> Iterator[None]:
        """In the block MLflow may be asked about ``what``; its errors become kbuild's."""
        _require_database(self.tracking_uri)  # before MLflow, which takes seconds to import
        import requests
        from mlflow.exceptions import MlflowException

        from kbuild.tracking.bounded_client import bound_answers

        bound_answers()
        if not self.reached:
            reach_server(self.tracking_uri)
        try:
            with default_variables(_PATIENCE), KEPT_URIS:
                yield
        except MlflowException as error:
            raise _translated(error, what, self.tracking_uri) from error
        except requests.RequestException as error:
            raise make_error(self.tracking_uri, error) from error
        except OSError as error:
            raise OutputError(f"the model's files cannot be stored: {error.strerror or error}") from error


def _require_database(uri: str) -> None:
    """Refuse a sqlite uri without a file: MLflow would silently make an empty database there."""
    if not uri.startswith("sqlite:///"):
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not path.is_file():
        raise ModelNotFound(
            f"nothing was logged yet: there is no MLflow database at {path}",
            hint="kedro run logs a model where pipeline_registry.py binds one (kedro kbuild check looks); "
            "MLFLOW_TRACKING_URI names a server, or the store of another folder",
        )


def _translated(error: Any, what: str, uri: str) -> KbuildError:
    code = getattr(error, "error_code", "")
    text = without_userinfo(" ".join(str(error.message if hasattr(error, "message") else error).split()))
    shown = without_userinfo(uri)
    if code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
        return ModelNotFound(f"{what}: {text}", hint=f"asked {shown}; MLFLOW_TRACKING_URI chooses another server")
    if code == "INVALID_PARAMETER_VALUE" and ALLOW_FOLDER not in text:
        return ModelNotFound(f"{what}: {text}", hint=f"asked {shown}")
    return make_error(uri, error)
