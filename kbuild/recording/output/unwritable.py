"""Which value of an answer JSON does not have, where it lies, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_PLAIN_HINT = "let the last inference node give a table, an array, a list or a dict of plain values"
# What is written of a value, by the name of its class; and of a column or an array of such.
_ONE = {
    "Decimal": "float({0}) or str({0})",
    "longdouble": "float({0})",
    "complex": "[{0}.real, {0}.imag]",
    "timedelta": "{0}.total_seconds()",
    "Timedelta": "{0}.total_seconds()",
    "set": "sorted({0})",
    "frozenset": "sorted({0})",
    "generator": "list({0})",
    "DataFrame": "{0}.to_dict('records')",
    "Series": "{0}.tolist()",
    "DataFrame of polars": "{0}.to_dicts()",
    "Series of polars": "{0}.to_list()",
    **dict.fromkeys(("UUID", "Period", "Interval", "Path", "PosixPath"), "str({0})"),
}
_MANY = {
    "Decimal": "{0}.astype(float) or {0}.astype(str)",
    "longdouble": "{0}.astype(float)",
    "complex": "{0}.real and {0}.imag, each for itself",
    "timedelta": "{0}.astype(float)",
    "Timedelta": "{0}.dt.total_seconds()",
    **dict.fromkeys(("UUID", "Period", "Interval"), "{0}.astype(str)"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Unwritable:
    """``told`` says where it lies and what it is, as a sentence's end; ``hint`` what to write."""

    told: str
    hint: str


def find_unwritable(answer: Any) -> Unwritable | None:
    """The first value that the scoring server cannot write; None where each of them can be."""
    return next(_search(answer, "", ()), None)


def _search(value: Any, place: str, above: tuple[int, ...]) -> Iterator[Unwritable]:
    """``place`` is how Python reaches the value from the answer; ``above`` are the values that it lies in."""
    it = f"its {place}" if place else "it"
    if id(value) in above:
        yield Unwritable(told=f"{it} holds itself", hint=_PLAIN_HINT)
        return
    inside = (*above, id(value))
    if isinstance(value, Mapping):
        for key, each in value.items():
            if not isinstance(key, str | int | float | bool | None):
                yield Unwritable(told=f"{it} has the key {key!r}", hint="let the keys of dicts be texts: str(key)")
            yield from _search(each, f"{place}[{key!r}]", inside)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _search(each, f"{place}[{number}]", inside)
    elif isinstance(value, pd.DataFrame) and not place:
        for number, label in enumerate(value.columns):
            yield from _search_many(value.iloc[:, number].tolist(), f"its column {label!r}", f"answer[{label!r}]")
    elif isinstance(value, pd.Series) and not place:
        yield from _search_many(value.tolist(), "it", "answer")
    elif isinstance(value, np.ndarray):
        yield from _search_many(value.reshape(-1).tolist(), it, f"answer{place}")
    elif not _is_written(value):
        name = _name(value)
        written = _ONE.get(name)
        what = f"write {written.format('…' if place else 'answer')} for it" if written else _PLAIN_HINT
        if name == "Enum":
            what = "write its .value"
        yield Unwritable(told=f"{it} is a {type(value).__name__ if name == 'Enum' else name}", hint=what)


def _search_many(values: list[Any], it: str, reached: str) -> Iterator[Unwritable]:
    """Of a column or an array."""
    for each in values:
        if isinstance(each, list | tuple | Mapping | np.ndarray):
            found = next(_search(each, "", ()), None)
            if found is not None:
                yield Unwritable(told=f"{it} holds a {type(each).__name__}, and {found.told}", hint=found.hint)
        elif not _is_written(each):
            name = _name(each)
            written = _MANY.get(name)
            hint = f"let the last inference node give {written.format(reached)}" if written else _PLAIN_HINT
            yield Unwritable(told=f"{it} holds a {name}", hint=hint)


def _name(value: Any) -> str:
    import enum

    if isinstance(value, enum.Enum):
        return "Enum"
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    name = "complex" if isinstance(value, complex | np.complexfloating) else kind.__name__
    return f"{name} of polars" if library == "polars" else name


def _is_written(value: Any) -> bool:
    """As the scoring server writes it, which tries."""
    from mlflow.pyfunc.scoring_server import NumpyEncoder

    if isinstance(value, np.longdouble) and np.longdouble is not np.float64:
        return False  # its item() is itself, for ever
    try:
        json.dumps(value, cls=NumpyEncoder)
    except Exception:  # noqa: BLE001 - the value is the user's, of any type
        return False
    return True
