"""Points of a metric's history, from and to the forms that nodes return and take them in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from kedro.io.core import DatasetError

MODES = ("list", "dict", "history")
# What MLflow's servers take at once (its REST API, "Log Batch").
_BATCH = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A value at a step; ``timestamp`` is in milliseconds since 1970, None for now."""

    step: int
    value: float
    timestamp: int | None = None


def make_number(name: str, value: Any) -> float:
    """A metric's value as MLflow keeps it; raises DatasetError for what is no number."""
    # NumPy's and the libraries' own scalars and arrays of one value.
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if not isinstance(value, Real):
        raise DatasetError(f"the metric {name!r} is a number, not {_shorten(value)}")
    return float(value)


def make_step(value: Any) -> int:
    """A step; raises DatasetError for what is no whole number."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)  # what came by way of JSON, whose keys are texts
    raise DatasetError(f"a step is a whole number, not {_shorten(value)}")


def from_mode(mode: str, name: str, data: Any) -> list[Point]:
    """A history in one of MODES; raises DatasetError for another form."""
    if mode == "dict":
        if not isinstance(data, Mapping):
            raise DatasetError(f"with mode dict, {name!r} is a mapping from step to number, not {_shorten(data)}")
        return [Point(step=make_step(step), value=make_number(name, value)) for step, value in data.items()]
    rows = _rows(data)
    if rows is None:
        raise DatasetError(f"with mode {mode}, {name!r} is a list, not {_shorten(data)}")
    if mode == "list":
        return [Point(step=step, value=make_number(name, value)) for step, value in enumerate(rows)]
    return [_parse(name, each) for each in rows]


def to_mode(mode: str, history: Sequence[Point]) -> Any:
    """A history in one of MODES; of a step that was saved twice, ``dict`` has the later value."""
    if mode == "list":
        return [point.value for point in history]
    if mode == "dict":
        return {point.step: point.value for point in history}
    return [{"step": point.step, "value": point.value, "timestamp": point.timestamp} for point in history]


def parse_many(data: Any) -> Iterator[tuple[str, Point]]:
    """The points of a mapping or table of metrics, by name; raises DatasetError for another form."""
    columns = getattr(data, "columns", None)
    if columns is not None:
        # pandas' and polars' tables.
        index = getattr(data, "index", None)
        for column in columns:
            values = _rows(data[column]) or []
            steps = list(range(len(values))) if index is None else [_step_of(at, each) for at, each in enumerate(index)]
            for step, value in zip(steps, values, strict=True):
                if value == value:  # a table has no other way to say that a step has no value
                    yield str(column), Point(step=step, value=make_number(str(column), value))
        return
    if not isinstance(data, Mapping):
        raise DatasetError(f"metrics are a mapping by name or a table, not {_shorten(data)}")
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield str(name), _parse(str(name), value)
        elif (rows := _rows(value)) is not None:
            for step, each in enumerate(rows):
                point = _parse(str(name), each) if isinstance(each, Mapping) else None
                yield str(name), point or Point(step=step, value=make_number(str(name), each))
        else:
            yield str(name), Point(step=0, value=make_number(str(name), value))


def find_history(client: Any, run_id: str, name: str) -> list[Point]:
    """A metric's history in the order it was logged in, empty where the run has none; raises DatasetError."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_metric_history(run_id, name)
        if not found:
            client.get_run(run_id)  # MLflow's sqlite store has no metrics of a run that is not there
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise DatasetError(f"there is no run {run_id}; see run_id and MLFLOW_TRACKING_URI") from error
    return [Point(step=each.step, value=each.value, timestamp=each.timestamp) for each in found]


def log_points(client: Any, run_id: str, points: Sequence[tuple[str, Point]]) -> None:
    """Log points by name, many at a time."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(name, point.value, now if point.timestamp is None else point.timestamp, point.step)
        for name, point in points
    ]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def _parse(name: str, entry: Any) -> Point:
    if not isinstance(entry, Mapping) or "value" not in entry or entry.keys() - {"value", "step", "timestamp"}:
        raise DatasetError(f"a point of {name!r} is a mapping with value, step and timestamp, not {_shorten(entry)}")
    stamp = entry.get("timestamp")
    return Point(
        step=make_step(entry.get("step", 0)),
        value=make_number(name, entry["value"]),
        timestamp=None if stamp is None else make_step(stamp),
    )


def _rows(data: Any) -> list[Any] | None:
    """The elements of a list, tuple, Series or array of one dimension; None for anything else."""
    if isinstance(data, list | tuple):
        return list(data)
    to_list = getattr(data, "to_list", None) or getattr(data, "tolist", None)
    found = to_list() if callable(to_list) and getattr(data, "ndim", 1) == 1 else None
    return found if isinstance(found, list) else None


def _step_of(position: int, label: Any) -> int:
    return int(label) if isinstance(label, Integral) else position


def _shorten(value: Any) -> str:
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"
