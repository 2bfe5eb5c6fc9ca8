"""A parameter given anew: in Kedro ``params:a``, ``params:a.b`` and ``parameters`` are parts of one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kbuild.errors import PredictionError

_ABSENT = object()


def set_everywhere(values: dict[str, Any], name: str, value: Any) -> bool:
    """Set the parameter ``name``, of dots where it is nested, in all ``values`` by input that hold it; False for none.

    Mappings and objects in ``values`` are changed. Raises PredictionError for objects that cannot be.
    """
    found = False
    path = name.split(".")
    for key in [each for each in values if each == "parameters" or each.startswith("params:")]:
        own = key.removeprefix("params:").split(".") if key != "parameters" else []
        if own == path:
            values[key], found = value, True
        elif own == path[: len(own)]:
            found |= _set_within(values[key], path[len(own) :], value, name)
        elif own[: len(path)] == path and (part := _get(value, own[len(path) :])) is not _ABSENT:
            values[key] = part
    return found


def _get(value: Any, path: Sequence[str]) -> Any:
    """What lies there, in mappings and in the dataclasses and pydantic models that Kedro 1.3 makes of parameters."""
    for step in path:
        if isinstance(value, Mapping):
            value = value.get(step, _ABSENT)
        else:
            fields: Any = getattr(value, "__dataclass_fields__", None) or getattr(type(value), "model_fields", ())
            value = getattr(value, step) if step in fields else _ABSENT
    return value


def _set_within(holder: Any, path: Sequence[str], value: Any, name: str) -> bool:
    *way, last = path
    holder = _get(holder, way)
    if _get(holder, [last]) is _ABSENT:
        return False
    try:
        if isinstance(holder, Mapping):
            holder[last] = value  # type: ignore[index]
        else:
            setattr(holder, last, value)
    except Exception as error:  # an object of the user's class
        raise PredictionError(
            f"the parameter {name!r} is part of a {type(holder).__name__}, which cannot be changed: {error}"
        ) from error
    return True
