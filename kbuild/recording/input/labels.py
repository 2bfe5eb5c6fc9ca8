"""The labels of a table's rows and columns: which of them say something, and what they are named in a request; and
what else of an input is in none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kbuild.errors import RecordingError


def find_levels(table: pd.DataFrame) -> dict[Any, pd.Series]:
    """The levels of an index that says something of its rows: any but unnamed whole numbers, which count them."""
    index = table.index
    if isinstance(index, pd.MultiIndex):
        return {
            index.names[place] if index.names[place] is not None else f"level_{place}": pd.Series(
                index.get_level_values(place).to_series().array
            )
            for place in range(index.nlevels)
        }
    if index.name is None and pd.api.types.is_integer_dtype(index.dtype):
        return {}
    return {index.name if index.name is not None else "index": pd.Series(index.array)}


def name_columns(labels: list[Any]) -> list[str]:
    """A text for each label, no two the same, none empty: MLflow has no other names."""
    names: list[str] = []
    for place, label in enumerate(labels):
        text = ".".join(map(str, label)) if isinstance(label, tuple) else str(label)
        first = text = text or f"column_{place}"
        number = 0
        while text in names:
            number += 1
            text = f"{first}.{number}"
        names.append(text)
    return names


def note_label_type(columns: pd.Index) -> dict[str, Any]:
    """The labels' type where they do not tell it: categories, numbers of fewer bytes."""
    told = isinstance(columns, pd.MultiIndex) or columns.dtype == object or isinstance(columns.dtype, pd.StringDtype)
    return {} if told or pd.Index(columns.tolist()).dtype == columns.dtype else {"label_type": columns.dtype}


def note_frequencies(table: pd.DataFrame) -> dict[str, str]:
    """What the rows' and the columns' times follow one another by, of those that know it: values do not tell."""
    named = {"frequency": ("index", table.index), "label_frequency": ("columns", table.columns)}
    frequencies = {key: (where, getattr(index, "freq", None)) for key, (where, index) in named.items()}
    noted = {}
    for key, (where, frequency) in frequencies.items():
        # A period's is in its type.
        if frequency is None or isinstance(named[key][1], pd.PeriodIndex):
            continue
        noted[key] = frequency.freqstr
        if _read_frequency(noted[key]) != frequency:
            raise RecordingError(
                f"no request can bring the frequency of the input's {where}, {frequency!r}: it has no name",
                hint=f"let the first inference node set it (data.{where}.freq = …), and give it {where} without one: "
                f"data.{where}.freq = None",
            )
    return noted


def tell_lost(data: Any, name: str | None = None) -> tuple[str, ...]:
    """What values of this kind come without when they are served, and how they come instead; a line each."""
    if isinstance(data, Mapping):
        return tuple(line for key, each in data.items() for line in tell_lost(each, str(key)))
    whose = "The input's" if name is None else f"Of the input {name!r} the"
    what = "The input" if name is None else f"The input {name!r}"
    if isinstance(data, np.generic):
        return (f"{what}, a {type(data).__name__} of NumPy, is served as Python's {type(data.item()).__name__}",)
    if isinstance(data, np.ndarray) and data.dtype.kind == "U":
        wide = "is served in an array as wide as the longest text of each request"
        return (f"{what}, texts of the type {data.dtype}, {wide}",)
    if not isinstance(data, pd.DataFrame | pd.Series):
        return ()
    told = []
    if data.attrs:
        attrs = ", ".join(map(str, data.attrs))
        told.append(f"{whose} attrs ({attrs}) are in no request: make what nodes need of them a parameter or a column")
    if not find_levels(data if isinstance(data, pd.DataFrame) else data.to_frame()) and not _counts(data.index):
        told.append(
            f"{whose} row numbers, from {data.index[0]}, are in no request, whose rows are counted from 0: if nodes "
            "use them, give the index a name (data.index.name = 'row'), or make it a column"
        )
    return tuple(told)


def _counts(index: pd.Index) -> bool:
    """Whether its numbers are those of the rows, from 0."""
    return bool((index == np.arange(len(index))).all())


def _read_frequency(name: str) -> Any:
    try:
        return pd.tseries.frequencies.to_offset(name)
    except ValueError:
        return None
