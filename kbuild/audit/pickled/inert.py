"""Reads the opcodes of a pickle without importing or calling anything, and tells what loading it would name and call.

joblib (``numpy_pickle.py``, NumpyArrayWrapper) writes the bytes of an array right after the object that describes it,
between two opcodes; a scanner that does not know stops reading there. A plain unpickler goes on reading there, so
both ways are read.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections import Counter
from typing import Any, ClassVar

from kbuild.audit.pickled import opcodes
from kbuild.audit.pickled.effort import Effort, TooMuch
from kbuild.audit.pickled.ordinary import is_importable
from kbuild.audit.pickled.standins import (
    CLASSES,
    EXTENSION,
    OPENERS,
    TOO_DEEP,
    UNPICKLE,
    ArrayWrapper,
    Bound,
    Dtype,
    Encoded,
    Global,
    Opaque,
    Stored,
    attribute_of,
    called_by_copyreg,
    called_only,
    loaded_by,
    made_by,
    never_called,
    odd_state,
    shown,
)

_LONG, _DEEP = 1 << 16, 100_000
_GETATTR = (("builtins", "getattr"), ("__builtin__", "getattr"))
_LOADS, _ENCODES = ("torch.storage", "_load_from_bytes"), ("_codecs", "encode")
_TYPED_TENSOR = ("torch._tensor", "_rebuild_from_type_v2")

# Typed as that in C, which has no such insides: a private name, on which joblib builds too.
_Unpickler: Any = pickle._Unpickler


class InertReader(_Unpickler):  # type: ignore[misc]
    """Reads the one pickle that begins at ``begin``; with ``skip`` as joblib does, else as pickle does.

    ``position`` is where it ends, ``named`` what it would import, ``constructed`` what of it gets arguments, ``bound``
    methods that it holds of objects, and ``filled`` objects, by what made those, ``problems`` what it does that data
    never does, ``calls`` how often it calls; ``texts`` are the bytes and texts in it, ``loaded`` those that it loads,
    by their identity; ``skipped`` whether there were raw arrays. ``begun`` is what was odd before it named none that
    is here. ``same`` are the places where it was as at its beginning: a pickle that begins there reads the same.
    Pickles of arrays of objects that joblib wrote into it count as part of it. With ``probe`` long texts are not read:
    most places where a pickle may begin are none, and take random lengths for theirs. What it builds counts as
    ``effort``; what has to be hashed is not kept: the keys of a dict that are no texts, and sets. Raises TooMuch.
    """

    def __init__(self, data: bytes, begin: int, effort: Effort, *, skip: bool = True, probe: bool = False) -> None:
        self._file = io.BytesIO(data)
        self._file.seek(begin)
        super().__init__(self._file, encoding="latin-1", buffers=itertools.repeat(b""))
        if probe:
            self._file_read: Any = self._read_little
        self._data, self._skip = data, skip
        self._effort, self.paid, self.longest = effort, 0, len(data)
        self.position, self.calls = begin, 0
        self.named, self.constructed = dict[tuple[str, str], None](), dict[tuple[str, str], None]()
        self.problems, self.bound, self.filled = dict[str, None](), dict[tuple[str, str], None](), dict[str, None]()
        self.texts: list[bytes | str] = []
        self.loaded, self.same = dict[int, bytes](), set[int]()
        self.skipped = self.objects = False  # ``objects``: an array that is a pickle, to read which is another memo
        self.begun: tuple[str, ...] | None = None
        self._passed = 0
        self._handed: Counter[str] = Counter()  # what may only be called, and was put on the stack and not called
        self._proper = self._odd = 0  # calls of getattr that are as they have to be; all others are problems

    def run(self) -> str | None:
        """Read it; returns why it cannot be read to its end, None where it can."""
        error = self._load()
        self._effort.build(-self.paid)  # what was not used of it
        self.paid = 0
        for name, often in self._handed.items():
            if often:
                self.problems[f"hands on {name} for something else to call"] = None
        if self._proper and not self._odd and (error is None or not self._skip):
            for each in _GETATTR:
                self.named.pop(each, None)
        return error

    def _load(self) -> str | None:
        try:
            self.load()
        except RecursionError:
            return TOO_DEEP
        except TooMuch:
            raise
        except Exception as error:  # noqa: BLE001 - the stream may be made to lead to any error
            self.position = len(self._data)
            text = str(error) or type(error).__name__
            return f"it has no meaning at {text}" if isinstance(error, KeyError) else text
        self.position = self._file.tell()
        return None

    def push(self, value: Any) -> Any:
        """What goes on the stack once more."""
        self._handed.update(filter(None, [called_only(value)]))
        return value

    def pay(self, words: int) -> None:
        """For more objects that it will hold; raises TooMuch."""
        self._effort.build(words)
        self.paid += words

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
            raise ValueError(TOO_DEEP)
        self.load_mark()

    def _proto(self) -> None:
        if not (self.stack or self.metastack or self.memo or self._unframer.current_frame):
            self.same.add(self._file.tell() - 1)
        self.load_proto()

    def _frame(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        left = self._unframer.current_frame
        # The C reader takes frames in frames, that in Python frames that end after the file: both go on reading.
        if self._file.tell() + size > len(self._data) or (left and left.tell() < len(left.getbuffer())):
            return
        self._file_read, read = self._file.read, self._file_read
        self._unframer.current_frame = None
        self._unframer.file_read = self._file.read
        self._unframer.load_frame(size)
        self._file_read = self._unframer.file_read = read

    def find_class(self, module: Any, name: Any) -> Any:
        """A stand-in, whatever is asked for."""
        if not self._skip and self.begun is None and not is_importable(str(module)):
            self.begun = tuple(self.problems)
        self.named[str(module), str(name)] = None
        return self.push(CLASSES.get((module, name)) or Global(str(module), str(name)))

    def get_extension(self, code: int) -> None:
        """EXT1, EXT2, EXT4."""
        self.problems[f"{EXTENSION} {code} of the process's own table of classes (copyreg)"] = None
        self.calls += 1
        self.append(Global("copyreg", f"extension {code}"))

    def persistent_load(self, pid: Any) -> Any:
        """PERSID, BINPERSID."""
        # torch's oldest format: a module's class with its source, of which the class is taken (torch/serialization.py).
        of_module = isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Global)
        return pid[1] if of_module else Stored()

    def _call(self, called: Any, arguments: Any, *, new: bool = False) -> Any:
        self.calls += 1
        # pickle's own reader in Python, joblib's, takes a list for the arguments too.
        given = tuple(arguments) if isinstance(arguments, tuple | list) else ()
        self.problems |= {} if isinstance(arguments, tuple | list) else {"has another call make arguments": None}
        self._effort.look(len(given))  # the same ones may be given again and again
        self.constructed |= {} if new else dict.fromkeys(opcodes.constructed(called, given))
        called, arguments = called_by_copyreg(called, given)
        self._handed.subtract(filter(None, [called_only(called)]))
        if called is Dtype:
            return Dtype(*arguments)
        if called is ArrayWrapper:
            return ArrayWrapper()
        if not isinstance(called, Global):
            self.problems["calls what another call returned"] = None
            return Opaque()
        place = (called.module, called.name)
        if place in _GETATTR:
            return self._attribute(arguments)
        if never_called(called, arguments):
            self.problems[f"calls {called}, which data only names"] = None
        if place == _TYPED_TENSOR and len(arguments) == 4:
            # It calls what it is given, and sets the state (torch/_tensor.py).
            return self._stated(self._call(arguments[0], arguments[2]), arguments[3])
        if place == _ENCODES and len(arguments) == 2 and type(arguments[0]) is str and arguments[1] == "latin1":
            return Encoded(arguments[0])
        if place == _LOADS or called.name.endswith(f".{UNPICKLE}"):
            loaded = loaded_by(called, arguments)
            if loaded is not None:
                self.loaded[id(loaded[0])] = loaded[1]
            else:
                self.problems[f"has {called} load what another call returned"] = None
        if place in OPENERS and arguments:
            self.problems[f"has {called} open a file"] = None
        if place in (("builtins", "type"), ("__builtin__", "type")) and len(arguments) != 1:
            self.problems["makes a class"] = None
        if place == ("functools", "partial") and not (arguments and isinstance(arguments[0], Global | Bound | type)):
            self.problems["prepares a call of what another call returned"] = None
        return made_by(called)

    def _attribute(self, arguments: tuple[Any, ...]) -> Any:
        of, name = (*arguments[:2], None, None)[:2]
        taken = attribute_of(of, name)
        self._proper += taken is not None
        if taken is None:
            self._odd += 1
            whose = of if isinstance(of, Global) else "an object"
            self.problems[f"takes the attribute {shown(name)} of {whose}"] = None
        elif isinstance(taken, Bound):
            self.bound[taken.of, taken.name] = None
        return taken or Opaque()

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def _reduce(self, *, new: bool = False) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments, new=new)

    def _newobj(self) -> None:
        self._reduce(new=True)

    def _newobj_ex(self) -> None:
        words = self.stack.pop()
        self.constructed |= dict.fromkeys(opcodes.constructed(self.stack[-2], () if words == {} else (words,)))
        self._newobj()

    def _build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, Global | type):
            self.calls += 1
            self.problems[f"changes {built} itself"] = None
        elif isinstance(built, Opaque):
            self._stated(built, state)
        if isinstance(built, ArrayWrapper) and self._skip:
            self._skip_array(state)

    def _stated(self, built: Any, state: Any) -> Any:
        built.state = state
        self._effort.look(opcodes.size_of_state(state))
        self.constructed |= dict.fromkeys(opcodes.constructed_by_state(built, state))
        names, untold = opcodes.named_by_state(built, state)
        self.named |= names
        self.problems |= dict.fromkeys(filter(None, [odd_state(built, state), untold]))
        return built

    def _skip_array(self, state: Any) -> None:
        dtype, shape = (state.get("dtype"), state.get("shape")) if isinstance(state, dict) else (None, None)
        if not isinstance(dtype, Dtype) or not isinstance(shape, tuple):
            raise ValueError("an array of joblib tells neither its type nor its shape")
        self.skipped = True
        at = self._file.tell()
        if dtype.has_objects():
            self.objects = True
            inner = InertReader(self._data, at, self._effort)
            error = inner.run()
            for kept in ("named", "constructed", "problems", "loaded", "bound", "filled"):
                getattr(self, kept).update(getattr(inner, kept))
            self.texts += inner.texts
            self.calls += inner.calls
            self._file.seek(inner.position)
            if error is not None:
                raise ValueError(error)
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            at += 1 + self._data[at]
        size = dtype.size_of(shape, len(self._data))
        if size < 0 or at + size > len(self._data):
            raise ValueError("an array of joblib is longer than the file")
        self._file.seek(at + size)

    dispatch: ClassVar[dict[int, Any]] = {
        **_Unpickler.dispatch,
        **opcodes.BOUNDED,
        pickle.MARK[0]: _mark,
        pickle.FRAME[0]: _frame,
        pickle.PROTO[0]: _proto,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _newobj,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
    }


InertReader.dispatch = opcodes.watched(InertReader.dispatch)
