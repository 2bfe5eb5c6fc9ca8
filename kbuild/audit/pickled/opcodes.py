"""What is watched while the opcodes of a pickle are read: what goes on the stack, texts, and what all of it takes.

The reader is pickle's own in Python, with ``push``, ``texts``, ``longest``, ``paid`` and ``pay`` (``InertReader``).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any

from kbuild.audit.pickled.standins import MADE_KEY, Encoded, Global, Members, Opaque

_Load = Callable[[Any], None]
_READ: Mapping[int, _Load] = pickle._Unpickler.dispatch

_PUSHED = (pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.DUP)
_TEXTS = (
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
    pickle.BYTEARRAY8,
)
_SHORTEST = 5  # bytes or letters of a text that may hold anything
_AT_ONCE = 1 << 16  # words that are paid for together
_WRAPPED = 8  # calls in each other
_MODELS = frozenset({"KedroPipelineModel", "ServedPipeline"})
# What kedro-datasets names as backends of its PickleDataset, but compress_pickle, which opens what it is told to.
_BACKENDS = frozenset({"cloudpickle", "dill", "joblib", "pickle"})
# What it reads by itself, whether or not Kedro's datasets are there.
READ_PLAIN = frozenset(
    {"kedro_datasets.json.json_dataset.JSONDataset", "kedro_datasets.pickle.pickle_dataset.PickleDataset"}
)
_UNTOLD = "has another call tell what it loads"
# What objects take, in words of 8 bytes with what refers to them: about, of CPython.
_FEW = 4
_WORDS = {
    **dict.fromkeys((pickle.MEMOIZE, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT), 13),
    **dict.fromkeys((pickle.MARK, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET, pickle.FROZENSET), 9),
    **dict.fromkeys((pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.LIST, pickle.DICT), 9),
    **dict.fromkeys((pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.INST, pickle.OBJ), 25),
    **dict.fromkeys((pickle.REDUCE, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID), 20),
    **dict.fromkeys(_TEXTS, 9),
}


# What pickle itself fills: its own containers, and classes of libraries that are one of these. All others have a method
# of their own called with what is in the pickle: pandas' tables call a key that can be called.
_CONTAINERS = re.compile(
    r"(builtins|__builtin__)\.(dict|list|set|bytearray)|collections\.(OrderedDict|defaultdict|Counter|deque)"
    r"|sklearn\.utils(\._?bunch)?\.Bunch|statsmodels\.tools\.tools\.Bunch|pandas\.(core\.indexes\.frozen|api\.typing)\.FrozenList"
    r"|scipy\.optimize\._?optimize\.OptimizeResult|scipy\._lib\._util\._RichResult"
    r"|keras\.src\.utils\.tracking\.Tracked(Dict|List|Set)"
)
_OTHER_KEY = object()


def _filling(load: _Load, depth: int) -> _Load:
    """What is filled lies ``depth`` below the top of the stack, or 0 below the mark."""

    def fill(reader: Any) -> None:
        below = reader.stack if depth else reader.metastack[-1] if reader.metastack else ()
        into = below[-depth or -1] if len(below) >= max(depth, 1) else None
        if isinstance(into, Opaque) and not _is_container(into):
            reader.filled[str(into) if isinstance(into, Global) else into.made_by] = None
        load(reader)

    return fill


def _is_container(into: Opaque) -> bool:
    """After a state it may have attributes of any name."""
    return type(into) is Members or (into.state is None and _CONTAINERS.fullmatch(into.made_by) is not None)


def _setitem(reader: Any) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _set(reader.stack[-1], [key, value])


def _setitems(reader: Any) -> None:
    items = reader.pop_mark()
    _set(reader.stack[-1], items)


def _dict(reader: Any) -> None:
    items, made = reader.pop_mark(), dict[Any, Any]()
    _set(made, items)
    reader.append(made)


def _set(into: Any, items: list[Any]) -> None:
    pairs = zip(items[::2], items[1::2], strict=True)
    if isinstance(into, dict):
        # Keys may be made so that to hash them, or to tell them apart, never ends.
        into.update((key if type(key) is str else _other(key), value) for key, value in pairs)
    elif not isinstance(into, Opaque | list | bytearray | type):
        raise TypeError(f"items are set of {type(into).__name__}")


def _other(key: Any) -> object:
    return MADE_KEY if isinstance(key, Opaque) and not isinstance(key, Global | Encoded) else _OTHER_KEY


def _empty_set(reader: Any) -> None:
    reader.append(Members())


def _frozenset(reader: Any) -> None:
    reader.pop_mark()
    reader.append(Opaque())


def _bytearray8(reader: Any) -> None:
    size = int.from_bytes(reader.read(8), "little")
    if size > reader.longest:  # it would be made before it is read
        raise EOFError("it ends early")
    reader.append(bytearray(reader.read(size)))


def constructed(called: Any, arguments: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
    """What a call would hand arguments to: pickle gives classes that are written in Python their state instead."""
    for _ in range(_WRAPPED):
        if not (isinstance(called, Global) and arguments):
            return ()
        place = (called.module, called.name)
        if place == ("functools", "partial"):
            called, arguments = arguments[0], arguments[1:]
        elif place[0] in ("copyreg", "copy_reg") and place[1] == "__newobj_ex__":
            called, arguments = arguments[0], () if arguments[2:] == ({},) else arguments[2:]
        elif place[0] in ("copyreg", "copy_reg"):
            # Of a base, __new__ and __init__ are called with one argument.
            based = place[1] == "_reconstructor" and len(arguments) > 1
            called, arguments = arguments[1] if based else None, arguments[2:]
        else:
            return (place,)
    return ()


def constructed_by_state(built: Opaque, state: Any) -> tuple[tuple[str, str], ...]:
    """The same of the state of a partial: function, arguments, keywords."""
    if built.made_by != "functools.partial" or not isinstance(state, tuple):
        return ()
    return constructed(state[0] if state else None, tuple(each for each in state[1:3] if each))


def named_by_state(built: Opaque, state: Any) -> tuple[dict[tuple[str, str], None], str | None]:
    """What kbuild's own model imports to load its inputs, which its state tells in texts (``kbuild/served/inputs.py``),
    and what is wrong with that state."""
    if built.made_by.rpartition(".")[2] not in _MODELS or not isinstance(state, dict):
        return {}, None
    named: dict[tuple[str, str], None] = {}
    sources = state.get("sources", {})
    if type(sources) is not dict or "__dict__" in state:
        return {}, _UNTOLD
    for name, source in sources.items():
        kind = source.get("type") if type(source) is dict else state
        arguments = source.get("arguments", {}) if type(source) is dict else state
        if type(name) is not str or not isinstance(kind, str | None) or type(arguments) is not dict:
            return named, _UNTOLD
        if any(type(key) is not str for key in (*source, *arguments)):
            return named, _UNTOLD
        backend, flavor = arguments.get("backend", "pickle"), arguments.get("flavor", "mlflow.")
        if not isinstance(backend, str) or not isinstance(flavor, str):
            return named, _UNTOLD
        loaded = [] if kind is None or kind in READ_PLAIN else [kind]
        loaded += [] if backend in _BACKENDS else [f"{backend}.load"]
        loaded += [] if flavor.startswith("mlflow.") else [f"{flavor}.load_model"]
        for each in loaded:
            module, _, attribute = each.rpartition(".")
            named[module, attribute] = None
    return named, None


def size_of_state(state: Any) -> int:
    """How much of a state is looked at."""
    listed = len(state) if isinstance(state, list) else 0
    parts = (state, *(state if isinstance(state, tuple) else ()))
    return listed + sum(len(each) for each in parts if isinstance(each, tuple | dict))


BOUNDED: Mapping[int, _Load] = {
    pickle.DICT[0]: _dict,
    pickle.SETITEM[0]: _filling(_setitem, 3),
    pickle.SETITEMS[0]: _filling(_setitems, 0),
    pickle.APPEND[0]: _filling(_READ[pickle.APPEND[0]], 2),
    pickle.APPENDS[0]: _filling(_READ[pickle.APPENDS[0]], 0),
    pickle.ADDITEMS[0]: _filling(_READ[pickle.ADDITEMS[0]], 0),
    pickle.EMPTY_SET[0]: _empty_set,
    pickle.FROZENSET[0]: _frozenset,
    pickle.BYTEARRAY8[0]: _bytearray8,
}
"""In the place of pickle's own, which hash what they are given, or make what they have not seen."""


def watched(dispatch: Mapping[int, _Load]) -> dict[int, _Load]:
    """The same table of opcodes, each of which is watched."""
    pushed = {code[0] for code in _PUSHED}
    texts = {code[0] for code in _TEXTS}
    found = {}
    for number, load in dispatch.items():
        if number in pushed:
            load = _pushing(load)
        elif number in texts:
            load = _keeping(load)
        found[number] = _counting(load, _WORDS.get(bytes([number]), _FEW))
    return found


def _pushing(load: _Load) -> _Load:
    def push(reader: Any) -> None:
        load(reader)
        reader.push(reader.stack[-1])

    return push


def _keeping(load: _Load) -> _Load:
    def keep(reader: Any) -> None:
        load(reader)
        value = reader.stack[-1]
        if isinstance(value, bytes | bytearray | str) and len(value) >= _SHORTEST:
            reader.texts.append(value if isinstance(value, str) else bytes(value))

    return keep


def _counting(load: _Load, words: int) -> _Load:
    def count(reader: Any) -> None:
        reader.paid -= words
        if reader.paid < 0:
            reader.pay(_AT_ONCE)
        load(reader)

    return count
