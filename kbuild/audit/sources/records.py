"""What makes a text none of OSV's format, in the fields that are read of a record.

Format: https://ossf.github.io/osv-schema/. Fields that are null count as left out; versions may be numbers, as YAML has
those that nobody quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])(?!\d)")
_Fault = Iterator[str]


def record_fault(record: Mapping[str, Any]) -> str | None:
    """The first fault, ``affected[0].ranges is not a list``; None where all can be read."""
    return next(_faults(record), None)


def _faults(record: Mapping[str, Any]) -> _Fault:
    if not _DAY.match(str(record.get("modified"))):
        yield "modified is not a date"
    for key in ("aliases", "upstream"):
        yield from _each(record, key, "", _text)
    yield from _each(record, "severity", "", _table)
    yield from _each(record, "affected", "", _affected)


def _affected(value: Any, place: str) -> _Fault:
    yield from _table(value, place)
    package = value.get("package")
    if package is not None:
        yield from _table(package, f"{place}.package")
        for key in ("ecosystem", "name") if package else ():
            if not isinstance(package.get(key), str) or not package[key]:
                yield f"{place}.package.{key} is not a text"
    yield from _each(value, "versions", place, _version)
    yield from _each(value, "severity", place, _table)
    yield from _each(value, "ranges", place, _range)


def _range(value: Any, place: str) -> _Fault:
    yield from _table(value, place)
    yield from _each(value, "events", place, _event)


def _event(value: Any, place: str) -> _Fault:
    yield from _table(value, place)
    for key, version in value.items():
        yield from _version(version, f"{place}.{key}")


def _each(table: Mapping[str, Any], key: str, place: str, faults: Callable[[Any, str], _Fault]) -> _Fault:
    listed, here = table.get(key), f"{place}.{key}" if place else key
    if listed is None:
        return
    if not isinstance(listed, list):
        yield f"{here} is not a list"
        return
    for number, value in enumerate(listed):
        yield from faults(value, f"{here}[{number}]")


def _table(value: Any, place: str) -> _Fault:
    if not isinstance(value, Mapping):
        yield f"{place} is not an object"


def _text(value: Any, place: str) -> _Fault:
    if not isinstance(value, str):
        yield f"{place} is not a text"


def _version(value: Any, place: str) -> _Fault:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        yield f"{place} is not a version"
