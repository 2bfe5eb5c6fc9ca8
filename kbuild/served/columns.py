"""Columns of a request made what they were in training: MLflow carries fewer types than tables have.

``{"wire": name in the request, "as": a key of RESTORERS, "dtype": pandas' name of the type, …}`` describes a column.
``kbuild.recording.input.columns`` writes these descriptions.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from kbuild.errors import PredictionError

Column = Mapping[str, Any]
# Doubles beyond it are no longer whole numbers one apart, so a column with gaps cannot carry them.
EXACT_INTEGERS = 2**53
# What objects may have in place of a value, beside None and NaN.
MISSING = {"NaT": pd.NaT, "NA": pd.NA}
_ZONE = re.compile(r".*(Z|[+-]\d\d(:?\d\d)?)", re.DOTALL)
_DURATION = re.compile(r".*[A-Za-z:].*", re.DOTALL)


def restore_column(values: pd.Series, column: Column) -> pd.Series:
    """The column as training knew it, with the index of ``values``.

    Raises PredictionError for values that are none of its type.
    """
    try:
        return RESTORERS[column["as"]](values, column)
    except PredictionError:
        raise
    except (ValueError, TypeError, ArithmeticError, OverflowError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise PredictionError(
            f"column {column['wire']!r} is not of type {column['dtype']} as in training: {reason}"
        ) from error


def _number(values: pd.Series, column: Column) -> pd.Series:
    kind = pd.api.types.pandas_dtype(column["dtype"])
    if pd.api.types.is_integer_dtype(kind) and pd.api.types.is_float_dtype(values.dtype):
        beyond = values.abs() >= EXACT_INTEGERS
        if beyond.any():
            raise PredictionError(f"column {column['wire']!r} has whole numbers beyond 2**53, which come inexactly")
    with np.errstate(over="ignore"):
        made = _with_nan(values, kind) if column.get("nan") else values.astype(kind)
    narrow = isinstance(kind, np.dtype) and kind.kind == "f" and kind.itemsize < 8
    if narrow and (np.isinf(made) & np.isfinite(values.astype("float64"))).any():
        raise PredictionError(f"column {column['wire']!r} has values too large for the type {column['dtype']}")
    if pd.api.types.is_integer_dtype(kind):
        # numpy wraps what is too large, and cuts off what follows the point.
        same = made.isna() | (made.astype("Float64") == values.astype("Float64"))
        if not same.all():
            raise PredictionError(f"column {column['wire']!r} has values that are not of type {column['dtype']}")
    return made


def _with_nan(values: pd.Series, kind: Any) -> pd.Series:
    """Of pyarrow's type, with NaN for null: pandas would make these missing values."""
    import pyarrow as pa

    floats = pa.array(values.to_numpy("float64"), type=kind.pyarrow_dtype)
    return pd.Series(pd.array(floats, dtype=kind), index=values.index)


def _truth(values: pd.Series, column: Column) -> pd.Series:
    wrong = [each for each in values if not isinstance(each, bool | np.bool_) and not is_missing(each)]
    if wrong:
        raise PredictionError(f"column {column['wire']!r} is true, false or null, not {wrong[0]!r}")
    return pd.Series(
        pd.array([None if is_missing(each) else bool(each) for each in values], dtype="boolean"), index=values.index
    ).astype(pd.api.types.pandas_dtype(column["dtype"]))


def _string_type(storage: str, missing: str) -> Any:
    """A type of texts by where pandas keeps them and what is missing in them; before 2.3 it has no word for that."""
    if missing == "NA" or storage == "pyarrow_numpy":
        return pd.StringDtype(storage)
    return pd.StringDtype(storage, np.nan)


def _text(values: pd.Series, column: Column) -> pd.Series:
    if "storage" in column:
        return values.astype(_string_type(column["storage"], column["na"]))
    if column["dtype"] != "object":
        return values.astype(pd.api.types.pandas_dtype(column["dtype"]))
    return _objects(values, lambda each: each, column)


def _category(values: pd.Series, column: Column) -> pd.Series:
    known = column["categories"]
    dtype = pd.CategoricalDtype(pd.Index(known, dtype=column.get("categories_dtype")), ordered=column["ordered"])
    made = values.astype(object).where(values.notna(), None).astype(dtype)
    strangers = values[made.isna() & values.notna()]
    if len(strangers):
        shown = ", ".join(map(repr, known[:10])) + (", …" if len(known) > 10 else "")
        raise PredictionError(f"column {column['wire']!r} has {strangers.iloc[0]!r}, which is none of: {shown}")
    return made


def _time(values: pd.Series, column: Column) -> pd.Series:
    dtype = pd.api.types.pandas_dtype(column["dtype"])
    if not pd.api.types.is_datetime64_any_dtype(values.dtype):
        values = pd.to_datetime(values, format="ISO8601")
    return values.astype(dtype)


def _zoned(values: pd.Series, column: Column) -> pd.Series:
    bare = [each for each in values if isinstance(each, str) and not _ZONE.fullmatch(each)]
    if bare:
        raise PredictionError(
            f"column {column['wire']!r} has the time {bare[0]!r} without a zone: write 2024-01-31T12:00:00+00:00"
        )
    return pd.to_datetime(values, format="ISO8601", utc=True).astype(pd.api.types.pandas_dtype(column["dtype"]))


def _duration(values: pd.Series, column: Column) -> pd.Series:
    bare = [each for each in values if not is_missing(each) and not _DURATION.fullmatch(str(each))]
    if bare:
        raise PredictionError(f"column {column['wire']!r} has {bare[0]!r} without a unit: write P1DT2H3M4S or 1 days")
    return pd.to_timedelta(values).astype(pd.api.types.pandas_dtype(column["dtype"]))


def _objects(values: pd.Series, make: Callable[[Any], Any], column: Column) -> pd.Series:
    missing = MISSING.get(column.get("missing", ""), None if column.get("none") else float("nan"))
    made = np.empty(len(values), dtype=object)
    for place, each in enumerate(values):
        made[place] = missing if is_missing(each) else make(each)
    return pd.Series(made, index=values.index, dtype=object)


def is_missing(value: Any) -> bool:
    """Whether it stands for no value: None, NaN, NaT or NA."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _of_text(read: Callable[[str], Any]) -> Callable[[pd.Series, Column], pd.Series]:
    def restore(values: pd.Series, column: Column) -> pd.Series:
        return _objects(values, lambda each: read(str(each)), column)

    return restore


def _arrow(values: pd.Series, column: Column) -> pd.Series:
    """Of pyarrow's type, made of the column of pandas' that brings the same values."""
    import pyarrow as pa

    dtype = pd.ArrowDtype(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(column["type"]))).field(0).type)
    made = restore_column(values, column["base"])
    if made.dtype != object:
        return made.astype(dtype)
    cells = [None if is_missing(each) else each for each in made]
    return pd.Series(pd.array(pa.array(cells, type=dtype.pyarrow_dtype), dtype=dtype), index=values.index)


def _bytes(values: pd.Series, column: Column) -> pd.Series:
    def make(each: Any) -> bytes:
        return base64.b64decode(each) if isinstance(each, str) else bytes(each)

    return _objects(values, make, column)


def to_python(value: Any) -> Any:
    """The value in Python's own types, however deep numpy's are in it."""
    if isinstance(value, np.ndarray):
        return [to_python(each) for each in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: to_python(each) for key, each in value.items()}
    return [to_python(each) for each in value] if isinstance(value, list | tuple) else value


RESTORERS: dict[str, Callable[[pd.Series, Column], pd.Series]] = {
    "plain": lambda values, _: values,
    "arrow": _arrow,
    "number": _number,
    "truth": _truth,
    "text": _text,
    "category": _category,
    "time": _time,
    "zoned": _zoned,
    "duration": _duration,
    "period": lambda values, column: values.astype(pd.api.types.pandas_dtype(column["dtype"])),
    "decimal": _of_text(decimal.Decimal),
    "date": _of_text(datetime.date.fromisoformat),
    "clock": _of_text(datetime.time.fromisoformat),
    "uuid": _of_text(uuid.UUID),
    "bytes": _bytes,
    "flag": lambda values, column: _objects(_truth(values, {**column, "dtype": "boolean"}), bool, column),
    "whole": lambda values, column: _objects(_number(values, {**column, "dtype": "Int64"}), int, column),
    "real": lambda values, column: _objects(values, float, column),
    "json": lambda values, column: _objects(values, to_python, column),
    "array": lambda values, column: _objects(values, lambda each: np.asarray(each, dtype=column["element"]), column),
}
