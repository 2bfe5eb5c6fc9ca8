"""Columns of a table with the types that the signature says, where no bit is lost by that; tensors made of columns."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kbuild.scoring.errors import InputRefused

_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "boolean": "bool"}
_EXACT_IN_A_DOUBLE = 2**53


WRITERS: dict[str, Callable[[Any], str]] = {
    "zoned": lambda value: str(value.isoformat()),
    "duration": lambda value: str(value.isoformat()),
    "period": str,
    "decimal": str,
    "date": lambda value: str(value.isoformat()),
    "clock": lambda value: str(value.isoformat()),
    "uuid": str,
    "bytes": lambda value: base64.b64encode(value).decode(),
}
"""How a request writes a value of those kinds of ``kbuild.served.columns`` that it brings as text."""


def find_writers(form: Mapping[str, Any] | None) -> dict[str, Callable[[Any], str]]:
    """How a request writes the columns that a model's form makes of texts, by their names."""
    table = (form or {}).get("table") or form or {}
    columns = [*table.get("index", ()), *table.get("columns", ())] if table.get("kind") in ("table", "series") else []
    kinds = {each["wire"]: each.get("base", each)["as"] for each in columns}
    return {name: WRITERS[kind] for name, kind in kinds.items() if kind in WRITERS}


def as_request(column: Any, kind: str, write: Callable[[Any], str] | None) -> Any:
    """The column as a request has it, by MLflow's name of its type. Raises ValueError for what no request brings."""
    if kind == "datetime" and isinstance(column.dtype, pd.DatetimeTZDtype):
        raise ValueError(f"{column.name} has times of the zone {column.dt.tz}, and the model takes times without one")
    if kind != "string" or isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype):
        return column
    there = column.notna()
    if write is not None:
        pairs = zip(column, there, strict=True)
        texts = [(each if isinstance(each, str) else write(each)) if known else None for each, known in pairs]
        return pd.Series(texts, index=column.index, name=column.name)
    other = (
        next((each for each in column[there] if not isinstance(each, str)), None) if column.dtype == object else None
    )
    if other is not None:
        raise ValueError(f"{column.name} has a value of the type {type(other).__name__}, the model takes text")
    return column


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


def choose_listed(frame: Any, inputs: Sequence[dict[str, Any]]) -> Any:
    """The column of a model that takes a list, which has no name: the only one of its type. Raises InputRefused."""
    if len(inputs) != 1 or inputs[0].get("name") or len(frame.columns) < 2:
        return frame
    kind = str(inputs[0].get("type"))
    names = [name for name in frame.columns if is_of(cast_column(frame[name].dropna(), kind), kind)]
    if len(names) != 1:
        raise InputRefused(
            f"the model takes one column of the type {kind}, and the table has {len(names) or 'none'}",
            hint=f"it has {', '.join(map(str, frame.columns))}; write a table of that one alone",
        )
    return frame[names]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """An input of the signature (MLflow's ``TensorSpec``): -1 in ``shape`` is any length, its first is that of rows."""

    name: str | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def all_of(cls, inputs: Sequence[dict[str, Any]]) -> list[Tensor]:
        """Those of a signature's inputs, as MLflow writes them."""
        specs = [(each.get("name"), each["tensor-spec"]) for each in inputs if each.get("type") == "tensor"]
        return [cls(name=name, dtype=np.dtype(spec["dtype"]), shape=tuple(spec["shape"])) for name, spec in specs]

    def columns_of(self, frame: Any) -> list[Any]:
        """The columns of a table that are the tensor. Raises InputRefused for one that has none."""
        if self.name is not None:
            return [self.name]
        if len(self.shape) == 1 and len(frame.columns) == 1:
            return list(frame.columns)
        lists = [name for name in frame.columns if _has_lists(frame[name])]
        # Where all of them are missing nothing else tells.
        lists = lists or [name for name in frame.columns if frame[name].dtype == object and frame[name].isna().all()]
        if len(lists) == 1:
            return lists
        numbers = [name for name, dtype in frame.dtypes.items() if dtype.kind in "iufb"]
        wanted = {1: 1, 2: self.shape[-1]}.get(len(self.shape), 0)
        if not lists and numbers and (len(numbers) == wanted or (wanted == -1 and len(numbers) == len(frame.columns))):
            return numbers
        names = [str(name) for name in lists or frame.columns]
        ways = [f"one column of lists of the shape {self.shape[1:]}"] if len(self.shape) > 1 else []
        ways += (
            [f"{wanted} column{'s' * (wanted > 1)} of {'texts' if self.dtype.kind == 'U' else 'numbers'}"]
            if wanted > 0
            else []
        )
        raise InputRefused(
            f"{' and '.join(names)} are both columns of lists"
            if len(lists) == 2
            else f"the table has no column that is the model's tensor: it has {', '.join(names)}",
            hint=f"the model takes {', or '.join(ways)}; write a table of these alone",
        )

    def of_table(self, frame: Any) -> Any:
        """The tensor of so many rows, of a table of its columns alone. Raises ValueError for other values."""
        if self.name is None and len(frame.columns) > 1:
            return self._cast(frame.to_numpy(), "the table")
        return self._of_column(frame[frame.columns[0] if self.name is None else self.name])

    def _of_column(self, column: Any) -> Any:
        if len(self.shape) == 1 or (len(self.shape) == 2 and self.shape[1] == 1 and column.dtype != object):
            return self._cast(column.to_numpy(), str(column.name)).reshape((-1, *self.shape[1:]))
        return self._cast(np.stack([self._cell(value, column.name) for value in column]), str(column.name))

    def _cell(self, value: Any, name: Any) -> Any:
        if not isinstance(value, np.ndarray | list):
            raise ValueError(f"{name} is missing" if pd.isna(value) else f"{name} is not a list")
        cell = _whole(value)
        shape = self.shape[1:]
        # Arrow's tensors come flat: what is as long as the shape is of that shape.
        if cell.ndim == 1 and len(shape) > 1 and -1 not in shape and cell.size == math.prod(shape):
            cell = cell.reshape(shape)
        if len(shape) != cell.ndim or any(
            size not in (-1, there) for size, there in zip(shape, cell.shape, strict=True)
        ):
            raise ValueError(f"{name} has {cell.size} values of the shape {cell.shape}, the model takes {shape}")
        return cell

    def _cast(self, values: Any, name: str) -> Any:
        if self.dtype.kind == "U" and all(isinstance(each, str) for each in values.flat):
            return values.astype(str)
        if self.dtype.kind in "iu" and values.dtype.kind in "iu":
            room = np.iinfo(self.dtype)
            for value in (int(values.min()), int(values.max())) if values.size else ():
                if not room.min <= value <= room.max:
                    raise ValueError(f"{name} has {value}, which {self.dtype} has not")
        elif not np.can_cast(values.dtype, self.dtype, casting="same_kind"):
            raise ValueError(f"{name} is of the type {values.dtype}, the model takes {self.dtype}")
        return values.astype(self.dtype)


def _has_lists(column: Any) -> bool:
    return column.dtype == object and any(isinstance(value, np.ndarray | list) for value in column)


def _whole(value: Any) -> Any:
    """The array of a list of lists: pandas has one of arrays."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value
    return np.array([_whole(each) if isinstance(each, np.ndarray | list) else each for each in value])
