"""Tables of polars, which travel as tables of pandas; polars itself is never imported here."""

from __future__ import annotations

from typing import Any

import pandas as pd

from kbuild.errors import RecordingError
from kbuild.recording.input.columns import note_nan

# Of types without arguments, those whose values have a type in pandas.
_CARRIED = (
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"),
    *("Boolean", "String", "Categorical", "Date", "Time"),
)


def is_polars(data: Any) -> bool:
    """Whether it is a DataFrame or Series of polars."""
    kind = type(data)
    return kind.__module__.partition(".")[0] == "polars" and kind.__name__ in ("DataFrame", "Series")


def to_frame(data: Any) -> Any:
    """The table, or the Series as a table of one column."""
    return data.to_frame() if type(data).__name__ == "Series" else data


def describe_schema(frame: Any) -> dict[str, Any]:
    """Each column's type in plain values; raises RecordingError naming a column that no request can bring."""
    schema = {}
    for name, kind in frame.schema.items():
        named = type(kind).__name__
        arguments: dict[str, Any] = {}
        if named == "Datetime":
            arguments = {"time_unit": kind.time_unit, "time_zone": kind.time_zone}
        elif named == "Duration":
            arguments = {"time_unit": kind.time_unit}
        elif named == "Decimal":
            arguments = {"precision": kind.precision, "scale": kind.scale}
        elif named == "Enum":
            arguments = {"categories": kind.categories.to_list()}
        elif kind.is_nested() or named not in _CARRIED:
            raise RecordingError(
                f"no request can bring the input's column {name!r}, of polars' type {kind}",
                hint="let the first inference node make it of columns of text or numbers",
            )
        schema[name] = {"name": named, "arguments": arguments}
        if kind.is_float():
            values = frame[name]
            schema[name] |= note_nan(name, nan=bool(values.is_nan().any()), null=values.null_count() > 0)
    return schema


def to_pandas(frame: Any) -> pd.DataFrame:
    """The same values in columns of pandas that keep which are missing."""
    made = {}
    for name in frame.columns:
        values, kind = frame[name].to_list(), type(frame.schema[name]).__name__
        if kind.startswith(("Int", "UInt")) and kind in _CARRIED:
            made[name] = pd.Series(pd.array(values, dtype=kind))
        elif kind.startswith("Float"):
            made[name] = pd.Series(values, dtype="float64")
        elif kind == "Boolean":
            made[name] = pd.Series(pd.array(values, dtype="boolean"))
        elif kind == "Datetime":
            zone = frame.schema[name].time_zone
            made[name] = pd.Series(pd.to_datetime(pd.Series(values, dtype=object), utc=zone is not None)).dt.as_unit(
                "us"
            )
            if zone is not None:
                made[name] = made[name].dt.tz_convert(zone)
        elif kind == "Duration":
            made[name] = pd.Series(pd.to_timedelta(pd.Series(values, dtype=object))).dt.as_unit("us")
        else:
            made[name] = pd.Series(values, dtype=object)
    return pd.DataFrame(made)
