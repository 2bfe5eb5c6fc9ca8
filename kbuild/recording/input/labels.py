"""The labels of a table's rows and columns: which of them say something, and what they are named in a request."""

from __future__ import annotations

from typing import Any

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


def _read_frequency(name: str) -> Any:
    try:
        return pd.tseries.frequencies.to_offset(name)
    except ValueError:
        return None
