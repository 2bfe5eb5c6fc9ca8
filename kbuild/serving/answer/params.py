"""A request's params by the signature, as ``mlflow.models.utils._enforce_params_schema`` gives them, without MLflow."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kbuild.serving.answer.columns import Unusual

# Of kedro-mlflow's requests; it changes nothing here, and every model takes it.
RUNNER = "runner"
_SHOWN, _LONGEST = 20, 100  # unknown names in a message, and letters of each that are compared
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
            # MLflow drops params that no signature knows.
            if params:
                raise Unusual
            return params
        if not params:
            return dict(self._defaults)
        if any(name not in self._specs and name != RUNNER for name in params):
            raise Unusual
        known = {name: value for name, value in params.items() if name in self._specs}
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


def find_unknown(body: bytes, known: Collection[str]) -> str | None:
    """What to say of a JSON request with params that the model does not have; None of any other.

    MLflow would leave them out and answer as if they had not been sent.
    """
    if b'"params"' not in body:
        return None
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return None
    params = request.get("params") if isinstance(request, dict) else None
    unknown = [name for name in params if name not in known and name != RUNNER] if isinstance(params, dict) else []
    if not unknown:
        return None
    has = f"It has {', '.join(sorted(known))}." if known else "It has none."
    # To look for what is spelled like it takes long: of long names, and of many.
    spelled = [name.removeprefix("params:")[:_LONGEST] for name in unknown[:_SHOWN]]
    near = {each for name in spelled for each in difflib.get_close_matches(name, sorted(known), n=1)}
    meant = f" Did you mean {', '.join(sorted(near))}?" if near else ""
    return f"The model has no params {', '.join(map(repr, unknown[:_SHOWN]))[:200]}. {has}{meant}"


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
