"""What stands for the objects of a pickle while it is read: none of them does anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kbuild.audit.pickled.ordinary import is_method, is_never_called

TOO_DEEP = "it is nested too deeply"
EXTENSION = "takes number"
"""How the problem begins that a pickle has which takes a class by its number."""
MADE_KEY = object()
"""Stands in a dict for a key that a call returned: it may be any text."""
_HELPERS = 8  # that may be called by each other
_HAS_OBJECTS = 0x01  # numpy's NPY_ITEM_REFCOUNT in the flags of a dtype's state
# What makes or takes anything: data calls them, and never hands them on for something else to call.
_CALLED_ONLY = {
    *((module, name) for module in ("builtins", "__builtin__") for name in ("getattr", "type")),
    *((module, "attrgetter") for module in ("operator", "_operator")),
}
# What is pickled as an attribute of a class by its own reduce: zoneinfo's docs, "Pickle serialization".
ATTRIBUTES = {("zoneinfo", "ZoneInfo", "_unpickle"), ("zoneinfo._zoneinfo", "ZoneInfo", "_unpickle")}
# Which of its own methods interp1d holds; protocols below 4 take it by getattr.
ATTRIBUTES |= {
    ("scipy.interpolate._interpolate", "interp1d", f"_call_{kind}")
    for kind in ("linear", "linear_np", "nearest", "previousnext", "spline", "nan_spline")
}
# What statsmodels evaluates as a formula, which may hold any Python (statsmodels/base/data.py, __setstate__).
_SPECIFICATIONS = {"model_spec", "design_info"}  # statsmodels evaluates it where it is a text
_FORMULAS = {"restore_model_spec", "restore_design_info"}


# Methods that Python, pickle or a library look up by this name: of data they are those of its class.
# pickle's own opcodes call the last three (``pickle.py``, load_appends, load_additems).
_SPECIAL = re.compile(r"__\w+__|append|extend|add")
# Made by compiled code, which reads its state by its own order: no names come of it.
_ARRAYS = re.compile(r"numpy\._?core\.(multiarray\._reconstruct|numeric\._frombuffer)")
_COMPILED = re.compile(r".*\.__pyx_unpickle_\w+|numpy\.random\._pickle\.\w+")
# The parts of a pair that a class of scipy has for its state (1.18: scipy/interpolate/_bsplines.py, BSpline).
_PARTS = re.compile(r"scipy\.interpolate\._bsplines\._BSpline")
_NAMING = frozenset({"items", "keys", "__dict__"})
_TYPED = frozenset({"__orig_class__", "__wrapped__", "__type_params__"})
# What scorers of scikit-learn call of a model (sklearn/metrics/_scorer.py, _BaseScorer).
_METHODS = re.compile("_?response_method|(stack|chain)_method_?|_prediction_method")
_RESPONSES = frozenset({"predict", "predict_proba", "predict_log_proba", "decision_function", "default", "auto", None})
UNPICKLE = "_unpickle_model"
"""By which a model of Keras has itself pickled: a method of its class that loads a file."""
# Their constructors take names of files.
OPENERS = frozenset({("xgboost.core", "Booster"), ("lightgbm.basic", "Booster"), ("lightgbm.engine", "CVBooster")})


class OfClass(str):
    """What is odd about objects of the class ``of``: who trusts that trusts what it does with its state."""

    of: str

    def __new__(cls, of: str, told: str) -> OfClass:
        """``told`` is what the pickle gives them."""
        made = super().__new__(cls, f"gives an object{f' of {of}' if of else ''} {told}")
        made.of = of
        return made


class Opaque:
    """Stands for every object of a pickle: takes anything, does nothing."""

    state: Any = None
    made_by: str = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Opaque:
        return Opaque()

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """For APPEND."""

    def extend(self, _: Any) -> None:
        """For APPENDS."""

    def add(self, _: Any) -> None:
        """For ADDITEMS."""


def made_by(called: Global) -> Opaque:
    """What a call returns."""
    made = Opaque()
    made.made_by = str(called)
    return made


class Members(Opaque):
    """A set, which is not kept: its members would have to be hashed."""


class Stored(Opaque):
    """What a loader of its own finds by its number: the numbers of torch's tensors."""


class Encoded(Opaque):
    """Bytes as protocols below 3 have them: a text that ``_codecs.encode`` makes Latin-1 of."""

    def __init__(self, text: str) -> None:
        self.text = text


class Global(Opaque):
    """A class or function that the pickle names."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Bound(Opaque):
    """A method of an object that the pickle makes; ``of`` is what made that."""

    def __init__(self, of: str, name: str) -> None:
        self.of, self.name = of, name


class ArrayWrapper(Opaque):
    """joblib's NumpyArrayWrapper: after it is built, raw bytes follow."""


class Dtype(Opaque):
    """numpy.dtype, as far as the size of its elements goes."""

    def __init__(self, text: Any = "", *_: Any) -> None:
        self._text = text.decode("latin-1") if isinstance(text, bytes) else text if isinstance(text, str) else ""

    def size(self) -> int:
        """Bytes of one element; raises ValueError."""
        stated = self.state[5] if isinstance(self.state, tuple) and len(self.state) > 5 else -1
        if isinstance(stated, int) and stated > 0:
            return stated
        digits = re.search(r"\d+$", self._text)
        if digits is None:
            raise ValueError(f"the size of dtype {self._text!r} is not known")
        return int(digits[0])

    def size_of(self, shape: tuple[Any, ...], most: int) -> int:
        """Bytes of an array; what is more than ``most`` may be less than it is."""
        size = self.size()
        for length in shape:
            size *= int(length)
            if not 0 <= size <= most:
                break
        return size

    def has_objects(self) -> bool:
        """Whether a pickle follows instead of raw bytes."""
        flags = self.state[7] if isinstance(self.state, tuple) and len(self.state) > 7 else 0
        return self._text.lstrip("<>|=").startswith("O") or bool(isinstance(flags, int) and flags & _HAS_OBJECTS)


CLASSES = {("joblib.numpy_pickle", "NumpyArrayWrapper"): ArrayWrapper, ("numpy", "dtype"): Dtype}


def shown(value: Any) -> str:
    """A value in a sentence: what holds itself again and again has no end if it is written out."""
    return (
        f"{value!r:.60}" if isinstance(value, str | bytes | int | float | None) else f"of type {type(value).__name__}"
    )


def plain_bytes(value: Any) -> tuple[bytes | str, bytes] | None:
    """The bytes that a value is, after what they were read as; None for all else: what a call returned is not known."""
    if isinstance(value, bytes | bytearray):
        return bytes(value) if isinstance(value, bytearray) else value, bytes(value)
    if isinstance(value, Encoded):
        return value.text, value.text.encode("latin-1", "replace")
    return None


def loaded_by(called: Global, arguments: tuple[Any, ...]) -> tuple[bytes | str, bytes] | None:
    """What a function that loads other files' formats is given, as ``plain_bytes`` tells it."""
    given = arguments[0] if len(arguments) == 1 else None
    if called.name.endswith(f".{UNPICKLE}"):
        # keras/src/saving/keras_saveable.py: a file of Keras' own format in memory.
        state = given.state if isinstance(given, Opaque) and given.made_by == "_io.BytesIO" else None
        given = state[0] if isinstance(state, tuple) and state else None
    return plain_bytes(given)


def called_only(value: Any) -> str | None:
    """The name of what may be called and never be handed on; None for all else."""
    if value is ArrayWrapper:
        return "joblib.numpy_pickle.NumpyArrayWrapper"
    return str(value) if isinstance(value, Global) and (value.module, value.name) in _CALLED_ONLY else None


def called_by_copyreg(called: Any, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """What is called in truth, and with what, where copyreg's helpers are (CPython, ``Lib/copyreg.py``)."""
    for _ in range(_HELPERS):
        if not (isinstance(called, Global) and called.module in ("copyreg", "copy_reg") and arguments):
            return called, arguments
        if called.name == "__newobj__":
            called, arguments = arguments[0], arguments[1:]
        elif called.name == "__newobj_ex__":
            given = arguments[1] if len(arguments) > 1 else ()
            called, arguments = arguments[0], given if isinstance(given, tuple) else ()
        elif called.name == "_reconstructor":
            # Of the base, __new__ and __init__ are called.
            named = len(arguments) > 1 and isinstance(arguments[1], Global | type)
            called, arguments = arguments[0] if named else Opaque(), arguments[2:]
        else:
            return called, arguments
    return Opaque(), ()


def odd_state(built: Opaque, state: Any) -> str | None:
    """What is wrong with a state that a class runs, None where nothing is."""
    if built.made_by == "functools.partial" and not (
        isinstance(state, tuple) and state and isinstance(state[0], Global | Bound | type)
    ):
        return "prepares a call of what another call returned"
    if built.made_by == "logging.getLogger":
        return "gives a logger of the process a state, which it keeps"
    parts = state if isinstance(state, tuple) else (state,)
    pairs = len(parts) == 2 and not _COMPILED.fullmatch(built.made_by)
    made = [state] if state is not built else []  # what holds itself is a dict whose items are its attributes
    made += [part for part in parts if pairs and not _is_part(part)]
    if any(type(each) in (Opaque, Members) for each in made):
        # A mapping, or pairs, of which nobody sees what they hold. Of two the second is for slots.
        return OfClass(built.made_by, "a state that another call makes")
    for key, value in _attributes(state, parts):
        if key is MADE_KEY or type(key) in (Opaque, Members):
            return OfClass(built.made_by, "an attribute whose name another call makes")
        special = isinstance(key, str) and _SPECIAL.fullmatch(key) is not None and key not in _TYPED
        of_names = key == "__pydantic_fields_set__" and type(value) is Members
        if special and not of_names and (isinstance(value, Opaque | type) or key == "__dict__"):
            return OfClass(built.made_by, f"a {key} of its own")
        if key in _SPECIFICATIONS and _may_be_text(value):
            return f"evaluates a formula: the {key} of its state"
        methods = value if isinstance(value, tuple | list) else (value,)
        if (
            type(key) is str
            and _METHODS.fullmatch(key)
            and not all(type(each) in (str, type(None)) and each in _RESPONSES for each in methods)
        ):
            return f"has the method {shown(value)} called of what it is given"
    if not built.made_by.startswith("statsmodels.base.data."):
        return None
    if type(state) is dict and all(type(key) is str for key in state) and not _FORMULAS & state.keys():
        return None
    return f"evaluates a formula of the state of {built.made_by}"


def _is_part(part: Any) -> bool:
    """Whether no names come of it, though its class has what a mapping has: an attribute of its own would be that."""
    maker = getattr(part, "made_by", "")
    if _PARTS.fullmatch(maker):
        return type(part.state) is dict and all(type(key) is str and key not in _NAMING for key in part.state)
    return _ARRAYS.fullmatch(maker) is not None


def _may_be_text(value: Any) -> bool:
    of_formulas = getattr(value, "made_by", "").startswith(("patsy.", "formulaic."))
    return isinstance(value, str | list) or (type(value) in (Opaque, Members) and not of_formulas)


def attribute_of(of: Any, name: Any) -> Opaque | None:
    """What getattr returns where it is as it has to be, None where it may be anything."""
    if isinstance(of, Global):
        known = (of.module, of.name, name) in ATTRIBUTES or name == UNPICKLE or is_method(of.module, of.name, name)
        return Global(of.module, f"{of.name}.{name}") if known else None
    if not isinstance(of, Opaque) or not of.made_by or type(name) is not str or name.startswith("__"):
        return None
    return Opaque() if is_method(*of.made_by.rpartition(".")[::2], name) else Bound(of.made_by, name)


def never_called(called: Global, arguments: tuple[Any, ...]) -> bool:
    """Whether it is a function that data names, and never calls; types such as ``List[int]`` are made by one
    (``typing._GenericAlias.__reduce__``)."""
    of = arguments[0] if arguments else None
    of_typing = called.name == "getitem" and isinstance(of, Global) and of.module == "typing"
    return is_never_called(called.module, called.name) and not of_typing


def _attributes(state: Any, parts: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Names and values that a state may set: of dicts, or of pairs, which ``dict.update`` takes as well."""
    for part in parts:
        if isinstance(part, dict):
            inner = part.get("__dict__")  # pydantic's __setstate__ makes attributes of what is in it
            whole = part is state and type(inner) is dict and "__dict__" not in inner
            yield from (item for item in part.items() if not (whole and item[0] == "__dict__"))
            yield from inner.items() if type(inner) is dict and whole else ()
    if isinstance(state, list | tuple) and all(isinstance(each, list | tuple) and len(each) == 2 for each in state):
        yield from state
