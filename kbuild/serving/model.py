"""The loaded model and its answer to a request: the short way where there is one, else MLflow's own.

Protocol: https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally ("Inference Server Specification").
MLflow's own way is ``mlflow.pyfunc.scoring_server``: its ``invocations`` for ``/invocations``, its app for the rest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kbuild
from kbuild.errors import InvalidModel
from kbuild.serving.fast import FastPath, make_fast_path
from kbuild.serving.limits import Limits
from kbuild.serving.logs import LOGGER
from kbuild.serving.reply import FAILED, JSON, TEXT, TOO_DEEP, TOO_LONG, Reply

_log = logging.getLogger(LOGGER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the MLmodel says of the model; columns and params as MLflow's JSON signature has them."""

    mlflow_version: str
    model_id: str | None
    run_id: str | None
    inputs: list[dict[str, Any]] | None
    outputs: list[dict[str, Any]] | None
    params: list[dict[str, Any]] | None
    example: bytes | None
    recorded: bytes | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model that can be asked; may be asked in many threads at once.

    ``app`` is MLflow's own ASGI app of this model.
    """

    facts: Facts
    app: Any
    fast: FastPath | None
    slow: Callable[[bytes, str], Reply]

    def answer(self, body: bytes, content_type: str, limits: Limits | None = None) -> tuple[Reply, bool]:
        """The reply to ``POST /invocations``, and whether the short way gave it."""
        # The short way takes no table but one of the signature's columns, so only its rows are counted before.
        large = limits is not None and limits.is_large(body)
        if limits is not None and large and (refused := limits.check(body, content_type)):
            return refused, False
        if self.fast is not None and content_type in ("application/json", "application/json; charset=utf-8"):
            try:
                found = self.fast.answer(body)
            except RecursionError:
                return TOO_DEEP, True
            if found is not None:
                return Reply(status=200, body=found), True
        if limits is not None and not large and (refused := limits.check(body, content_type)):
            return refused, False
        return self.slow(body, content_type), False


def load_model(folder: Path, *, stack_traces: bool = False) -> ServedModel:
    """Load the MLflow model in ``folder``; raises InvalidModel when it does not load."""
    prefer_model_code(folder)
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    try:
        loaded = mlflow.pyfunc.load_model(str(folder))
    except Exception as error:  # loading runs the model's code: anything can come out of it
        reason = " ".join(str(error).split())
        raise InvalidModel(f"the model in {folder} does not load: {type(error).__name__}: {reason}") from error
    return ServedModel(
        facts=read_facts(loaded, folder),
        app=scoring_server.init(loaded),
        fast=make_fast_path(loaded),
        slow=make_slow_path(loaded, stack_traces=stack_traces),
    )


def prefer_model_code(model: Path) -> None:
    """Let a model that carries its own part of kbuild use that, not the one this server came with.

    The server's ``kbuild`` package is already imported, so putting the model's copy on ``sys.path`` is not enough.
    """
    carried = model / "code" / "kbuild"
    if carried.is_dir():
        kbuild.__path__.insert(0, str(carried))


def make_slow_path(loaded: Any, *, stack_traces: bool) -> Callable[[bytes, str], Reply]:
    """MLflow's ``/invocations`` as a function from body and content type to its reply.

    The reply leaves out ``stack_trace``, which tells paths and code of the model, unless ``stack_traces``; it is
    logged instead.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    schema = loaded.metadata.get_input_schema()

    def answer(body: bytes, content_type: str) -> Reply:
        try:
            made = scoring_server.invocations(body, content_type, loaded, schema)
        except MlflowException as error:
            told = json.loads(error.serialize_as_json())
            if trace := told.get("stack_trace"):
                _log.warning("the model failed", extra={"fields": {"traceback": trace}})
                if not stack_traces:
                    del told["stack_trace"]
            return Reply(status=error.get_http_status_code(), body=json.dumps(told).encode())
        except RecursionError:
            return TOO_DEEP
        except ValueError as error:
            # Python refuses to read a whole number of thousands of digits (sys.set_int_max_str_digits).
            if "integer string conversion" in str(error):
                return TOO_LONG
            _log.exception("MLflow's scoring server failed")
            return FAILED
        except Exception:  # noqa: BLE001  MLflow's app answers 500 to whatever else comes out of it
            _log.exception("MLflow's scoring server failed")
            return FAILED
        kind = TEXT if made.mimetype == "text/plain" else JSON
        return Reply(status=made.status, body=made.response.encode(), content_type=kind)

    return answer


def read_facts(loaded: Any, folder: Path) -> Facts:
    """From a loaded PyFuncModel and its folder."""
    import mlflow

    metadata = loaded.metadata
    signature = None if metadata.signature is None else metadata.signature.to_dict()
    example = (metadata.saved_input_example_info or {}).get("serving_input_path")
    record = (metadata.metadata or {}).get("kbuild") or {}
    return Facts(
        mlflow_version=str(mlflow.__version__),
        model_id=getattr(metadata, "model_id", None),
        run_id=metadata.run_id,
        inputs=_columns(signature, "inputs"),
        outputs=_columns(signature, "outputs"),
        params=_columns(signature, "params"),
        example=_content(folder, example),
        recorded=_content(folder, record.get("prediction")),
    )


def _columns(signature: dict[str, Any] | None, side: str) -> list[dict[str, Any]] | None:
    text = (signature or {}).get(side)
    return None if text is None else json.loads(text)


def _content(folder: Path, name: str | None) -> bytes | None:
    file = None if name is None else folder / name
    return file.read_bytes() if file is not None and file.is_file() else None
