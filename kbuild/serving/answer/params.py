"""A request's params by the signature, as ``mlflow.models.utils._enforce_params_schema`` gives them, without MLflow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kbuild.serving.answer.columns import Unusual
from kbuild.serving.watch.logs import LOGGER

_log = logging.getLogger(LOGGER)
# MLflow's type names: what of JSON's types is accepted, and what it becomes.
_SCALARS: dict[str, tuple[tuple[type, ...], Callable[[Any], Any]]] = {
    "boolean": ((bool,), bool),
    "integer": ((int,), int),
    "long": ((int,), int),
    "float": ((float, int), float),
    "double": ((float, int), float),
    "string": ((str,), str),
}


class ParamReader:
    """``schema`` is the signature's ``params`` as MLflow's JSON has them, None without one.

    Raises Unusual for a schema with other types than scalars and lists of scalars.
    """

    def __init__(self, schema: Sequence[Mapping[str, Any]] | None) -> None:
        self._given = schema is not None
        self._specs: dict[str, tuple[str, bool]] = {}
        self._defaults: dict[str, Any] = {}
        for spec in schema or ():
            name, kind, shape = spec["name"], spec.get("type"), spec.get("shape")
            if type(name) is not str or name in self._specs or kind not in _SCALARS:
                raise Unusual
            if shape is not None and [*shape] != [-1]:
                raise Unusual
            self._specs[name] = (kind, shape is not None)
            self._defaults[name] = self._read(name, spec["default"])

    def read(self, params: Any) -> Any:
        """The params to predict with; raises Unusual for what is wrong or rare."""
        if params is not None and type(params) is not dict:
            raise Unusual
        if not self._given:
            # MLflow drops params that no signature knows, and says so.
            if params:
                raise Unusual
            return params
        if not params:
            return dict(self._defaults)
        known = {name: value for name, value in params.items() if name in self._specs}
        if len(known) != len(params):
            _log.warning("params that the signature does not have are ignored: %s", ", ".join({*params} - {*known}))
        return {**{name: self._read(name, value) for name, value in known.items()}, **self._missing(known)}

    def _missing(self, known: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in self._defaults.items() if name not in known}

    def _read(self, name: str, value: Any) -> Any:
        kind, is_list = self._specs[name]
        if not is_list:
            return _read_scalar(kind, value)
        if type(value) is not list or not value:
            raise Unusual
        # MLflow looks at the list as an array first, which mixed types can make something else.
        if len({*map(type, value)}) != 1:
            raise Unusual
        return [_read_scalar(kind, each) for each in value]


def _read_scalar(kind: str, value: Any) -> Any:
    if value is None:
        return None
    types, make = _SCALARS[kind]
    if type(value) not in types:
        raise Unusual
    try:
        return make(value)
    except OverflowError as error:
        raise Unusual from error
