"""Nodes of the models of ``test_input_kinds``: they answer with all that can be told of what they were given."""

from __future__ import annotations

from typing import Any


def fit(*_: Any) -> float:
    return 2.0


def tell(given: Any, beside: Any) -> list[str]:
    """Types, labels and values, as texts that any JSON brings as they are."""
    return [*describe(given), repr(beside)]


def describe(value: Any) -> list[str]:
    named = [f"{type(value).__module__}.{type(value).__qualname__}"]
    if callable(value):  # a part of a partitioned dataset
        return describe(value())
    if isinstance(value, dict):
        return named + [f"{key!r}: {each}" for key in value for each in describe(value[key])]
    if isinstance(value, list):
        return named + [each for one in value for each in describe(one)]
    if named[0].startswith("polars."):
        return [
            *named,
            str(getattr(value, "schema", value)),
            *map(repr, value.rows() if hasattr(value, "rows") else []),
        ]
    if hasattr(value, "index") and hasattr(value, "iloc"):
        columns = value.items() if value.ndim > 1 else [(value.name, value)]
        # An index that counts rows is no part of a request.
        plain = value.index.dtype.kind == "i" and value.index.name is None
        labels = [] if plain else [repr(value.index), str(value.index.dtype)]
        labels += [] if value.ndim == 1 else [repr(value.columns), str(value.columns.dtype)]
        return [*named, *labels, *(f"{name!r} {column.dtype} {_cells(column)}" for name, column in columns)]
    return [*named, repr(value), str(getattr(value, "dtype", ""))]


def _cells(column: Any) -> list[str]:
    return [f"{type(cell).__name__} {cell!r}" for cell in column.tolist()]
