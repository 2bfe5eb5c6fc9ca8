"""Kedro datasets that are MLflow models: of a run, of this run, of the registry, of a folder.

Catalog files name them by ``kbuild.io.models``. Their arguments are kedro-mlflow's, so that its catalog entries keep
working with another ``type``. With flavor ``mlflow.pyfunc`` loading gives a model with ``predict(data, params=None)``
whichever ``pyfunc_workflow`` it was saved with; the workflow says what saving takes: ``python_model`` a PythonModel,
``loader_module`` the name of a module with ``_load_pyfunc``. Any other flavor loads and saves what it always does.

Without an active run or a tracking uri of MLflow's own, models are looked for in the project's default store.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from kedro.io.core import AbstractDataset, DatasetError

from kbuild.datasets.loading import PYFUNC, check_flavor, copy_arguments, load_folder, log_model, one_line_errors
from kbuild.datasets.stores import (
    ModelMissing,
    download,
    find_registered_model,
    find_run_model,
    get_active_run,
    open_store,
    saving_run,
)
from kbuild.recording.mlflow_run import patience
from kbuild.tracking.preflight import without_userinfo
from kbuild.tracking.registry import is_name

_NAMES = ("name", "artifact_path")
_RETRIES = 2  # of a server that is not there, as long as nothing is transferred yet: a pipeline is waiting


class _StoredModelDataset(AbstractDataset[Any, Any]):  # type: ignore[misc]
    """A model in an MLflow store: subclasses say where it is."""

    def _init(self, flavor: str, pyfunc_workflow: str | None, load_args: dict[str, Any] | None, metadata: Any) -> None:
        check_flavor(flavor, pyfunc_workflow)
        self._flavor = flavor
        self._workflow = pyfunc_workflow
        self._load_args = copy_arguments("load_args", load_args)
        self.metadata = metadata

    @abstractmethod
    def _find_uri(self, client: Any) -> str:
        """Where the model is, in MLflow's form; raises ModelMissing."""

    def load(self) -> Any:
        """The model; raises DatasetError naming what is missing and what to do."""
        with one_line_errors(self, "the model cannot be loaded"), open_store() as client:
            with patience(_RETRIES):
                uri = self._find_uri(client)
            return load_folder(self._flavor, download(uri), self._load_args)

    def save(self, data: Any) -> None:
        raise DatasetError(f"{type(self).__name__} only loads")

    def _exists(self) -> bool:
        try:
            with open_store() as client, patience(_RETRIES):
                self._find_uri(client)
        except ModelMissing:
            return False
        return True


class MlflowModelLoggerDataSet(_StoredModelDataset):
    """A model that a run logs.

    Loads the model of ``run_id``, else of the active run; saves to the active run, else resumes ``run_id``.

    Args:
        flavor: MLflow's flavor, a module such as mlflow.pyfunc or mlflow.sklearn.
        run_id: the MLflow run, 32 hexadecimal characters.
        artifact_path: the model's name in its run.
        pyfunc_workflow: python_model or loader_module, needed with flavor mlflow.pyfunc.
        load_args: arguments of the flavor's ``load_model``.
        save_args: arguments of the flavor's ``log_model``.
        metadata: the user's own, ignored.
    """

    def __init__(
        self,
        flavor: str,
        run_id: str | None = None,
        artifact_path: str = "model",
        pyfunc_workflow: str | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._init(flavor, pyfunc_workflow, load_args, metadata)
        self._save_args = copy_arguments("save_args", save_args)
        if any(name in self._save_args for name in _NAMES):
            raise DatasetError("save_args names the model; its name is the argument artifact_path")
        # YAML reads a run id of digits only as a number.
        self._run_id = None if run_id is None else str(run_id)
        if not isinstance(artifact_path, str) or not artifact_path.strip("/"):
            raise DatasetError(f"artifact_path {artifact_path!r} is not a name of a model")
        self._artifact_path = artifact_path.strip("/")

    def _find_uri(self, client: Any) -> str:
        run_id = self._run_id
        if run_id is None:
            active = get_active_run()
            if active is None:
                raise ModelMissing("the entry has no run_id and no MLflow run is active; add run_id to the entry")
            run_id = active.info.run_id
        return find_run_model(client, run_id, self._artifact_path)

    def save(self, data: Any) -> None:
        """Log the model; raises DatasetError without a run to log to."""
        with one_line_errors(self, "the model cannot be saved"), open_store(), saving_run(self._run_id):
            log_model(self._flavor, self._workflow, data, self._artifact_path, self._save_args)

    def _describe(self) -> dict[str, Any]:
        return {
            "flavor": self._flavor,
            "run_id": self._run_id,
            "artifact_path": self._artifact_path,
            "pyfunc_workflow": self._workflow,
            "load_args": sorted(self._load_args),
            "save_args": sorted(self._save_args),
        }


# As Kedro spells datasets since 2023; the other name is the one that catalogs have.
MlflowModelLoggerDataset = MlflowModelLoggerDataSet


class MlflowModelTrackingDataset(_StoredModelDataset):
    """A model that this run logs, and that later nodes load; or any model, by ``load_args: {model_uri: …}``.

    Args:
        flavor, pyfunc_workflow, metadata: as of MlflowModelLoggerDataSet.
        load_args: arguments of the flavor's ``load_model``; with ``model_uri`` nothing can be saved.
        save_args: arguments of the flavor's ``log_model``; ``name`` is "model" unless given.
    """

    def __init__(
        self,
        flavor: str,
        pyfunc_workflow: str | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._init(flavor, pyfunc_workflow, load_args, metadata)
        self._save_args = copy_arguments("save_args", save_args)
        if all(name in self._save_args for name in _NAMES):
            raise DatasetError("save_args has both name and artifact_path; keep name")
        path = self._save_args.pop("artifact_path", "model")
        self._name = str(self._save_args.pop("name", path))
        self._given_uri = self._load_args.pop("model_uri", None)
        self._saved_uri: str | None = None

    def _find_uri(self, client: Any) -> str:
        uri = self._given_uri or self._saved_uri
        if uri is not None:
            # Nothing to find, but whether anybody answers at all.
            client.search_experiments(max_results=1)
            return str(uri)
        active = get_active_run()
        if active is None:
            raise ModelMissing(
                "no model was saved here and no MLflow run is active; name one: load_args: {model_uri: models:/…}"
            )
        # Saved by another process of this run.
        return find_run_model(client, active.info.run_id, self._name)

    def save(self, data: Any) -> None:
        """Log the model to the active run; raises DatasetError without one."""
        if self._given_uri is not None:
            raise DatasetError(
                "load_args names a model_uri, and a logged model is never written over; use another entry to save"
            )
        with one_line_errors(self, "the model cannot be saved"), open_store(), saving_run(None):
            self._saved_uri = log_model(self._flavor, self._workflow, data, self._name, self._save_args)

    def _exists(self) -> bool:
        if self._given_uri is None:
            return super()._exists()
        with open_store():
            import mlflow
            from mlflow.exceptions import MlflowException

            try:
                return any(
                    item.path.rpartition("/")[2] == "MLmodel"
                    for item in mlflow.artifacts.list_artifacts(artifact_uri=self._given_uri)
                )
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise

    def _describe(self) -> dict[str, Any]:
        uri = self._given_uri or self._saved_uri
        return {
            "flavor": self._flavor,
            "name": self._name,
            "model_uri": None if uri is None else without_userinfo(str(uri)),
            "pyfunc_workflow": self._workflow,
            "load_args": sorted(self._load_args),
            "save_args": sorted(self._save_args),
        }


class MlflowModelRegistryDataset(_StoredModelDataset):
    """A version of a registered model; it only loads.

    Args:
        model_name: the registered model.
        stage_or_version: a version number, a stage, or "latest", the default.
        alias: instead of ``stage_or_version``.
        flavor, pyfunc_workflow, load_args, metadata: as of MlflowModelLoggerDataSet.
    """

    def __init__(
        self,
        model_name: str,
        stage_or_version: str | int | None = None,
        alias: str | None = None,
        flavor: str = PYFUNC,
        pyfunc_workflow: str | None = "python_model",
        load_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._init(flavor, pyfunc_workflow, load_args, metadata)
        if not isinstance(model_name, str) or not is_name(model_name):
            raise DatasetError(f"model_name {model_name!r} is not a name of a registered model")
        if alias is not None and stage_or_version is not None:
            raise DatasetError(f"the entry has stage_or_version {stage_or_version!r} and alias {alias!r}; keep one")
        self._model_name = model_name
        self._alias = alias
        self._version = None if alias is not None else str("latest" if stage_or_version is None else stage_or_version)

    def _find_uri(self, client: Any) -> str:
        return find_registered_model(client, self._model_name, self._version, self._alias)

    def save(self, data: Any) -> None:
        """Always raises DatasetError, saying what saves and registers."""
        raise DatasetError(
            "MlflowModelRegistryDataset only loads; to save and register a model, use MlflowModelTrackingDataset "
            f"with save_args: {{registered_model_name: {self._model_name}}}"
        )

    def _describe(self) -> dict[str, Any]:
        return {
            "model_name": self._model_name,
            "stage_or_version": self._version,
            "alias": self._alias,
            "flavor": self._flavor,
            "pyfunc_workflow": self._workflow,
            "load_args": sorted(self._load_args),
        }
