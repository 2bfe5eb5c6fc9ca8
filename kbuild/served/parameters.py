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
    """What lies there; the value itself where the path is empty."""
    if not path:
        return value
    place = _find(value, path)
    return _ABSENT if place is None else _get_part(*place)


def _find(value: Any, path: Sequence[str]) -> tuple[Any, str] | None:
    """What holds the end of the path, and its key there; a key may have dots itself, and the longest comes first."""
    for size in range(len(path), 0, -1):
        key = ".".join(path[:size])
        part = _get_part(value, key)
        if part is not _ABSENT:
            place = (value, key) if size == len(path) else _find(part, path[size:])
            if place is not None:
                return place
    return None


def _get_part(value: Any, key: str) -> Any:
    """Of a mapping, or of the dataclasses and pydantic models that Kedro 1.3 makes of parameters."""
    if isinstance(value, Mapping):
        return value.get(key, _ABSENT)
    fields: Any = getattr(value, "__dataclass_fields__", None) or getattr(type(value), "model_fields", ())
    return getattr(value, key) if key in fields else _ABSENT


def _set_within(within: Any, path: Sequence[str], value: Any, name: str) -> bool:
    place = _find(within, path)
    if place is None:
        return False
    holder, key = place
    try:
        if isinstance(holder, Mapping):
            holder[key] = value  # type: ignore[index]
        else:
            setattr(holder, key, value)
    except Exception as error:  # an object of the user's class
        raise PredictionError(
            f"the parameter {name!r} is part of a {type(holder).__name__}, which cannot be changed: {error}"
        ) from error
    return True
