"""The pipeline's answer as the scoring server writes it, and what JSON would lose of it."""

from __future__ import annotations

import io
import json
from typing import Any, NoReturn

import pandas as pd

from kbuild.errors import RecordingError

_PLAIN_HINT = "let the last inference node give a table, an array, a list or a dict of plain values"
_COLUMN_HINT = (
    "let the last inference node give what JSON has: astype(float) or astype(str) for decimals and the like, "
    "one name for a column of a MultiIndex"
)
_ONCE_HINT = "let the last inference node give each of them a name of its own"


def write_answer(output: Any) -> str:
    """The answer as the scoring server writes it.

    Raises RecordingError for one of which JSON carries nothing, or a part.
    """
    from mlflow.pyfunc.scoring_server import predictions_to_json

    if isinstance(output, pd.DataFrame) and not output.columns.is_unique:
        # MLflow leaves the others out. Of several outputs the served pipeline itself says so.
        twice = output.columns[output.columns.duplicated()].unique().tolist()
        _refuse(f"has several columns named {', '.join(map(repr, twice))}")
    text = io.StringIO()
    try:
        predictions_to_json(output, text)
    except Exception as error:  # the output is the user's, of any type
        raise RecordingError(
            f"the inference pipeline's answer, a {type(output).__name__}, cannot be written as JSON: "
            f"{error}{_name_column(output)}",
            hint=_COLUMN_HINT if isinstance(output, pd.DataFrame) else _PLAIN_HINT,
        ) from error
    json.loads(text.getvalue(), object_pairs_hook=_refuse_twice)
    return text.getvalue()


def tell_index(output: Any) -> tuple[str, ...]:
    """That an index which says more than the row's number is in no answer of a server."""
    if not isinstance(output, pd.DataFrame | pd.Series):
        return ()
    index = output.index
    if isinstance(index, pd.RangeIndex) or (index.dtype.kind in "iu" and index.name is None):
        return ()
    named = ", ".join(repr(name) for name in index.names if name is not None)
    return (
        f"The answer's index{f' {named}' if named else ''} is not served, as MLflow writes no index: let the last "
        "inference node return answer.reset_index() if whoever asks is to get it",
    )


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(names := [name for name, _ in pairs]) > len({*names}):
        twice = sorted({name for name in names if names.count(name) > 1})
        _refuse(f"has names that JSON cannot tell apart: {', '.join(map(repr, twice))}")


def _refuse(what: str) -> NoReturn:
    raise RecordingError(f"the inference pipeline's answer {what}, of which a server hands on one", hint=_ONCE_HINT)


def _name_column(output: Any) -> str:
    """Which column of a table it is, where that is a matter of its values."""
    if not isinstance(output, pd.DataFrame):
        return ""
    from mlflow.pyfunc.scoring_server import predictions_to_json

    for label in output.columns:
        try:
            predictions_to_json(output[label].to_frame("column"), io.StringIO())
        except Exception:  # noqa: BLE001 - as above
            return f" (column {label!r})"
    return ""
