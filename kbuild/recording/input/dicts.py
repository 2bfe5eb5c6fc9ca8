"""Dicts as an input: as a table where MLflow has no type for them, and the few that stand for many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

_MOST_WITNESSES = 200


def find_names(carried: Any) -> list[str]:
    """The keys of all the dicts, in the order in which they come."""
    return list(dict.fromkeys(name for row in (carried if isinstance(carried, list) else [carried]) for name in row))


def find_witnesses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of many dicts one for each choice of keys and types among them, which any of the others is like."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(_shape(row), row)
        if len(found) == _MOST_WITNESSES:
            break
    return list(found.values())


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return frozenset((key, _shape(each)) for key, each in value.items())
    return (list, frozenset(map(_shape, value))) if isinstance(value, list) else type(value)


def carry_rows(carried: Any, names: list[str]) -> pd.DataFrame:
    """Dicts as a table of Python values, each column of which MLflow leaves alone where it is of type Any."""
    rows = carried if isinstance(carried, list) else [carried]
    made = {}
    for name in names:
        cells = np.empty(len(rows), dtype=object)
        for place, row in enumerate(rows):
            cells[place] = row.get(name)
        made[name] = pd.Series(cells, dtype=object)
    return pd.DataFrame(made)
