"""The digest of a value: equal for two values that are the same, whichever objects they share inside.

A pickle's bytes are not that: its memo, interned strings and buffers depend on how a value came to be, so an encoder
that was read from its file and asked once has another pickle and the same state. Here every part is taken by what it
holds, objects by what their ``__reduce_ex__`` gives (Python's library reference, "pickle", "Pickling Class Instances").
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import marshal
import math
import struct
import sys
import types
from collections.abc import Iterable
from typing import Any

from kbuild.training.value_libraries import LIBRARIES, Inner

_PLAIN = (type(None), type(Ellipsis), type(NotImplemented), bool, int, str, bytes, complex)
_FLAT = {type(None), bool, int, float, str, bytes}
_NAMED = (types.BuiltinFunctionType, types.ModuleType)
_DEEPEST = 400
# Where an object lies in this process: scikit-learn's vectorizers remember that of their stop words.
_NOT_STATE = {"_stop_words_id"}


class NoDigest(Exception):
    """The value holds something that does not say what it is: an open file, a lock, a connection."""


def digest_value(value: Any) -> bytes:
    """32 bytes that are equal for equal values; raises NoDigest where that cannot be told."""
    try:
        return _Digester().digest(value)
    except NoDigest:
        raise
    except Exception as error:  # the objects' own __reduce_ex__ and __getstate__ may raise anything
        raise NoDigest(f"{type(error).__name__}: {error}") from error


def find_digest(value: Any) -> bytes | None:
    """``digest_value``, None where that cannot be told."""
    try:
        return digest_value(value)
    except NoDigest:
        return None


class _Digester:
    def __init__(self) -> None:
        # Objects on the way down, for those that hold themselves; and what keeps temporary ones alive meanwhile.
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[Any, bytes]] = {}

    def digest(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN) and type(value) in _PLAIN:
            data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
            return _hash(type(value).__name__, data)
        if type(value) is float:
            return _hash("float", b"nan" if math.isnan(value) else struct.pack("<d", value))
        known = self._done.get(id(value))
        if known is not None:
            return known[1]
        if id(value) in self._open:
            return _hash("again", str(len(self._open) - self._open[id(value)]).encode())
        if len(self._open) > _DEEPEST:
            raise NoDigest("it is nested too deeply")
        self._open[id(value)] = len(self._open)
        try:
            found = self._look(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = (value, found)
        return found

    def _look(self, value: Any) -> bytes:
        kind = type(value)
        if kind in (list, tuple):
            return self._all(kind.__name__, value)
        if kind is dict:
            return self._all("dict", (part for pair in value.items() for part in pair))
        if kind in (set, frozenset):
            return _hash(kind.__name__, *sorted(map(self.digest, value)))
        if kind in (bytearray, memoryview):
            return _hash(kind.__name__, value)
        if isinstance(value, type | types.FunctionType):
            return self._code(value)
        if isinstance(value, _NAMED):
            return self._named(value)
        for test, look in LIBRARIES:
            if test(value):
                parts = (self.digest(part.value) if isinstance(part, Inner) else part for part in look(value))
                return _hash(_name(kind), *parts)
        return self._object(value)

    def _all(self, kind: str, parts: Iterable[Any]) -> bytes:
        held = list(parts)
        if _FLAT.issuperset(map(type, held)) and not any(type(each) is float and math.isnan(each) for each in held):
            # Of a large vocabulary each part by itself takes ten times as long. Version 2 knows no shared objects.
            return _hash(f"flat {kind}", marshal.dumps(held, 2))
        return _hash(kind, *map(self.digest, held))

    def _named(self, value: Any) -> bytes:
        owner = getattr(value, "__self__", None)
        name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None) or value.__name__}"
        if owner is None or isinstance(owner, types.ModuleType):
            return _hash("named", name.encode())
        return _hash("method", name.encode(), self.digest(owner))

    def _code(self, value: Any) -> bytes:
        name = _name(value)
        if "<" not in name and _find(name) is value:
            return _hash("named", name.encode())
        if isinstance(value, type):
            # Made while it runs; what it is called and what it holds is all that there is to it.
            own = {key: each for key, each in vars(value).items() if not key.startswith("__") or key == "__init__"}
            return _hash("type", name.encode(), self._all("bases", value.__bases__), self._state(own))
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        code = value.__code__
        constants = [each for each in code.co_consts if not isinstance(each, types.CodeType)]
        inner = b"".join(each.co_code for each in code.co_consts if isinstance(each, types.CodeType))
        return _hash(
            "function", code.co_code, inner, self.digest(list(code.co_names)), self.digest(constants),
            self.digest([value.__defaults__, value.__kwdefaults__, cells]),
        )  # fmt: skip

    def _object(self, value: Any) -> bytes:
        if isinstance(value, types.MethodType):
            return _hash("method", _name(value.__func__).encode(), self.digest(value.__self__))
        reducer = copyreg.dispatch_table.get(type(value))
        try:
            reduced: Any = reducer(value) if reducer is not None else value.__reduce_ex__(4)
        except Exception as error:
            raise NoDigest(f"{_name(type(value))}: {error}") from error
        if isinstance(reduced, str):
            return _hash("global", reduced.encode(), (getattr(value, "__module__", None) or "").encode())
        function, arguments, state, items, pairs = (list(reduced) + [None] * 3)[:5]
        if type(state) is dict:
            # What a cached property keeps follows from the rest, and comes when it is first read.
            state = {key: each for key, each in state.items() if not _is_cached(type(value), key)}
        return _hash(
            "object",
            self.digest(function),
            self._all("arguments", arguments),
            self._state(state),
            self._all("items", items or ()),
            self._all("pairs", (part for pair in pairs or () for part in pair)),
        )

    def _state(self, state: Any) -> bytes:
        # Attributes have no order.
        if type(state) is dict and all(isinstance(key, str) for key in state):
            return self._all("state", (part for key in sorted(set(state) - _NOT_STATE) for part in (key, state[key])))
        return self.digest(state)


def _hash(kind: str, *parts: Any) -> bytes:
    state = hashlib.sha256(kind.encode())
    for part in parts:
        view = memoryview(part)
        state.update(struct.pack("<q", view.nbytes))
        state.update(view if view.contiguous else view.tobytes())
    return state.digest()


def _name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _find(name: str) -> Any:
    module, _, rest = name.rpartition(".")
    while module:
        if module in sys.modules:
            found: Any = sys.modules[module]
            for part in rest.split("."):
                found = getattr(found, part, None)
            return found
        module, _, more = module.rpartition(".")
        rest = f"{more}.{rest}"
    return None


def _is_cached(kind: type, name: Any) -> bool:
    return any(isinstance(vars(base).get(name), functools.cached_property) for base in kind.__mro__)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  asked whether it raises
    except ValueError:
        return False
    return True
