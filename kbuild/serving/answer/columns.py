"""Request data to a table, the way MLflow's parsing and schema enforcement end up, in one step.

Only what surely ends up the same is read here. Everything else raises Unusual, and MLflow reads it:
``mlflow.utils.proto_json_utils.dataframe_from_parsed_json`` and ``parse_tf_serving_input``, then
``mlflow.models.utils._enforce_schema``.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
import pandas as pd

Values = Sequence[Any]
Reader = Callable[[Values], Any]
FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")


class Unusual(Exception):
    """A request for MLflow's own path: perhaps wrong, perhaps only rare."""


class TableReader:
    """Reads tables of named columns; ``types`` are MLflow's type names by column, in the signature's order.

    ``optional`` are those of them that a request may leave out.
    """

    def __init__(self, types: Mapping[str, str], optional: Iterable[str] = ()) -> None:
        self.names = tuple(types)
        self._readers = {name: READERS[kind] for name, kind in types.items()}
        self._csv_types = {name: CSV_TYPES.get(kind) for name, kind in types.items()}
        self._required = {*types} - {*optional}
        # MLflow's tensor forms make numpy strings of text, which is another road with other turns.
        self._numbers_only = {*types.values()} <= _NUMBERS and len(self._required) == len(types)

    def read(self, kind: str, data: Any) -> pd.DataFrame:
        """The table in one of FORMATS; raises Unusual."""
        if kind == "dataframe_split":
            columns = self._split(data)
        elif kind == "dataframe_records":
            columns = self._records(data)
        elif not self._numbers_only:
            raise Unusual
        else:
            columns = self._records(data) if kind == "instances" else self._inputs(data)
        return self._make(columns)

    def read_columns(self, columns: Mapping[str, Values]) -> pd.DataFrame:
        """The table of values as JSON has them, as many in each column; raises Unusual."""
        if not self._required <= columns.keys() <= self._readers.keys() or not all(columns.values()):
            raise Unusual
        return self._make(columns)

    def _make(self, columns: Mapping[str, Values]) -> pd.DataFrame:
        return pd.DataFrame({name: read(columns[name]) for name, read in self._readers.items() if name in columns})

    def read_csv(self, text: TextIO) -> pd.DataFrame:
        """The table in CSV of exactly the signature's columns, in any order; raises Unusual, and pandas' errors."""
        # Not "None in": numpy calls its float64 equal to None.
        if any(kind is None for kind in self._csv_types.values()):
            raise Unusual
        # What ``mlflow.pyfunc.scoring_server.parse_csv_input`` asks for; every column then has its type already.
        table = pd.read_csv(text, dtype=self._csv_types)
        if len(table.columns) != len(self.names) or {*table.columns} != {*self.names}:
            raise Unusual
        # Rows longer than the header give the index of what comes first.
        if not isinstance(table.index, pd.RangeIndex):
            raise Unusual
        return pd.DataFrame({name: table[name] for name in self.names})

    def _split(self, data: Any) -> Mapping[str, Values]:
        if type(data) is not dict or data.keys() != {"columns", "data"}:
            raise Unusual
        names, rows = data["columns"], data["data"]
        if type(names) is not list or type(rows) is not list or not rows:
            raise Unusual
        if not all(type(row) is list for row in rows) or any(type(name) is not str for name in names):
            raise Unusual
        try:
            columns = dict(zip(names, zip(*rows, strict=True), strict=True))
        except ValueError as error:
            raise Unusual from error
        if len(columns) != len(names) or not self._required <= columns.keys() <= self._readers.keys():
            raise Unusual
        return columns

    def _records(self, data: Any) -> Mapping[str, Values]:
        if type(data) is not list or not data:
            raise Unusual
        first = data[0]
        if type(first) is not dict or not self._required <= first.keys() <= self._readers.keys():
            raise Unusual
        count = len(first)
        if not all(type(row) is dict and len(row) == count for row in data):
            raise Unusual
        try:
            return {name: [row[name] for row in data] for name in first}
        except KeyError as error:
            raise Unusual from error

    def _inputs(self, data: Any) -> Mapping[str, Values]:
        if type(data) is not dict or data.keys() != self._readers.keys():
            raise Unusual
        if not all(type(values) is list for values in data.values()) or len({*map(len, data.values())}) != 1:
            raise Unusual
        return data


def _array(values: Values, kinds: str) -> Any:
    if not values:
        raise Unusual
    try:
        array = np.array(values)
    except (ValueError, OverflowError) as error:
        raise Unusual from error
    if array.ndim != 1 or array.dtype.kind not in kinds or array.dtype.itemsize > 8:
        raise Unusual
    return array


def _read_double(values: Values) -> Any:
    try:
        return _array(values, "fi").astype(np.float64, copy=False)
    except Unusual:
        # null is NaN among numbers. numpy would also read "1.5" as a number.
        if not values or not {*map(type, values)} <= {float, type(None)}:
            raise
        return np.array(values, dtype=np.float64)


def _read_float(values: Values) -> Any:
    return _array(values, "f").astype(np.float32)


def _read_long(values: Values) -> Any:
    return _array(values, "i")


def _read_integer(values: Values) -> Any:
    array = _array(values, "i")
    # Larger ones come out in MLflow's way as something else, or as an error.
    if array.min() < -(2**31) or array.max() >= 2**31:
        raise Unusual
    return array.astype(np.int32)


def _read_boolean(values: Values) -> Any:
    return _array(values, "b")


def _read_string(values: Values) -> Any:
    if {*map(type, values)} != {str}:
        raise Unusual
    # By the version of pandas this infers what a table read from JSON infers.
    return pd.Series(values if type(values) is list else list(values))


def _read_datetime(values: Values) -> Any:
    parsed = pd.to_datetime(_read_string(values))
    # Moments with a time zone are refused by MLflow.
    if not isinstance(parsed.dtype, np.dtype) or parsed.dtype.kind != "M":
        raise Unusual
    return parsed.astype(np.dtype("datetime64[ns]"))


def _read_binary(values: Values) -> Any:
    if {*map(type, values)} != {str}:
        raise Unusual
    return pd.Series([base64.decodebytes(bytes(value, "utf8")) for value in values], dtype=object)


READERS: dict[str, Reader] = {
    "integer": _read_integer,
    "datetime": _read_datetime,
    "binary": _read_binary,
    "double": _read_double,
    "float": _read_float,
    "long": _read_long,
    "boolean": _read_boolean,
    "string": _read_string,
}
"""By the names of ``mlflow.types.DataType``; a signature with any other type is MLflow's own."""

_NUMBERS = {"double", "float", "long", "integer", "boolean"}

CSV_TYPES: dict[str, Any] = {
    "double": np.dtype("float64"),
    "float": np.dtype("float32"),
    "long": np.dtype("int64"),
    "boolean": np.dtype("bool"),
    "string": object,
}
"""``DataType.to_pandas()`` of those types that are read from CSV here."""
