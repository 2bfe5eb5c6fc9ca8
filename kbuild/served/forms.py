"""The request's value made what the inference pipeline was written for: MLflow hands on tables and arrays only.

A model stores a *form*, plain values that say what its input was in training: ``{"kind": a key of _KINDS, …}``. A model
without one is given what MLflow hands on. ``kbuild.recording.input.forms`` writes forms.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kbuild.errors import PredictionError
from kbuild.served.columns import is_missing, restore_column, to_python

Form = Mapping[str, Any]
_SCALARS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (float, int),
    "str": (str,),
}


def restore(form: Form, value: Any) -> Any:
    """``value`` as MLflow hands it on, in the ``form`` that training knew; raises PredictionError where it has none."""
    return _KINDS[form["kind"]](form, value)


def _frame(value: Any) -> pd.DataFrame:
    if isinstance(value, pd.DataFrame):
        return value
    if isinstance(value, pd.Series):
        return pd.DataFrame(value)
    if isinstance(value, Mapping):
        # Of lists of one length it is a table by columns, else it is one row.
        by_columns = value and all(isinstance(each, list | np.ndarray) for each in value.values())
        return pd.DataFrame(dict(value) if by_columns else [dict(value)])
    return pd.DataFrame(value if isinstance(value, list | np.ndarray) and np.ndim(value) else [value])


def _table(form: Form, value: Any) -> pd.DataFrame:
    given = _frame(value)
    wanted = [*form["index"], *form["columns"]]
    absent = [column["wire"] for column in wanted if column["wire"] not in given.columns]
    if absent:
        raise PredictionError(f"the request lacks the column(s) {', '.join(map(repr, absent))}")
    index = given.index
    if form["index"]:
        levels = [pd.Index(restore_column(given[column["wire"]], column)) for column in form["index"]]
        names = form["index_names"]
        index = levels[0].rename(names[0]) if len(levels) == 1 else pd.MultiIndex.from_arrays(levels, names=names)
    series = [restore_column(given[column["wire"]], column) for column in form["columns"]]
    # By place: the labels may be the same.
    table = pd.DataFrame(dict(enumerate(series)), index=given.index)
    table.index = _follow(index, form.get("frequency"))
    table.columns = _labels(form, table.columns)
    return table


def _texts(form: Form, value: Any) -> Any:
    """A table that comes as it is, but for columns of text without a text in this request: what those are is inferred
    from their cells."""
    made = {}
    for name, column in form["texts"].items():
        if name in value.columns and value[name].dtype != pd.api.types.pandas_dtype(column["dtype"]):
            made[name] = restore_column(value[name], column)
    return value.assign(**made) if made else value


def _labels(form: Form, numbered: pd.Index) -> pd.Index:
    labels = form["labels"]
    if not labels:
        return numbered
    if form["multi"]:
        return pd.MultiIndex.from_tuples(labels, names=form["label_names"])
    made = pd.Index(labels, dtype=form.get("label_type"), name=form["label_names"][0], tupleize_cols=False)
    return _follow(made, form.get("label_frequency"))


def _follow(times: pd.Index, frequency: str | None) -> pd.Index:
    """The times with the frequency that training's have; without one where they do not follow it, as in pandas."""
    # Any other index takes the name for an attribute of its own.
    if frequency is not None and isinstance(times, pd.DatetimeIndex | pd.TimedeltaIndex):
        try:
            times.freq = frequency
        except ValueError:
            return times
    return times


def _series(form: Form, value: Any) -> pd.Series:
    table = _table(form, value)
    return table.iloc[:, 0].rename(form["labels"][0])


def _polars(form: Form, value: Any) -> Any:
    import polars

    table = _table(form["table"], value)
    types = {name: _polars_type(kind) for name, kind in form["schema"].items()}
    missing = {name: float("nan") if kind.get("nan") else None for name, kind in form["schema"].items()}
    data = {
        name: [missing[name] if is_missing(each) else each for each in table.iloc[:, place]]
        for place, name in enumerate(types)
    }
    try:
        made = polars.DataFrame(data, schema=types)
    except (TypeError, ValueError, OverflowError, polars.exceptions.PolarsError) as error:
        raise PredictionError(f"the request is not a table as in training: {error}") from error
    return made[form["column"]] if "column" in form else made


def _polars_type(kind: Mapping[str, Any]) -> Any:
    import polars

    named = getattr(polars, kind["name"], None)
    if not (isinstance(named, type) and issubclass(named, polars.DataType)):  # a form is what a model says of itself
        raise PredictionError(f"the model's input has a column of {kind['name']}, which is no type of polars")
    return named(**kind["arguments"]) if kind["arguments"] else named


def _scalar(form: Form, value: Any) -> Any:
    frame = _frame(value)
    if frame.shape[1] < 1 or len(frame) != 1:
        raise PredictionError(f"the model takes one {form['type']} at a time, not {len(frame)}")
    return _one(frame.iloc[:, 0].tolist()[0], form["type"])


def _list(form: Form, value: Any) -> list[Any]:
    frame = _frame(value)
    if len(frame) and frame.shape[1] < 1:
        raise PredictionError(f"the model takes a list of {form['type']}")
    return [_one(each, form["type"]) for each in frame.iloc[:, 0].tolist()] if len(frame) else []


def _one(value: Any, kind: str) -> Any:
    if kind == "bytes":
        return base64.b64decode(value) if isinstance(value, str) else bytes(value)
    value = to_python(value)
    if isinstance(value, bool) != (kind == "bool") or not isinstance(value, _SCALARS[kind]):
        raise PredictionError(f"the model takes {kind}, not {value!r}")
    return value + 0.0 if kind == "float" and isinstance(value, int) else value


def _records(form: Form, value: Any) -> list[dict[str, Any]]:
    if isinstance(value, list):
        return [{key: to_python(each) for key, each in row.items()} for row in value]
    frame = _frame(value)
    columns = {name: [to_python(each) for each in frame[name]] for name in frame.columns}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    # A table has every key in every row: keys that training did not always have come as missing values.
    optional, types, nulls = {*form["optional"]}, form["types"], {*form.get("nulls", ())}
    made = []
    for row in rows:
        kept = {key: each for key, each in row.items() if not (key in optional and is_missing(each))}
        made.append({key: _typed(key, each, types.get(key), null=key in nulls) for key, each in kept.items()})
    return made


def _typed(key: str, value: Any, kind: str | None, *, null: bool) -> Any:
    """A missing value as None, that of a float only where training had None there (``null``).

    A whole number that a gap in its column made a float is the int that it was.
    """
    if kind is None or kind not in _SCALARS:
        return value
    if is_missing(value):
        return value if kind == "float" and isinstance(value, float) and not null else None
    if kind == "int" and isinstance(value, float):
        if not value.is_integer() or abs(value) >= 2**53:
            raise PredictionError(f"{key!r} is a whole number, not {value!r}")
        return int(value)
    return _one(value, kind)


def _mapping(form: Form, value: Any) -> dict[str, Any]:
    rows = _records(form, [value] if isinstance(value, Mapping) else value)
    if len(rows) != 1:
        raise PredictionError(f"the model takes one object at a time, not {len(rows)}")
    return rows[0]


def _tables(form: Form, value: Any) -> dict[str, Any]:
    (row,) = [value] if isinstance(value, Mapping) else _frame(value).to_dict("records")
    absent = [name for name in form["parts"] if name not in row]
    if absent:
        raise PredictionError(f"the request lacks {', '.join(map(repr, absent))}")
    return {name: _part(part, row[name]) for name, part in form["parts"].items()}


def _part(part: Form, value: Any) -> Any:
    value = to_python(value)
    if part["kind"] in ("table", "series", "polars"):
        table = part["table"] if part["kind"] == "polars" else part
        gaps = {column["wire"]: column["gaps"] for column in [*table["index"], *table["columns"]]}
        rows = value if isinstance(value, list) else [value]
        if not all(isinstance(row, dict) for row in rows):
            raise PredictionError("the model takes a table in another value as a list of objects, one for each row")
        lacking = {name: [name not in row for row in rows] for name in gaps}
        absent = [name for name, each in lacking.items() if rows and (all(each) or (any(each) and not gaps[name]))]
        if absent:
            raise PredictionError(f"the request lacks the column(s) {', '.join(map(repr, absent))}")
        return restore(part, pd.DataFrame(value, columns=list(gaps)))
    return restore(part, pd.DataFrame(value) if part["kind"] in ("records",) else value)


def _array(form: Form, value: Any) -> np.ndarray:
    try:
        return np.asarray(to_python(value), dtype=form["dtype"])
    except (TypeError, ValueError, OverflowError) as error:
        raise PredictionError(f"the request is not an array of {form['dtype']}: {error}") from error


_KINDS: dict[str, Callable[[Form, Any], Any]] = {
    "table": _table,
    "texts": _texts,
    "series": _series,
    "polars": _polars,
    "scalar": _scalar,
    "list": _list,
    "records": _records,
    "mapping": _mapping,
    "tables": _tables,
    "array": _array,
}
