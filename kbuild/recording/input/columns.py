"""Each column of a table: how MLflow can carry it, and what makes it again what it was (``kbuild.served.columns``)."""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from kbuild.errors import RecordingError
from kbuild.recording.input.arrow import find_base, is_arrow, to_base, write_type
from kbuild.scoring.columns import WRITERS
from kbuild.served.columns import EXACT_INTEGERS, MISSING

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
    if column["dtype"] in _KEPT:
        return column
    if column["dtype"] == "object":
        return column | _describe_objects(label, values)
    if isinstance(dtype, pd.CategoricalDtype):
        return column | _describe_categories(label, dtype)
    if is_arrow(dtype):
        return column | _describe_arrow(label, values, wire)
    for kind, is_kind in _KINDS.items():
        if is_kind(dtype):
            if kind == "number":
                _check_whole(label, values)
            note = _KEPT_BY.get(kind)
            return column | {"as": kind} | (note(label, values) if note else {})
    raise _refuse(label, f"of the type {dtype}")


def _describe_arrow(label: Any, values: pd.Series, wire: str) -> dict[str, Any]:
    """``base`` describes the column that brings the same values."""
    found = find_base(values.dtype)
    if found is None:
        raise _refuse(label, f"of pyarrow's type {values.dtype.pyarrow_dtype}")
    kind, dtype = found
    base = {"wire": wire, "as": kind, "dtype": dtype, "gaps": bool(values.isna().any()), "none": True}
    return {"as": "arrow", "type": write_type(values.dtype), "base": base}


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


def _note_nan(label: Any, values: pd.Series) -> dict[str, Any]:
    """Whether null stands for NaN, which pyarrow's columns keep apart from missing values."""
    if not isinstance(values.dtype, pd.ArrowDtype) or not pd.api.types.is_float_dtype(values.dtype):
        return {}
    nan = bool((values.dropna() != values.dropna()).any())
    return note_nan(label, nan=nan, null=bool(values.isna().any()))


def note_nan(label: Any, *, nan: bool, null: bool) -> dict[str, Any]:
    """The same of a column that has NaN, null; raises RecordingError for one that has both."""
    if nan and null:
        raise RecordingError(
            f"no request can bring the input's column {label!r}, whose missing values are NaN and null: both come as "
            "null",
            hint="let the catalog, or the node that makes it, have one of them: polars' fill_nan(None), or "
            "where(data == data, None) with pandas",
        )
    return {"nan": True} if nan else {}


def _note_storage(label: Any, values: pd.Series) -> dict[str, Any]:
    """Where the type's name means another one: pandas has texts of pyarrow's and of Python's under one name."""
    kind = values.dtype
    if pd.api.types.pandas_dtype(str(kind)) == kind:
        return {}
    return {"storage": kind.storage, "na": "NaN" if kind.na_value is not pd.NA else "NA"}


_KEPT_BY: dict[str, Callable[[Any, pd.Series], dict[str, Any]]] = {"number": _note_nan, "text": _note_storage}


def _check_whole(label: Any, values: pd.Series) -> None:
    if not pd.api.types.is_integer_dtype(values.dtype) or not len(values):
        return
    known = values.dropna()
    _check_integers(label, [int(known.min()), int(known.max())] if len(known) else [], len(known) < len(values))


def _check_integers(label: Any, known: list[int], gaps: bool) -> None:
    lowest, highest = (1 - EXACT_INTEGERS, EXACT_INTEGERS - 1) if gaps else (-(2**63), 2**63 - 1)
    wrong = next((each for each in known if not lowest <= each <= highest), None)
    if wrong is not None:
        beside = " beside missing values" if gaps else ""
        raise _refuse(label, f"with the whole number {wrong}{beside}, which JSON's numbers cannot carry here")


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
    absent = values.isna()
    known = values[~absent]
    gaps = _describe_gaps(label, values[absent])
    types = {type(each) for each in known}
    if not types or types == {str}:
        return {"as": "text", **gaps}
    if types <= {list, dict}:
        for each in known:
            _check_cell(label, each)
        return {"as": "json", **gaps}
    if types == {np.ndarray}:
        elements = {str(each.dtype) for each in known}
        if len(elements) == 1 and next(iter(known)).dtype.kind in "fiub":
            return {"as": "array", **gaps, "element": elements.pop()}
    if len(types) == 1 and (kind := _OBJECTS.get(next(iter(types)))):
        if kind == "whole":
            _check_integers(label, list(known), bool(absent.any()))
        if kind == "clock" and (told := _untold(known)):
            raise _refuse(label, f"of times whose text does not tell their {told}")
        return {"as": kind, **gaps}
    raise _refuse(label, f"of Python objects ({_names(types)})")


def _untold(times: Iterable[datetime.time]) -> str | None:
    """What ISO 8601 cannot say of a time of day: a zone whose offset depends on the day, and which of two hours it is.

    Python takes such a time for equal to the one without.
    """
    for each in times:
        if each.tzinfo is not None and each.utcoffset() is None:
            return "zone"
        if each.fold:
            return "fold"
    return None


def _describe_gaps(label: Any, missing: pd.Series) -> dict[str, Any]:
    """What stands for a missing value: all come as null, so there can be one alone."""
    kinds = {_name_missing(each) for each in missing}
    if len(kinds) > 1:
        told = " and ".join(sorted(kinds))
        raise RecordingError(
            f"no request can bring the input's column {label!r}, whose missing values are {told}: both come as null",
            hint="let the catalog, or the node that makes it, have one of them: "
            f"data[{label!r}] = data[{label!r}].where(data[{label!r}].notna(), None)",
        )
    return {"none": kinds == {"None"}} | ({"missing": kinds.pop()} if kinds & MISSING.keys() else {})


def _name_missing(value: Any) -> str:
    named = {"NoneType": "None", "NAType": "NA", "NaTType": "NaT", "float": "NaN"}
    return named.get(type(value).__name__, f"{type(value).__name__} of NaN")


def _check_cell(label: Any, value: Any) -> None:
    if type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise _refuse(label, f"of dicts with the key {key!r}, which is not text")
            _check_cell(label, each)
    elif type(value) is list:
        for each in value:
            _check_cell(label, each)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise _refuse(label, f"of lists or dicts that hold values of the type {type(value).__name__}")


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
    column = column.get("base", column)
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


def _writing(write: Callable[[Any], Any]) -> Callable[[pd.Series, dict[str, Any]], pd.Series]:
    return lambda values, _: _texts(values, write)


def _category(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    objects = values.astype(object)
    if carries_any(column):
        return objects.where(objects.notna(), None)
    return objects.infer_objects()


def _whole(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    return _real(values, column) if column["gaps"] else values.astype("int64")


def _real(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    return values.astype(object).where(values.notna(), float("nan")).astype("float64")


def _arrow(values: pd.Series, column: dict[str, Any]) -> pd.Series:
    return carry_column(to_base(values, column["base"]["dtype"]), column["base"])


_CARRIERS: dict[str, Callable[[pd.Series, dict[str, Any]], pd.Series]] = {
    "arrow": _arrow,
    "number": _number,
    "truth": _truth,
    "flag": _truth,
    "whole": _whole,
    "real": _real,
    "category": _category,
    **{kind: _writing(write) for kind, write in WRITERS.items()},
    "bytes": lambda values, column: _texts(values, WRITERS["bytes"]) if column["gaps"] else values,
    "text": lambda values, _: values.astype(object).where(values.notna(), None),
}
