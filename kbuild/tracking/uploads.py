"""Uploads through a tracking server, several files at a time: MLflow sends them one after the other.

A model is some forty files, and each costs a round trip; with a server that takes two seconds for one, a minute and a
half of ``kedro run``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from typing import Any

# Within what MLflow's own session keeps connections for (MLFLOW_HTTP_POOL_MAXSIZE, 10).
_THREADS = 8


@contextmanager
def uploading_side_by_side(failed: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within the block MLflow's client of proxied artifact stores sends the files of a folder side by side.

    ``failed`` is called where one was not taken, before MLflow asks the same server to mark the model as failed.
    """
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository as Proxied

    own = Proxied.log_artifacts

    def log_artifacts(*args: Any, **kwargs: Any) -> None:
        try:
            _log_artifacts(*args, **kwargs)
        except Exception:
            failed()
            raise

    Proxied.log_artifacts = log_artifacts
    try:
        yield
    finally:
        Proxied.log_artifacts = own


def _log_artifacts(repository: Any, local_dir: str, artifact_path: str | None = None) -> None:
    """As ``ArtifactRepository.log_artifacts``: raises what the first file that failed raised, and sends no more."""
    root, top = Path(local_dir), PurePosixPath(artifact_path or "")

    def send(file: Path) -> None:
        place = str(top / file.parent.relative_to(root).as_posix())
        repository.log_artifact(str(file), None if place == "." else place)

    files = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    # Not an executor: Ctrl-C would wait for whatever its threads are asking a server that is gone.
    with ThreadPool(_THREADS) as pool:
        for _ in pool.imap_unordered(send, files):
            pass
