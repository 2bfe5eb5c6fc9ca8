"""The short way from a JSON body to predictions, for kbuild's own models with a signature of plain columns.

It answers what it can and leaves the rest, errors above all, to MLflow: the question is then answered there from the
start, so a caller cannot tell which way was taken.
"""

from __future__ import annotations

import json
from typing import Any

from kbuild.serving.answer import write_predictions
from kbuild.serving.columns import FORMATS, READERS, TableReader, Unusual

_MODEL = ("kbuild.training.pyfunc", "KedroPipelineModel")


class FastPath:
    """Prepared at load; ``answer`` may run in many threads at once."""

    def __init__(self, python_model: Any, types: dict[str, str], params_schema: Any) -> None:
        from mlflow.models.utils import _enforce_params_schema
        from mlflow.utils.proto_json_utils import NumpyEncoder, _get_jsonable_obj

        self._predict = python_model.predict
        self._reader = TableReader(types)
        self._params_schema = params_schema
        self._enforce = _enforce_params_schema
        self._encoder = NumpyEncoder
        self._plain = _get_jsonable_obj

    def answer(self, body: bytes) -> bytes | None:
        """MLflow's response body, None for what MLflow has to answer; raises RecursionError for JSON too deep."""
        try:
            request = json.loads(body)
            table, params = self._parse(request)
            predictions = self._predict(None, table, params=params)
            return write_predictions(predictions, self._encoder, self._plain)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  whatever went wrong, MLflow's path meets it again and says it its way
            return None

    def _parse(self, request: Any) -> tuple[Any, Any]:
        if type(request) is not dict or not request.keys() <= {*FORMATS, "params"}:
            raise Unusual
        params = request.pop("params", None)
        if len(request) != 1:
            raise Unusual
        # Without a schema MLflow drops params and logs it; with one it logs what it does not know.
        if params and (self._params_schema is None or type(params) is not dict):
            raise Unusual
        params = self._enforce(params, self._params_schema)
        ((kind, data),) = request.items()
        return self._reader.read(kind, data), params


def make_fast_path(loaded: Any) -> FastPath | None:
    """For a loaded PyFuncModel; None if it is not one that this can answer for."""
    python_model = getattr(loaded._model_impl, "python_model", None)
    kind = type(python_model)
    if (kind.__module__, kind.__qualname__) != _MODEL:
        return None
    metadata = loaded.metadata
    schema = metadata.get_input_schema()
    if schema is None or metadata._is_signature_from_type_hint() or metadata._is_type_hint_from_example():
        return None
    # Only ColSpec has "required"; arrays, objects and maps have types that are no plain names.
    columns = schema.to_dict()
    types = {column.get("name"): column.get("type") for column in columns}
    if not columns or len(types) != len(columns) or None in types:
        return None
    if not all(column.get("required", False) for column in columns) or not {*types.values()} <= {*READERS}:
        return None
    return FastPath(python_model, types, metadata.get_params_schema())
