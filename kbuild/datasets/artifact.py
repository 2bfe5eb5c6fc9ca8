"""Any Kedro dataset whose file is also an artifact of the run that saves it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from kedro.io.core import AbstractDataset, DatasetError, Version, get_protocol_and_path

from kbuild.datasets.loading import one_line_errors
from kbuild.datasets.stores import open_store
from kbuild.datasets.tracked import TrackedDataset, check_run_id

# What the constructors of Kedro's datasets call their file or folder.
_PLACES = ("filepath", "path")


class MlflowArtifactDataset(TrackedDataset):
    """A dataset, kept as an artifact each time it is saved.

    Loads the dataset's own file; with ``run_id``, that run's artifact.

    Args:
        dataset: the entry of a dataset whose file is on this machine: its type and arguments.
        run_id: a run to save to and to load from, instead of the one under way.
        artifact_path: a folder among the run's artifacts; default: their top.
        credentials: the dataset's.
        version: made by Kedro of ``versioned: true``, which may stand here or in ``dataset``.
        metadata: the user's own, ignored.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | None = None,
        run_id: str | None = None,
        artifact_path: str | None = None,
        credentials: dict[str, Any] | None = None,
        version: Version | None = None,
        metadata: dict[str, Any] | None = None,
        data_set: dict[str, Any] | None = None,
    ) -> None:
        config = data_set if dataset is None else dataset
        if not isinstance(config, Mapping) or "type" not in config:
            raise DatasetError("dataset is the entry of a dataset, such as {type: json.JSONDataset, filepath: …}")
        self._run_id = check_run_id(run_id)
        self._artifact_path = artifact_path.strip("/") if artifact_path else None
        self.metadata = metadata
        self._config = dict(config) if credentials is None else {**config, "credentials": credentials}
        inner = self._config.pop("versioned", False)
        self._versioned = bool(inner) or version is not None
        self._dataset = self._make(version)
        stated = next((self._config[name] for name in _PLACES if name in self._config), None)
        if stated is None:
            raise DatasetError(f"{type(self._dataset).__name__} keeps no file, so there is nothing to log")
        protocol, place = get_protocol_and_path(str(stated))
        if protocol != "file":
            raise DatasetError("the dataset's file has to be on this machine; MLflow brings it to where artifacts are")
        self._place = Path(place)

    @property
    def wrapped(self) -> AbstractDataset[Any, Any] | None:
        """The dataset whose file is what is loaded; None where that is another run's artifact."""
        return self._dataset if self._run_id is None else None

    @property
    def artifact_place(self) -> tuple[str | None, str]:
        """The folder among the run's artifacts, and the name there of the file."""
        return self._artifact_path, self._place.name

    def take_version(self, load_version: str | None, save_version: str | None) -> None:
        """A version in the inner entry becomes that of this Kedro run, which its session has chosen."""
        if self._versioned and save_version is not None:
            self._dataset = self._make(Version(load_version, save_version))

    def load(self) -> Any:
        """What the dataset loads; raises DatasetError, also where the run has no such artifact."""
        if self._run_id is None:
            return self._dataset.load()
        with one_line_errors(self, "the artifact cannot be loaded"):
            return self._make(None, place=self._download(self._run_id)).load()

    def save(self, data: Any) -> None:
        """Save the file, and log it; raises DatasetError, without a run before anything is saved."""
        if self.off:
            self._dataset.save(data)
            return
        with one_line_errors(self, "the artifact cannot be saved"), open_store() as client:
            run_id = self.find_run()
            place = self._find_target()  # asked before: a version is there once
            self._dataset.save(data)
            if not place.exists():
                raise DatasetError(f"{type(self._dataset).__name__} saved nothing to {place}")
            client.log_artifact(run_id, str(place), self._artifact_path)  # a folder with its name, too

    def _exists(self) -> bool:
        if self._run_id is None:
            return bool(self._dataset.exists())
        with open_store() as client:
            wanted = self._artifact()
            return any(each.path == wanted for each in client.list_artifacts(self._run_id, self._artifact_path))

    def _release(self) -> None:
        self._dataset.release()

    def _describe(self) -> dict[str, Any]:
        return {
            "dataset": f"{type(self._dataset).__name__}({self._place})",
            "artifact_path": self._artifact_path,
            "run_id": self._run_id,
        }

    def _make(self, version: Version | None, place: Path | None = None) -> AbstractDataset[Any, Any]:
        config = dict(self._config)
        if place is not None:
            config[next(name for name in _PLACES if name in config)] = str(place)
        if place is None and self._versioned:
            config["versioned"] = True
        given = (None, None) if version is None else (version.load, version.save)
        return AbstractDataset.from_config("dataset", config, *given)

    def _find_target(self) -> Path:
        """Where the dataset will save to."""
        if not self._versioned:
            return self._place
        dataset: Any = self._dataset
        return self._place / str(dataset.resolve_save_version()) / self._place.name

    def _artifact(self) -> str:
        return f"{self._artifact_path}/{self._place.name}" if self._artifact_path else self._place.name

    def _download(self, run_id: str) -> Path:
        from mlflow.exceptions import MlflowException

        folder = tempfile.mkdtemp(prefix="kbuild-artifact-")
        # What is loaded may be read later, a part at a time. Unlike atexit, this also runs in a parallel runner's.
        Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=0)
        with open_store() as client:
            try:
                found: str | None = client.download_artifacts(run_id, self._artifact(), folder)
                if found is None:  # MLflow 3.1's answer
                    raise FileNotFoundError(self._artifact())
                return Path(found)
            except (MlflowException, OSError) as error:
                has = [each.path for each in client.list_artifacts(run_id, self._artifact_path)]
                known = f"; it has {', '.join(has[:10])}" if has else "; it has none there"
                raise DatasetError(f"run {run_id} has no artifact {self._artifact()!r}{known}") from error
