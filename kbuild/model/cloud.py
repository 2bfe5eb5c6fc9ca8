"""Artifacts that clients bring to object storage themselves, by MLflow's artifact repository for the uri.

To go through a run costs MLflow's client four questions to the tracking server for each file; the uri is known already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.cache.room import room_for
from kbuild.errors import KbuildError
from kbuild.model.folders import plain
from kbuild.model.tracking import Unfamiliar
from kbuild.process.variables import default_variables

SCHEMES = frozenset({"s3", "gs", "wasbs", "abfss"})
"""Storage that MLflow reaches with the uri and the environment alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CloudFolder:
    """A ``Folder`` at a uri. Whatever goes wrong is Unfamiliar: MLflow's client, asked for the same, says it."""

    uri: str

    def has_model(self) -> bool:
        raise Unfamiliar("a run without a logged model")

    def place(self, into: Path) -> Path:
        with _repository(self.uri) as repository, room_for(into) as room:
            if room.limited:
                room.add(stored_size(repository))
            repository.download_artifacts("", str(into))
        if not any(into.iterdir()):
            raise Unfamiliar("no files")
        return into

    def fetch(self, path: str, into: Path) -> Path | None:
        parent = plain(path).rpartition("/")[0] or None
        with _repository(self.uri) as repository:
            for item in repository.list_artifacts(parent):
                if item.path == path:
                    into.mkdir(parents=True, exist_ok=True)
                    with room_for(into, item.file_size or 0):
                        return Path(repository.download_artifacts(path, str(into)))
        return None

    def put(self, file: Path, path: str) -> None:
        with _repository(self.uri) as repository:
            repository.log_artifact(str(file), plain(path))


def stored_size(repository: Any, path: str | None = None) -> int:
    """Bytes of all files that an artifact repository of MLflow lists below a path."""
    items = repository.list_artifacts(path)
    return sum(stored_size(repository, item.path) if item.is_dir else item.file_size or 0 for item in items)


@contextmanager
def _repository(uri: str) -> Iterator[Any]:
    try:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with default_variables({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}):
            yield get_artifact_repository(uri)
    except KbuildError:
        raise  # of this machine's disk
    except Exception as error:  # each storage has errors of its own
        raise Unfamiliar(f"{type(error).__name__} of {uri}: {error}") from error
