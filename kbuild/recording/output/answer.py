"""The pipeline's answer as the scoring server writes it, and what JSON would lose of it."""

from __future__ import annotations

import io
import json
from typing import Any, NoReturn

import pandas as pd

from kbuild.errors import RecordingError
from kbuild.recording.output.unwritable import find_unwritable

_HINT = "let the last inference node give a table, an array, a list or a dict of plain values"
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
        found = find_unwritable(output)
        cause = " ".join(str(error).split())[:300] if found is None else found.told
        raise RecordingError(
            f"the inference pipeline's answer, a {type(output).__name__}, cannot be written as JSON: {cause}",
            hint=_HINT if found is None else found.hint,
        ) from error
    json.loads(text.getvalue(), object_pairs_hook=_refuse_twice)
    return text.getvalue()


def is_empty_answer(text: str) -> bool:
    """Whether an answer that ``write_answer`` wrote has no row: no list of its outputs has an item."""
    return _is_empty(json.loads(text)["predictions"])


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(map(_is_empty, value.values()))
    return isinstance(value, list) and not value


def advise_array(output: Any) -> str | None:
    """What to give in place of an array whose type a signature cannot state; None where that is not the cause."""
    given = {"T": "answer.astype(str)", "V": "pandas.DataFrame(answer)"}.get(
        getattr(getattr(output, "dtype", None), "kind", "")
    )
    return f"let the last inference node give {given}" if given else None


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
