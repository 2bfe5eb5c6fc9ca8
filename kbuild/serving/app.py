"""The scoring server: MLflow's own app (``mlflow.pyfunc.scoring_server``) under uvicorn.

Protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally ("Inference Server Specification").
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import kbuild
from kbuild.errors import InvalidModel
from kbuild.serving.settings import Settings


def serve(settings: Settings) -> None:
    """Load the model, then answer until a signal ends the process; raises InvalidModel when it does not load."""
    import uvicorn

    app = load_app(settings.model)
    uvicorn.run(app, host=settings.host, port=settings.port, log_level=settings.log_level, access_log=False)


def load_app(model: Path) -> Any:
    """MLflow's FastAPI app around the model in folder ``model``."""
    prefer_model_code(model)
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    # Kedro's own loggers would write many lines a request.
    logging.getLogger("kedro").setLevel(logging.WARNING)
    try:
        loaded = mlflow.pyfunc.load_model(str(model))
    except Exception as error:  # noqa: BLE001  loading runs the model's code: anything can come out of it
        reason = " ".join(str(error).split())
        raise InvalidModel(f"the model in {model} does not load: {type(error).__name__}: {reason}") from error
    return scoring_server.init(loaded)


def prefer_model_code(model: Path) -> None:
    """Let a model that carries its own part of kbuild use that, not the one this server came with.

    The server's ``kbuild`` package is already imported, so putting the model's copy on ``sys.path`` is not enough.
    """
    carried = model / "code" / "kbuild"
    if carried.is_dir():
        kbuild.__path__.insert(0, str(carried))
