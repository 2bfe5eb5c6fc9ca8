"""The short way from a request to predictions, for kbuild's own models with a signature of plain columns.

It answers what it can and leaves the rest, errors above all, to MLflow: the question is then answered there from the
start, but for the nodes, which have run, so a caller cannot tell which way was taken. Imports nothing of MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from kbuild.serving.answer.answer import write_predictions
from kbuild.serving.answer.columns import FORMATS, READERS, TableReader, Unusual, Values
from kbuild.serving.answer.params import ParamReader

_MODEL = ("kbuild.training.pyfunc", "KedroPipelineModel")
_JSON = "application/json"
_CSV = "text/csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class FastOutcome:
    """What the pipeline gave or raised for a request that MLflow has to answer: its nodes are not to run again."""

    value: Any = None
    error: Exception | None = None


class FastPath:
    """Prepared at load; ``answer`` may run in many threads at once.

    ``types`` are MLflow's type names by column, ``optional`` the columns that a request may leave out. Raises Unusual
    for a signature that is not answered here.
    """

    def __init__(
        self,
        python_model: Any,
        types: Mapping[str, str],
        params: Sequence[Mapping[str, Any]] | None,
        optional: Iterable[str] = (),
    ) -> None:
        self.predict = python_model.predict
        self._reader = TableReader(types, optional)
        self._params = ParamReader(params)

    def answer(self, body: bytes, content_type: str = _JSON) -> bytes | FastOutcome | None:
        """MLflow's response body; an Outcome where MLflow has to say what came of it, None where nothing has run.

        Raises RecursionError for JSON too deep.
        """
        return self._answer(lambda: self.read(body, content_type))

    def answer_columns(self, columns: Mapping[str, Values], params: Any) -> bytes | FastOutcome | None:
        """The same of a table by its columns, each of as many of JSON's values, and of a request's params."""
        return self._answer(lambda: (self._reader.read_columns(columns), self._params.read(params)))

    def _answer(self, read: Callable[[], tuple[Any, Any]]) -> bytes | FastOutcome | None:
        try:
            table, params = read()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  whatever went wrong, MLflow's path meets it again and says it its way
            return None
        try:
            value = self.predict(None, table, params=params)
        except Exception as error:  # noqa: BLE001  the nodes are the user's code, which may raise anything
            return FastOutcome(error=error)
        try:
            return write_predictions(value)
        except Exception:  # noqa: BLE001  MLflow writes more, or says why it cannot
            return FastOutcome(value=value)

    def read(self, body: bytes, content_type: str) -> tuple[Any, Any]:
        """The table and the params of a request; raises Unusual, and what parsing raises."""
        kind = _media_type(content_type)
        if kind == _CSV:
            # What ends lines in a way of its own also escapes the count of rows.
            if body.count(b"\r") != body.count(b"\r\n"):
                raise Unusual
            return self._reader.read_csv(StringIO(body.decode())), self._params.read(None)
        if kind != _JSON:
            raise Unusual
        request = json.loads(body)
        if type(request) is not dict or not request.keys() <= {*FORMATS, "params"}:
            raise Unusual
        params = self._params.read(request.pop("params", None))
        if len(request) != 1:
            raise Unusual
        ((form, data),) = request.items()
        return self._reader.read(form, data), params


def _media_type(content_type: str) -> str | None:
    """The type without its parameters; None where there are others than ``charset=utf-8``."""
    if content_type in (_JSON, _CSV):
        return content_type
    kind, *parameters = map(str.strip, content_type.split(";"))
    pairs = [text.partition("=") for text in parameters]
    return kind if all(name == "charset" and value.lower() == "utf-8" for name, _, value in pairs) else None


def is_own(loaded: Any) -> bool:
    """Whether a loaded PyFuncModel is kbuild's own."""
    kind = type(getattr(loaded._model_impl, "python_model", None))
    return (kind.__module__, kind.__qualname__) == _MODEL


def make_fast_path(loaded: Any) -> FastPath | None:
    """For a loaded PyFuncModel; None if it is not one that this can answer for."""
    if not is_own(loaded):
        return None
    python_model = loaded._model_impl.python_model
    metadata = loaded.metadata
    if metadata._is_signature_from_type_hint() or metadata._is_type_hint_from_example():
        return None
    inputs, params = metadata.get_input_schema(), metadata.get_params_schema()
    return plan_fast_path(
        python_model, None if inputs is None else inputs.to_dict(), None if params is None else params.to_dict()
    )


def plan_fast_path(python_model: Any, inputs: Any, params: Any) -> FastPath | None:
    """For a model and its signature as MLflow's JSON has it; None where this cannot answer for them."""
    # What fails here is asked again on MLflow's path, and hooks are to be called once. Older models have no runner.
    if getattr(python_model, "runner", None) is not None:
        return None
    # Only ColSpec has "required"; arrays, objects and maps have types that are no plain names.
    if not inputs or not all(type(column.get("required")) is bool for column in inputs):
        return None
    types = {column.get("name"): column.get("type") for column in inputs}
    if len(types) != len(inputs) or None in types or not {*map(str, types.values())} <= {*READERS}:
        return None
    try:
        optional = [column["name"] for column in inputs if not column["required"]]
        return FastPath(python_model, types, params or None, optional)
    except Unusual:
        return None
