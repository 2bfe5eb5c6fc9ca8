"""Columns of pyarrow's types (``dtype_backend="pyarrow"``), which travel as the same values in pandas' own columns."""

from __future__ import annotations

import base64
from typing import Any

import pandas as pd


def is_arrow(dtype: Any) -> bool:
    """Whether it is pandas' type of a column that pyarrow holds, numbers and truth values aside: those pandas knows."""
    if not isinstance(dtype, pd.ArrowDtype):
        return False
    return not (pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype)) or is_decimal(dtype)


def is_decimal(dtype: pd.ArrowDtype) -> bool:
    """Whether its values are Decimals, which pandas counts among numbers."""
    import pyarrow as pa

    return bool(pa.types.is_decimal(dtype.pyarrow_dtype))


def find_base(dtype: pd.ArrowDtype) -> tuple[str, str] | None:
    """How the values travel (``as``), and pandas' type of the column that they travel in; None where they cannot."""
    import pyarrow as pa

    kind, of = dtype.pyarrow_dtype, pa.types
    if of.is_timestamp(kind):
        return ("time", f"datetime64[{kind.unit}]") if kind.tz is None else ("zoned", f"datetime64[{kind.unit}, UTC]")
    if of.is_duration(kind):
        return "duration", f"timedelta64[{kind.unit}]"
    if of.is_dictionary(kind):
        return ("text", "object") if _is_text(kind.value_type) else None
    if _is_text(kind):
        return "text", "object"
    checks = {
        "date": of.is_date,
        "clock": of.is_time,
        "decimal": of.is_decimal,
        "bytes": lambda each: of.is_binary(each) or of.is_large_binary(each) or of.is_fixed_size_binary(each),
        "json": _is_json,
    }
    return next(((name, "object") for name, check in checks.items() if check(kind)), None)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_json(kind: Any) -> bool:
    """Lists and structs, however deep, of what JSON has."""
    import pyarrow as pa

    of = pa.types
    if of.is_struct(kind):
        return all(_is_plain(kind.field(place).type) for place in range(kind.num_fields))
    return (of.is_list(kind) or of.is_large_list(kind)) and _is_plain(kind.value_type)


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    of = pa.types
    return bool(of.is_integer(kind) or of.is_float64(kind) or of.is_boolean(kind) or _is_text(kind) or _is_json(kind))


def to_base(values: pd.Series, base: str) -> pd.Series:
    """The column of pandas' type ``base`` with the same values."""
    if base != "object":
        return values.astype(base)
    objects = [None if each is pd.NA else each for each in values]
    return pd.Series(objects, index=values.index, dtype=object, name=values.name)


def write_type(dtype: pd.ArrowDtype) -> str:
    """pyarrow's type in a text that ``kbuild.served.columns`` reads: its own bytes, since few of its names are read."""
    import pyarrow as pa

    return base64.b64encode(pa.schema([("", dtype.pyarrow_dtype)]).serialize().to_pybytes()).decode()
