"""What loading a Keras model would import: its configurations, in JSON, name classes and functions by their modules.

They lie in the zip of Keras' own format, in HDF5 files and in pickles of models. What a name leads to is in
``keras/src/saving/serialization_lib.py`` (``_retrieve_class_or_fn``): a module that is not one of Keras' own is
imported, and whatever it has by that name is taken.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kbuild.audit.pickled.effort import Effort

_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
# "L\\u0061mbda" is the same to a reader of JSON. The others hold a pickle, or a path of a model elsewhere.
_CODE = re.compile(rb'"class_name"\s*:\s*"(?:Lambda|__lambda__|TorchModuleWrapper|TFSMLayer)"')
_CLASS = re.compile(rb'"(?:class_name|spec_name)"')
_OBJECT = re.compile(r'\{\s*"')
# With their lengths, as protocol buffers write texts.
_OPERATIONS = re.compile(
    rb"\x12(\x08ReadFile|\x09WriteFile|\x0dMatchingFiles|\x0eImmutableConst|\x06PyFunc|\x0bEagerPyFunc|\x0fPyFuncStateless)"
)
_BEGIN = re.compile(rb"(?:\xff\xfe|\xfe\xff|\0\0\xfe\xff)?[\0 \t\r\n]*+[{\[]")
_TRY = 32  # looks that it takes to begin to read
_SHORT, _WIDER = 256, 8  # characters that are read at first, and how many times more where those end too early
_LAST = 16  # characters at the end of a piece in which an error may be that it ends there
# Keras' own classes, by the modules that its files name; its functions lie beside them, and in keras.ops.
_PARTS = "activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|optimizers|quantizers|random"
_CLASSES = re.compile(
    rf"(tf_)?keras(\.src)?|(tf_)?keras\.({_PARTS}|regularizers|src\.({_PARTS}|regularizers|engine|ops))(\.\w+)*"
)
_FUNCTIONS = re.compile(r"(tf_)?keras\.(activations|constraints|initializers|losses|metrics|ops|regularizers)")
_TYPES = re.compile(r"tensorflow\.(python\.framework\.)?\w+")
_LOOKUPS = frozenset({"IntegerLookup", "StringLookup", "TextVectorization"})


def holds_code(data: bytes) -> bool:
    """Whether a configuration in these bytes has a layer whose code is run when it is loaded."""
    if is_wide(data):
        data = data.replace(b"\0", b"")
    if b"\\u00" in data:
        data = _ESCAPE.sub(lambda each: bytes([int(each[1], 16)]), data)
    return _CODE.search(data) is not None


def graph_calls(data: bytes) -> Iterator[str]:
    """What a graph of TensorFlow in these bytes does beside computing, told as problems.

    "TensorFlow models are programs" (its SECURITY.md); nodes name their operation in field 2 (``node_def.proto``).
    """
    for name in sorted({each[1:].decode() for each in _OPERATIONS.findall(data)}):
        yield f"runs {name} of TensorFlow, which {'calls Python' if 'PyFunc' in name else 'opens files'}"


def names_in_config(data: bytes, effort: Effort) -> tuple[dict[tuple[str, str], None], dict[str, None]]:
    """The modules and names that configurations in these bytes have imported, Keras' own data left out, and what else
    loading them would do. Raises TooMuch."""
    named: dict[tuple[str, str], None] = {}
    problems: dict[str, None] = {}
    for value in _configs(data, effort):
        for each in _objects(value):
            place = _named_by(each)
            if place is not None:
                named[place] = None
            inside = each.get("config")
            kind = each["class_name"]
            if isinstance(kind, str) and kind in _LOOKUPS and isinstance(inside, dict):
                path = inside.get("vocabulary")
                if isinstance(path, str):
                    problems[f"reads the file {path!r:.60}"] = None
    return named, problems


def is_wide(data: bytes) -> bool:
    """Whether Python's reader of JSON takes these bytes for UTF-16 or UTF-32."""
    return _BEGIN.match(data) is not None and not json.detect_encoding(data).startswith("utf-8")


def values_of_json(data: bytes, effort: Effort) -> Iterator[Any]:
    """Every object of JSON that begins anywhere in these bytes, the outermost ones. Raises TooMuch."""
    # Numbers of any length. In all of it: where a configuration begins is not told, and what it names is ASCII.
    decoder = json.JSONDecoder(parse_int=float)
    if is_wide(data):
        with contextlib.suppress(ValueError, RecursionError):
            yield decoder.decode(data.decode(json.detect_encoding(data), "surrogatepass").lstrip("\ufeff"))
            return
    text, at = data.decode("latin-1"), 0
    while (match := _OBJECT.search(text, at)) is not None:
        value, at = _value_at(text, match, decoder, effort)
        if value is not None:
            yield value


def _value_at(text: str, match: re.Match[str], decoder: json.JSONDecoder, effort: Effort) -> tuple[Any, int]:
    """The object that begins there and its end, else None and where to look on.

    In pieces: Python counts the lines before an error, from the beginning of what it is given.
    """
    begin, size = match.start(), _SHORT
    while True:
        piece = text[begin : begin + size]
        is_all = begin + size >= len(text)
        try:
            value, end = decoder.raw_decode(piece)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string")
            if is_all or not (cut or error.pos > size - _LAST):
                effort.look(max(_TRY, len(piece) if cut else error.pos))
                return None, match.end()
        except (ValueError, RecursionError):
            effort.look(max(_TRY, len(piece)))
            return None, match.end()
        else:
            return value, begin + end
        size *= _WIDER


def _configs(data: bytes, effort: Effort) -> Iterator[Any]:
    if is_wide(data) or _CLASS.search(data) is not None or b"\\u00" in data:
        yield from values_of_json(data, effort)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in it that Keras would make an object of."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            pending.extend(each.values())
            if "class_name" in each and "config" in each:
                yield each
        elif isinstance(each, list):
            pending.extend(each)


def _named_by(stated: Mapping[str, Any]) -> tuple[str, str] | None:
    kind, module, name = stated["class_name"], stated.get("module"), stated["class_name"]
    if not isinstance(module, str) or not isinstance(kind, str):
        return None  # it is looked for among what the program has registered
    if kind == "function":
        name = stated["config"]
        if module == "builtins":  # a name among Keras' own, before it is one of Python's
            return (module, name) if isinstance(name, str) and hasattr(builtins, name) else None
        known = _FUNCTIONS.fullmatch(module) is not None
    elif kind == "__typespec__":
        name = stated.get("spec_name")
        known = _TYPES.fullmatch(module) is not None and str(name).endswith("Spec")
    else:
        known = _CLASSES.fullmatch(module) is not None and name[:1].isupper()
    return None if known or not isinstance(name, str) else (module, name)
