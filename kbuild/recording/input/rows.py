"""The rows of an input that can be an example: what MLflow writes of them, MLflow has to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from kbuild.recording.input.arrow import find_base, is_arrow, to_base
from kbuild.recording.input.labels import find_levels
from kbuild.recording.input.polars import is_polars, to_frame, to_pandas

_MOST_TIMES_MORE = 6


def take_first(data: Any, rows: int) -> Any:
    """The first rows of a table or series whose times MLflow reads together.

    It takes the form of a column's texts from the first of them, and ``isoformat`` leaves out a fraction of a second
    that is 0: so the times of a column have one in each of these rows, or in none.
    """
    head = data.head(rows)
    if not find_uneven(head):
        return head
    even = np.logical_and.reduce([_is_like_first(values) for _, values in _times(data)])
    if is_polars(data):
        made = data.filter(even.tolist()).head(rows)
    else:
        made = data[even].head(rows)
        made = made.reset_index(drop=True) if isinstance(data.index, pd.RangeIndex) else made
    return made if len(made) else data.head(1)


def grow_counts(data: Any, rows: int) -> list[int]:
    """How many rows to try for an example, the least first: the next is for a pipeline that needs more than those.

    Each is three times the one before, as long as the input has so many and up to 729 times ``rows``; the last is all
    that it has, where that is less.
    """
    tables = list(data.values()) if isinstance(data, dict) else [data]
    whole = max((len(each) for each in tables if _has_rows(each)), default=0)
    counts = [rows]
    while counts[-1] < whole and len(counts) <= _MOST_TIMES_MORE:
        counts.append(min(counts[-1] * 3, whole))
    return counts


def tell_more(rows: int, count: int) -> str:
    """That the example has more rows than were asked for, and why."""
    return (
        f"The inference pipeline fails on the first {rows} rows of its input, or answers them with nothing, so the "
        f"model's example has {count:,}: requests, too, need as many as it looks back over"
    )


def _has_rows(value: Any) -> bool:
    return isinstance(value, pd.DataFrame | pd.Series | list) or bool(getattr(value, "shape", None))


def find_uneven(data: Any) -> list[str]:
    """The columns of times of which some have a fraction of a second, and some have none."""
    return [name for name, values in _times(data) if not _is_like_first(values).all()]


def tell_times(data: Any) -> tuple[str, ...]:
    """How requests have to write such times."""
    uneven = find_uneven(data) if isinstance(data, pd.DataFrame | pd.Series) or is_polars(data) else []
    if not uneven:
        return ()
    return (
        f"Some times of {', '.join(map(repr, uneven))} have a fraction of a second and some have none, and MLflow "
        "reads the texts of a request in one form: write all of them with one, as 2024-01-31T12:00:01.000",
    )


def _is_like_first(values: pd.Series) -> np.ndarray:
    """Of each row whether its time has a fraction where the first one has; a missing time is like any."""
    known = values.dropna()
    broken = known != known.dt.floor("s")
    like = pd.Series(data=True, index=range(len(values)))
    like[values.notna().to_numpy()] = (broken == broken.iloc[0]).to_numpy() if len(known) else True
    return np.asarray(like, dtype=bool)


def _times(data: Any) -> Iterator[tuple[str, pd.Series]]:
    """Columns and levels of the index that hold times without a zone, which alone MLflow brings as such."""
    if is_polars(data):
        data = to_pandas(to_frame(data))
    table = data.to_frame() if isinstance(data, pd.Series) else data
    columns = ((table.columns[place], table.iloc[:, place]) for place in range(table.shape[1]))
    for name, values in (*find_levels(table).items(), *columns):
        if is_arrow(values.dtype) and (base := find_base(values.dtype)) is not None and base[0] == "time":
            values = to_base(values, base[1])
        if isinstance(values.dtype, np.dtype) and values.dtype.kind == "M":
            yield str(name), values
