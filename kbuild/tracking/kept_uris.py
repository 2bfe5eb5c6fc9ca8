"""MLflow's tracking and registry uris of this process, left as they were by what asks other stores."""

from __future__ import annotations

import os
import threading
from typing import Any

_URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


class _KeptUris:
    """Leave the process's tracking and registry uris as they were: downloads of models:/ uris ask them, not a client's.

    MLflow keeps each in a variable of its own and writes it into the environment, and tells the two apart nowhere.
    Several threads may speak at once, with one store: the last to end puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._speakers = 0
        self._environ: dict[str, str | None] = {}
        self._set: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        from mlflow.tracking._model_registry import utils as registry
        from mlflow.tracking._tracking_service import utils as tracking

        with self._lock:
            if self._speakers == 0:
                self._environ = {name: os.environ.get(name) for name in _URIS}
                self._set = tracking._tracking_uri, registry._registry_uri
            self._speakers += 1

    def __exit__(self, *error: object) -> None:
        import mlflow
        from mlflow.tracking._model_registry import utils as registry
        from mlflow.tracking._tracking_service import utils as tracking

        with self._lock:
            self._speakers -= 1
            if self._speakers == 0:
                if (tracking._tracking_uri, registry._registry_uri) != self._set:
                    mlflow.set_tracking_uri(self._set[0])
                    mlflow.set_registry_uri(self._set[1])
                for name, value in self._environ.items():
                    if os.environ.get(name) == value:
                        continue  # to write a variable is not safe while others read theirs
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value


KEPT_URIS = _KeptUris()
