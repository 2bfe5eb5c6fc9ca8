"""Answers of polars and pyarrow made pandas': MLflow's scoring server knows no other tables."""

from __future__ import annotations

from typing import Any

import pandas as pd


def to_pandas(value: Any) -> Any:
    """A table or column of polars or pyarrow as one of pandas, each value the one that it is in Python; others as is.

    A null stays one, and numbers beside it the numbers they are: pandas would make both floats.
    """
    library = type(value).__module__.partition(".")[0]
    if library == "polars":
        return _of_polars(value)
    return _of_arrow(value) if library == "pyarrow" else value


def _of_polars(value: Any) -> Any:
    import polars

    if isinstance(value, polars.LazyFrame):
        value = value.collect()
    if isinstance(value, polars.DataFrame):
        return _table(value.columns, value.get_columns(), value.height)
    return _column(value).rename(value.name or None) if isinstance(value, polars.Series) else value


def _of_arrow(value: Any) -> Any:
    import pyarrow

    if isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
        return _table(value.schema.names, value.columns, value.num_rows)
    return _column(value) if isinstance(value, pyarrow.Array | pyarrow.ChunkedArray) else value


def _table(names: list[str], columns: list[Any], rows: int) -> pd.DataFrame:
    table = pd.DataFrame(dict(enumerate(map(_column, columns))), index=range(rows))
    table.columns = pd.Index(names, dtype=object)  # by place: pyarrow's names may be the same
    return table


def _column(column: Any) -> pd.Series:
    values = column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()
    return pd.Series(values, dtype=object if None in values else None)
