"""What loading a Keras model would import: its configurations, in JSON, name classes and functions by their modules.

They lie in the zip of Keras' own format, in HDF5 files and in pickles of models. What a name leads to is in
``keras/src/saving/serialization_lib.py`` (``_retrieve_class_or_fn``): a module that is not one of Keras' own is
imported, and whatever it has by that name is taken.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kbuild.audit.pickled.effort import Effort
from kbuild.audit.pickled.json_texts import is_wide, objects_of_json, unescaped

# "L\\u0061mbda" is the same to a reader of JSON. The others hold a pickle, or a path of a model elsewhere.
_CODE = re.compile(rb'"class_name"\s*:\s*"(?:Lambda|__lambda__|TorchModuleWrapper|TFSMLayer)"')
_CLASS = re.compile(rb'"(?:class_name|spec_name)"')
# Keras' own classes, by the modules that its files name; its functions lie beside them, and in keras.ops.
_PARTS = "activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|optimizers|quantizers|random"
_CLASSES = re.compile(
    r"(tf_)?keras(\.src)?|keras\.src\.backend\.(jax|tensorflow|torch)\.optimizers(\.\w+)*"
    rf"|(tf_)?keras\.({_PARTS}|regularizers|src\.({_PARTS}|regularizers|engine|ops))(\.\w+)*"
)
_FUNCTIONS = re.compile(r"(tf_)?keras\.(activations|constraints|initializers|losses|metrics|ops|regularizers)")
_TYPES = re.compile(r"tensorflow\.(python\.framework\.)?\w+")
_LOOKUPS = frozenset({"IntegerLookup", "StringLookup", "TextVectorization"})


def holds_code(data: bytes) -> bool:
    """Whether a configuration in these bytes has a layer whose code is run when it is loaded."""
    return _CODE.search(unescaped(data)) is not None


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


def _configs(data: bytes, effort: Effort) -> Iterator[Any]:
    if is_wide(data) or _CLASS.search(data) is not None or b"\\u00" in data:
        yield from objects_of_json(data, effort)


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
