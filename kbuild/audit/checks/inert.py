"""Reads the opcodes of a pickle without importing or calling anything, and tells what loading it would name and call.

joblib (``numpy_pickle.py``, NumpyArrayWrapper) writes the bytes of an array right after the object that describes it,
between two opcodes; a scanner that does not know stops reading there. A plain unpickler goes on reading there, so
both ways are read.
"""

from __future__ import annotations

import io
import itertools
import pickle
import re
from typing import Any, ClassVar

_HAS_OBJECTS = 0x01  # numpy's NPY_ITEM_REFCOUNT in the flags of a dtype's state
_LONG = 1 << 16
_DEEP = 100_000
_PLAIN = re.compile(r"[A-Za-z]\w*")
_GETATTR = (("builtins", "getattr"), ("__builtin__", "getattr"))
# What is pickled as an attribute of a class by its own reduce: zoneinfo's docs, "Pickle serialization".
_ATTRIBUTES = {("zoneinfo", "ZoneInfo", "_unpickle"), ("zoneinfo._zoneinfo", "ZoneInfo", "_unpickle")}


class Opaque:
    """Stands for every object of a pickle: takes anything, does nothing."""

    state: Any = None

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


class _Global(Opaque):
    """A class or function that the pickle names."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class _ArrayWrapper(Opaque):
    """joblib's NumpyArrayWrapper: after it is built, raw bytes follow."""


class _Dtype(Opaque):
    """numpy.dtype, as far as the size of its elements goes."""

    def __init__(self, text: Any = "", *_: Any) -> None:
        self._text = text.decode("latin-1") if isinstance(text, bytes) else str(text)

    def size(self) -> int:
        """Bytes of one element; raises ValueError."""
        stated = self.state[5] if isinstance(self.state, tuple) and len(self.state) > 5 else -1
        if isinstance(stated, int) and stated > 0:
            return stated
        digits = re.search(r"\d+$", self._text)
        if digits is None:
            raise ValueError(f"the size of dtype {self._text!r} is not known")
        return int(digits[0])

    def has_objects(self) -> bool:
        """Whether a pickle follows instead of raw bytes."""
        flags = self.state[7] if isinstance(self.state, tuple) and len(self.state) > 7 else 0
        return self._text.lstrip("<>|=").startswith("O") or bool(isinstance(flags, int) and flags & _HAS_OBJECTS)


_CLASSES = {("joblib.numpy_pickle", "NumpyArrayWrapper"): _ArrayWrapper, ("numpy", "dtype"): _Dtype}


# Typed as the C unpickler, which has no such insides.
_Unpickler: Any = pickle._Unpickler


class InertReader(_Unpickler):  # type: ignore[misc]
    """Reads the one pickle that begins at ``begin``; with ``skip`` as joblib does, else as pickle does.

    ``position`` is where it ends, ``named`` what it would import, ``problems`` what it does that data never does,
    ``calls`` how often it calls; ``texts`` are the bytes and texts in it, ``skipped`` whether there were raw arrays.
    Pickles of arrays of objects that joblib wrote into it count as part of it. With ``probe`` long texts are not read:
    most places where a pickle may begin are none, and take random lengths for theirs.

    The pure Python unpickler is a private name of the standard library, on which joblib builds too.
    """

    def __init__(self, data: bytes, begin: int, *, skip: bool = True, probe: bool = False) -> None:
        self._file = io.BytesIO(data)
        self._file.seek(begin)
        super().__init__(self._file, encoding="latin-1", buffers=itertools.repeat(b""))
        if probe:
            self._file_read: Any = self._read_little
        self._data, self._skip = data, skip
        self.position = begin
        self.named: dict[tuple[str, str], None] = {}
        self.problems: dict[str, None] = {}
        self.texts: list[bytes | str] = []
        self.calls = 0
        self.skipped = False
        self._passed = 0
        self._proper = 0  # calls of getattr that are as they have to be; all others are problems

    def run(self) -> str | None:
        """Read it; returns why it cannot be read to its end, None where it can."""
        try:
            self.load()
        except RecursionError:
            return "it is nested too deeply"
        except Exception as error:  # noqa: BLE001 - the stream may be made to lead to any error
            self.position = len(self._data)
            return str(error) or type(error).__name__
        self.position = self._file.tell()
        if self._proper:
            for each in _GETATTR:
                self.named.pop(each, None)
        return None

    def _read_little(self, size: int = -1) -> bytes:
        if size <= _LONG:
            return self._file.read(size)
        if self._file.tell() + size > len(self._data):
            raise EOFError("it ends early")
        self._file.seek(size, io.SEEK_CUR)
        self._passed += size
        return b""

    @property
    def reached(self) -> int:
        """How far it was read, what was passed over left out."""
        return self._file.tell() - self._passed

    def _mark(self) -> None:
        if len(self.metastack) > _DEEP:
            raise ValueError("it is nested too deeply")
        self.load_mark()

    def _frame(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if self._file.tell() + size > len(self._data):
            raise EOFError("it ends early")
        self._file_read, read = self._file.read, self._file_read
        self._unframer.file_read = self._file.read
        self._unframer.load_frame(size)
        self._file_read = self._unframer.file_read = read

    def find_class(self, module: Any, name: Any) -> Any:
        """A stand-in, whatever is asked for."""
        self.named[str(module), str(name)] = None
        return _CLASSES.get((module, name)) or _Global(str(module), str(name))

    def get_extension(self, code: int) -> None:
        """EXT1, EXT2, EXT4."""
        self.problems[f"takes number {code} of the process's own table of classes (copyreg)"] = None
        self.calls += 1
        self.append(_Global("copyreg", f"extension {code}"))

    def persistent_load(self, pid: Any) -> Any:
        """PERSID, BINPERSID."""
        return Opaque()

    def _call(self, called: Any, arguments: Any) -> Any:
        self.calls += 1
        arguments = arguments if isinstance(arguments, tuple) else ()
        if called is _Dtype:
            return _Dtype(*arguments)
        if called is _ArrayWrapper:
            return _ArrayWrapper()
        if not isinstance(called, _Global):
            self.problems["calls what another call returned"] = None
            return Opaque()
        place = (called.module, called.name)
        if place in _GETATTR:
            return self._attribute(arguments)
        if place in (("builtins", "type"), ("__builtin__", "type")) and len(arguments) != 1:
            self.problems["makes a class"] = None
        if called.module in ("operator", "_operator") and called.name == "attrgetter":
            odd = [each for each in arguments if not isinstance(each, str) or not _PLAIN.fullmatch(each)]
            if odd:
                self.problems[f"takes the attribute {odd[0]!r:.60} of something"] = None
        return Opaque()

    def _attribute(self, arguments: tuple[Any, ...]) -> Any:
        of, name = (*arguments[:2], None, None)[:2]
        if isinstance(of, _Global) and (of.module, of.name, name) in _ATTRIBUTES:
            self._proper += 1
            return _Global(of.module, f"{of.name}.{name}")
        self.problems[f"takes the attribute {name!r:.60} of {of}"] = None
        return Opaque()

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, _Global):
            self.calls += 1
            self.problems[f"changes {built} itself"] = None
        elif isinstance(built, Opaque):
            built.state = state
        if isinstance(built, _ArrayWrapper) and self._skip:
            self._skip_array(state)

    def _skip_array(self, state: Any) -> None:
        dtype, shape = (state.get("dtype"), state.get("shape")) if isinstance(state, dict) else (None, None)
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise ValueError("an array of joblib tells neither its type nor its shape")
        self.skipped = True
        at = self._file.tell()
        if dtype.has_objects():
            inner = InertReader(self._data, at)
            error = inner.run()
            self.named |= inner.named
            self.problems |= inner.problems
            self.texts += inner.texts
            self.calls += inner.calls
            self._file.seek(inner.position)
            if error is not None:
                raise ValueError(error)
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            at += 1 + self._data[at]
        size = dtype.size()
        for length in shape:
            size *= int(length)
        if size < 0 or at + size > len(self._data):
            raise ValueError("an array of joblib is longer than the file")
        self._file.seek(at + size)

    dispatch: ClassVar[dict[int, Any]] = {
        **_Unpickler.dispatch,
        pickle.MARK[0]: _mark,
        pickle.FRAME[0]: _frame,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
    }


def _kept(load: Any) -> Any:
    def keep(self: InertReader) -> None:
        load(self)
        value = self.stack[-1]
        if isinstance(value, bytes | bytearray | str) and len(value) > 4:
            self.texts.append(value if isinstance(value, str) else bytes(value))

    return keep


for _code in (
    *(pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.UNICODE, pickle.BINUNICODE),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE8, pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8),
    pickle.BYTEARRAY8,
):
    InertReader.dispatch[_code[0]] = _kept(_Unpickler.dispatch[_code[0]])
