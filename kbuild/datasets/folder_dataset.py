"""The Kedro dataset that is an MLflow model in a folder of this machine, versioned as Kedro versions files."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io.core import AbstractVersionedDataset, DatasetError, Version

from kbuild.datasets.loading import check_flavor, copy_arguments, load_folder, one_line_errors, save_folder
from kbuild.datasets.stores import process_lock
from kbuild.recording.mlflow_run import quiet_mlflow


class MlflowModelLocalFileSystemDataset(AbstractVersionedDataset[Any, Any]):  # type: ignore[misc]
    """A model in a folder, with no MLflow store.

    Args:
        filepath: the model's folder; saving again replaces it, unless ``versioned: true`` keeps one a run.
        flavor: MLflow's flavor, a module such as mlflow.pyfunc or mlflow.sklearn.
        pyfunc_workflow: python_model or loader_module, needed with flavor mlflow.pyfunc.
        load_args: arguments of the flavor's ``load_model``.
        save_args: arguments of the flavor's ``save_model``.
        log_args: taken for the sake of kedro-mlflow's catalogs; nothing is logged here, nor there.
        version: made by Kedro of ``versioned: true``.
        metadata: the user's own, ignored.
    """

    def __init__(
        self,
        filepath: str,
        flavor: str,
        pyfunc_workflow: str | None = None,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        log_args: dict[str, Any] | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        check_flavor(flavor, pyfunc_workflow)
        path = str(filepath).removeprefix("file://")
        if "://" in path:
            raise DatasetError(f"filepath {path.partition('://')[0]}://… is not on this machine; name a folder")
        super().__init__(PurePosixPath(path), version)
        self._flavor = flavor
        self._workflow = pyfunc_workflow
        self._load_args = copy_arguments("load_args", load_args)
        self._save_args = copy_arguments("save_args", save_args)
        copy_arguments("log_args", log_args)
        self.metadata = metadata

    def load(self) -> Any:
        """The model; raises DatasetError when there is none."""
        with one_line_errors(self, "the model cannot be loaded"), process_lock, quiet_mlflow():
            folder = Path(self._get_load_path())
            if not (folder / "MLmodel").is_file():
                raise DatasetError(
                    f"{folder} is not a folder with an MLmodel file; see filepath, or save the model first"
                )
            return load_folder(self._flavor, folder, self._load_args)

    def save(self, data: Any) -> None:
        """Write the model whole or not at all; raises DatasetError, also for a folder that holds something else."""
        target = Path(self._get_save_path())
        if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / "MLmodel").is_file()):
            raise DatasetError(f"{type(self).__name__}: {target} is there and is not a model; it is not written over")
        with one_line_errors(self, "the model cannot be saved"), process_lock, quiet_mlflow():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
                made = Path(folder) / "model"
                save_folder(self._flavor, self._workflow, data, made, self._save_args)
                if target.exists():
                    target.rename(Path(folder) / "old")
                made.rename(target)

    def _exists(self) -> bool:
        return (Path(self._get_load_path()) / "MLmodel").is_file()

    def _describe(self) -> dict[str, Any]:
        return {
            "filepath": str(self._filepath),
            "flavor": self._flavor,
            "pyfunc_workflow": self._workflow,
            "load_args": sorted(self._load_args),
            "save_args": sorted(self._save_args),
            "version": self._version,
        }
