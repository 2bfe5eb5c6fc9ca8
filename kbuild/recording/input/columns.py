"""Each column of a table: how MLflow can carry it, and what makes it again what it was (``kbuild.served.columns``)."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kbuild.errors import RecordingError
from kbuild.served.columns import EXACT_INTEGERS

# Types that MLflow's schema keeps as they are.
_KEPT = ("float64", "float32", "int64", "int32", "bool", "datetime64[ns]")
_OBJECTS: dict[type, str] = {
    decimal.Decimal: "decimal",
    datetime.date: "date",
    datetime.time: "clock",
    uuid.UUID: "uuid",
    bytes: "bytes",
    bool: "flag",
    int: "whole",
    float: "real",
}
_HINT = "let the first inference node make it of a column of text or numbers, and leave this one out of the input"


def describe_column(label: Any, wire: str, values: pd.Series) -> dict[str, Any]:
    """The description of a column that ``label`` names in training and ``wire`` in a request.

    Raises RecordingError naming the column where nothing can carry it.
    """
    dtype = values.dtype
    column: dict[str, Any] = {"wire": wire, "as": "plain", "dtype": str(dtype), "gaps": bool(values.isna().any())}
    if column["dtype"] in _KEPT or dtype == pd.Series(["a"]).dtype != object:
        return column
    if column["dtype"] == "object":
        return column | _describe_objects(label, values)
    if isinstance(dtype, pd.CategoricalDtype):
        return column | _describe_categories(label, dtype)
    for kind, is_kind in _KINDS.items():
        if is_kind(dtype):
            if kind == "number":
                _check_whole(label, values)
            return column | {"as": kind}
    raise _refuse(label, f"of the type {dtype}")


def _is_number(dtype: Any) -> bool:
    return bool(pd.api.types.is_integer_dtype(dtype) or pd.api.types.is_float_dtype(dtype))


_KINDS: dict[str, Callable[[Any], bool]] = {
    "zoned": lambda dtype: isinstance(dtype, pd.DatetimeTZDtype),
    "period": lambda dtype: isinstance(dtype, pd.PeriodDtype),
    "truth": lambda dtype: not isinstance(dtype, pd.SparseDtype) and pd.api.types.is_bool_dtype(dtype),
    "number": lambda dtype: not isinstance(dtype, pd.SparseDtype) and _is_number(dtype),
    "duration": lambda dtype: isinstance(dtype, np.dtype) and dtype.kind == "m",
    "time": lambda dtype: isinstance(dtype, np.dtype) and dtype.kind == "M",
    "text": lambda dtype: isinstance(dtype, pd.StringDtype),
}


def _check_whole(label: Any, values: pd.Series) -> None:
    if not pd.api.types.is_integer_dtype(values.dtype) or not len(values):
        return
    known = values.dropna()
    largest = max((abs(int(each)) for each in (known.min(), known.max())), default=0) if len(known) else 0
    limit = EXACT_INTEGERS if len(known) < len(values) else 2**63
    if largest >= limit:
        gaps = " beside missing values" if limit == EXACT_INTEGERS else ""
        raise _refuse(label, f"with the whole number {largest}{gaps}, which JSON's numbers cannot carry here")


def _describe_categories(label: Any, dtype: pd.CategoricalDtype) -> dict[str, Any]:
    known = dtype.categories.tolist()
    types = {type(each) for each in known}
    if not types <= {str} and not types <= {int} and not types <= {float} and not types <= {bool}:
        raise _refuse(label, f"of categories that are {_names(types)}")
    return {
        "as": "category",
        "categories": known,
        "categories_dtype": str(dtype.categories.dtype),
        "ordered": bool(dtype.ordered),
    }


def _describe_objects(label: Any, values: pd.Series) -> dict[str, Any]:
    known = values[values.notna()]
    none = any(each is None for each in values)
    types = {type(each) for each in known}
    if not types or types == {str}:
        return {"as": "text", "none": none}
    if types <= {list, dict}:
        return {"as": "json", "none": none}
    if types == {np.ndarray}:
        elements = {str(each.dtype) for each in known}
        if len(elements) == 1 and next(iter(known)).dtype.kind in "fiub":
            return {"as": "array", "none": none, "element": elements.pop()}
    if len(types) == 1 and (kind := _OBJECTS.get(next(iter(types)))):
        if kind == "whole":
            _check_whole(label, pd.Series(pd.array([None if each is None else each for each in values], dtype="Int64")))
        return {"as": kind, "none": none}
    raise _refuse(label, f"of Python objects ({_names(types)})")


def _names(types: set[type]) -> str:
    return ", ".join(sorted(each.__name__ for each in types))


def _refuse(label: Any, what: str) -> RecordingError:
    return RecordingError(f"no request can bring the input's column {label!r}, {what}", hint=_HINT)


def carry_column(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    """The column as a request brings it."""
    carry = _CARRIERS.get(column["as"])
    return values if carry is None else carry(values, column)


def carries_any(column: dict[str, Any]) -> bool:
    """Whether MLflow has no type for it: truth values with gaps."""
    return column["gaps"] and (
        column["as"] in ("truth", "flag") or (column["as"] == "category" and bool in map(type, column["categories"]))
    )


def _number(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    if pd.api.types.is_float_dtype(values.dtype):
        wide = values.dtype.itemsize > 4 or not isinstance(values.dtype, np.dtype)
        return values.astype("float64" if wide else "float32")
    if column["gaps"]:
        return values.astype("Float64").astype("float64")
    narrow = isinstance(values.dtype, np.dtype) and np.can_cast(values.dtype, np.int32)
    return values.astype("int32" if narrow else "int64")


def _truth(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    if not column["gaps"]:
        return values.astype(bool)
    return _texts(values, bool)


def _texts(values: pd.Series, write: Callable[[Any], Any]) -> pd.Series:
    made = np.empty(len(values), dtype=object)
    for place, (each, absent) in enumerate(zip(values, values.isna(), strict=True)):
        made[place] = None if absent else write(each)
    return pd.Series(made, index=values.index, dtype=object)


def _category(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    objects = values.astype(object)
    if carries_any(column):
        return objects.where(objects.notna(), None)
    return objects.infer_objects()


def _whole(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    return values.astype("float64" if column["gaps"] else "int64")


_CARRIERS: dict[str, Callable[[pd.Series, dict[str, Any]], pd.Series]] = {
    "number": _number,
    "truth": _truth,
    "flag": _truth,
    "whole": _whole,
    "real": lambda values, _: values.astype("float64"),
    "category": _category,
    "zoned": lambda values, _: _texts(values, lambda each: each.isoformat()),
    "duration": lambda values, _: _texts(values, lambda each: each.isoformat()),
    "period": lambda values, _: _texts(values, str),
    "decimal": lambda values, _: _texts(values, str),
    "date": lambda values, _: _texts(values, lambda each: each.isoformat()),
    "clock": lambda values, _: _texts(values, lambda each: each.isoformat()),
    "uuid": lambda values, _: _texts(values, str),
    "text": lambda values, _: values.astype(object).where(values.notna(), None),
}
