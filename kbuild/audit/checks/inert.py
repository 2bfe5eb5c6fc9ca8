"""Reads the opcodes of a pickle without importing or calling anything, and cuts out joblib's raw arrays.

joblib (``numpy_pickle.py``, NumpyArrayWrapper) writes the bytes of an array right after the object that describes it,
between two opcodes; a scanner that does not know stops reading there.
"""

from __future__ import annotations

import io
import itertools
import pickle
import re
from typing import Any, ClassVar

_HAS_OBJECTS = 0x01  # numpy's NPY_ITEM_REFCOUNT in the flags of a dtype's state


class Opaque:
    """Stands for every class, function and object of a pickle: takes anything, does nothing."""

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
    """Reads the one pickle that begins at ``begin``.

    ``position`` is where it ends; ``inner`` are the pickles of arrays of objects that joblib wrote into it.

    The pure Python unpickler is a private name of the standard library, on which joblib builds too.
    """

    def __init__(self, data: bytes, begin: int) -> None:
        self._file = io.BytesIO(data)
        self._file.seek(begin)
        super().__init__(self._file, encoding="latin-1", buffers=itertools.repeat(b""))
        self._data = data
        self._pieces: list[bytes] = []
        self.position = begin
        self.inner: list[bytes] = []

    def run(self) -> tuple[bytes, str | None]:
        """The opcodes to STOP without raw arrays, or all that is there, and why it cannot be read to its end."""
        try:
            self.load()
        except Exception as error:  # noqa: BLE001 - the stream may be made to lead to any error
            self._cut(len(self._data))
            return b"".join(self._pieces), str(error) or type(error).__name__
        self._cut(self._file.tell())
        return b"".join(self._pieces), None

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in, whatever is asked for."""
        return _CLASSES.get((module, name), Opaque)

    def get_extension(self, code: int) -> None:
        """EXT1, EXT2, EXT4."""
        self.append(Opaque)

    def persistent_load(self, pid: Any) -> Any:
        """PERSID, BINPERSID."""
        return Opaque()

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _make(self.stack[-1], arguments)

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, Opaque):
            built.state = state
        if isinstance(built, _ArrayWrapper):
            self._skip_array(state)

    def _skip_array(self, state: Any) -> None:
        dtype, shape = (state.get("dtype"), state.get("shape")) if isinstance(state, dict) else (None, None)
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise ValueError("an array of joblib tells neither its type nor its shape")
        at = self._file.tell()
        self._cut(at)
        if dtype.has_objects():
            inner = InertReader(self._data, at)
            stream, error = inner.run()
            self.inner += [stream, *inner.inner]
            self._move(inner.position)
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
        self._move(at + size)

    def _cut(self, end: int) -> None:
        self._pieces.append(self._data[self.position : end])
        self.position = end

    def _move(self, at: int) -> None:
        self._file.seek(at)
        self.position = at

    dispatch: ClassVar[dict[int, Any]] = {
        **_Unpickler.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
    }


def _make(called: Any, arguments: Any) -> Any:
    if called is _Dtype and isinstance(arguments, tuple):
        return _Dtype(*arguments)
    return _ArrayWrapper() if called is _ArrayWrapper else Opaque()
