"""Columns of a table with the types that the signature says, where no bit is lost by that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "boolean": "bool"}
_EXACT_IN_A_DOUBLE = 2**53


def cast_column(column: Any, kind: str) -> Any:
    """The column with the type that MLflow's name says, where that is exact; else as it is, for MLflow to judge."""
    values = column.dtype
    if not isinstance(values, np.dtype):
        if isinstance(values, pd.CategoricalDtype) and kind == "string":
            return column.astype(column.cat.categories.dtype)
        return _of_numpy(column, kind)
    whole = values.kind in "iu" and len(column)
    if kind == "double" and whole and max(abs(int(column.min())), abs(int(column.max()))) <= _EXACT_IN_A_DOUBLE:
        return column.astype(np.float64)
    if kind in ("double", "float") and values.kind == "f":
        return column.astype(_DTYPES[kind])
    if kind in ("long", "integer") and whole:
        limits = np.iinfo(_DTYPES[kind])
        return column.astype(limits.dtype) if limits.min <= column.min() and column.max() <= limits.max else column
    if values.kind == "O" and kind in ("long", "integer") and {*map(type, column)} == {int}:
        # Integers of a column in which others were missing.
        return cast_column(pd.Series([*column], index=column.index), kind)
    if kind in ("long", "integer", "boolean") and values.kind in "fO" and not column.isna().any():
        # The same of floats and truth values.
        made = column.astype(_DTYPES[kind]) if kind == "boolean" or values.kind == "f" else column
        types = {*map(type, column)} if values.kind == "O" else {bool}
        return made if types <= {bool, np.bool_} and (values.kind == "O" or (made == column).all()) else column
    if kind == "datetime" and values.kind == "M":
        return column.astype("datetime64[ns]")
    return column


def _of_numpy(column: Any, kind: str) -> Any:
    """Numbers and truth values of pandas' nullable types and of Arrow's as a request has them: nothing is NaN."""
    values = column.dtype
    if getattr(values, "numpy_dtype", None) is None or values.kind not in "iufb":
        return column
    there = column.dropna()
    if len(there) == len(column):
        return cast_column(pd.Series(column.to_numpy(dtype=values.numpy_dtype), index=column.index), kind)
    exact = values.kind not in "iu" or not len(there) or max(map(abs, map(int, there))) <= _EXACT_IN_A_DOUBLE
    if kind not in ("double", "float") or values.kind == "b" or not exact:
        return column
    return cast_column(pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index), kind)


def is_of(column: Any, kind: str) -> bool:
    """Whether the column has the very type that a request's has."""
    if kind in _DTYPES:
        return isinstance(column.dtype, np.dtype) and column.dtype == np.dtype(_DTYPES[kind])
    if kind == "string":
        # By the version of pandas this is what a text of a request becomes.
        return column.dtype == pd.Series(["text"]).dtype and bool(column.map(type).eq(str).all())
    return kind == "datetime" and column.dtype == np.dtype("datetime64[ns]")
