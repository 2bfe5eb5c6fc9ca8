"""Tensors of the protocol, and what they are in MLflow's types.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md#tensor-data
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_WHOLE = {f"{sign}{bits}": f"{sign.lower()}{bits}" for sign in ("INT", "UINT") for bits in (8, 16, 32, 64)}
# The datatype and MLServer's content type of MLflow's types; of what has no plain values each is a text of JSON.
_TYPES = {
    "boolean": ("BOOL", "np"),
    "integer": ("INT32", "np"),
    "long": ("INT64", "np"),
    "float": ("FP32", "np"),
    "double": ("FP64", "np"),
    "string": ("BYTES", "str"),
    "binary": ("BYTES", "base64"),
    "datetime": ("BYTES", "datetime"),
}
_NUMPY = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"}
_NUMPY |= {name: datatype for datatype, name in _WHOLE.items()}
_PACKED: dict[str, Any] = {**_FLOATS, **_WHOLE, "BOOL": np.bool_}
_NOT_NUMBERS = {"boolean", "string", "binary", "datetime"}
_MOST_DIMENSIONS = 32
BASE64_TEXT = "base64 of text"
"""A content type of ours: base64 for a column of texts."""


class Refused(Exception):
    """What is wrong with a request: 422 where it is none of the protocol's, else 400."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def type_of(column: Mapping[str, Any]) -> tuple[str, str]:
    """Datatype and content type of a column of MLflow's signature."""
    if column.get("type") == "tensor":
        return _NUMPY.get(str((column.get("tensor-spec") or {}).get("dtype")), "BYTES"), "np"
    return _TYPES.get(str(column.get("type")), ("BYTES", "pd_json"))


def declared_type(column: Mapping[str, Any]) -> str:
    """MLflow's type of a column, of a tensor that of its numbers."""
    datatype = type_of(column)[0]
    if column.get("type") != "tensor":
        return str(column.get("type"))
    return next((name for name, (each, kind) in _TYPES.items() if each == datatype and kind == "np"), "tensor")


def describe(column: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A column of the signature as a tensor of the model's metadata."""
    datatype, kind = type_of(column)
    spec = column.get("tensor-spec") or {}
    shape = spec.get("shape") or [-1, 1]
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": {"content_type": kind}}


def read_tensor(given: Mapping[str, Any], raw: memoryview | None, kind: str | None) -> tuple[list[Any], list[int]]:
    """Values in row-major order, as MLflow's JSON has them, and their shape; raises Refused.

    ``raw`` are the bytes of a binary tensor, None where the values are in the JSON; ``kind`` is the content type.
    """
    name, datatype, shape = given["name"], given["datatype"], given["shape"]
    if len(shape) > _MOST_DIMENSIONS or (0 in shape and shape[0] != 0):
        raise Refused(f"Input {name!r} has the shape {shape}, which no tensor here has")
    flat = _flatten(name, given["data"]) if raw is None else _unpack(name, datatype, raw)
    if math.prod(shape) != len(flat):
        raise Refused(f"Input {name!r} has {len(flat)} values; its shape {shape} is that of {math.prod(shape)}")
    if datatype in _FLOATS:
        return _floats(name, datatype, flat), shape
    if datatype in _WHOLE:
        return _whole(name, datatype, flat), shape
    if datatype == "BOOL":
        if not {*map(type, flat)} <= {bool, int} or not {*flat} <= {0, 1}:
            raise Refused(f"Input {name!r} has values that are not BOOL")
        return [bool(value) for value in flat], shape
    if datatype == "BYTES":
        return _texts(name, flat, kind), shape
    raise Refused(f"Input {name!r} has the datatype {datatype!r}, which is not served")


def nest(flat: Sequence[Any], shape: Sequence[int]) -> list[Any]:
    """The values as lists of lists."""
    nested = list(flat)
    for size in reversed(shape[1:]):
        nested = [nested[start : start + size] for start in range(0, len(nested), size)] if size else nested
    return nested


def write_tensor(name: str, values: list[Any], shape: list[int], declared: str | None) -> dict[str, Any]:
    """An output of plain values; ``declared`` is the signature's type, which counts where the values are of it.

    Floats may be those that JSON has not: ``pack`` keeps them, ``write_json`` writes null.
    """
    kinds = {*map(type, values)}
    if float in kinds and declared in _NOT_NUMBERS:
        # NaN is how pandas says that a text is missing.
        values = [None if value != value else value for value in values]
        kinds = {*map(type, values)}
    datatype, kind = "BYTES", None
    if not kinds:
        datatype, kind = _TYPES.get(str(declared), ("FP64", "np"))
    elif kinds == {bool}:
        datatype = "BOOL"
    elif kinds == {int} and declared not in ("float", "double"):
        datatype = _whole_type(values, declared)
    elif kinds <= {int, float, type(None)} and (kinds & {int, float} or declared in ("float", "double")):
        datatype = "FP32" if declared == "float" else "FP64"
    elif kinds == {str}:
        kind = _TYPES[declared][1] if declared in ("datetime", "binary") else "str"
        values = [value.replace("\n", "") for value in values] if kind == "base64" else values
    else:
        values, kind = [write_json(value) for value in values], "pd_json"
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": values}
    return {**tensor, "parameters": {"content_type": kind}} if datatype == "BYTES" else tensor


def pack(tensor: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """An output as Triton's clients ask for it: without its values, and their bytes, which follow the JSON."""
    told = {name: value for name, value in tensor.items() if name != "data"}
    values, kind = tensor["data"], _PACKED.get(tensor["datatype"])
    if kind is None:
        texts = [value.encode("utf-8", "surrogatepass") for value in values]
        raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        try:
            with np.errstate(over="ignore"):
                raw = np.array(values, np.dtype(kind).newbyteorder("<")).tobytes()
        except OverflowError:
            # A whole number that no float can be: JSON has it.
            return {**tensor}, b""
    return {**told, "parameters": {**tensor.get("parameters", {}), "binary_data_size": len(raw)}}, raw


def _as_json_has_it(value: Any) -> Any:
    """The value with null for the floats that JSON has not, as MLServer writes them and the libraries read them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _as_json_has_it(each) for name, each in value.items()}
    return [_as_json_has_it(each) for each in value] if isinstance(value, list) else value


def write_json(value: Any) -> str:
    """JSON without what is none of its numbers."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_as_json_has_it(value))


def _whole_type(values: Sequence[int], declared: str | None) -> str:
    lowest, highest = min(values), max(values)
    if declared == "integer" and lowest >= -(2**31) and highest < 2**31:
        return "INT32"
    if lowest >= -(2**63) and highest < 2**63:
        return "INT64"
    return "UINT64" if lowest >= 0 and highest < 2**64 else "FP64"


def _flatten(name: str, data: Any) -> list[Any]:
    # MLServer takes a text of its own for a list of one.
    flat = [data] if isinstance(data, str) else data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(each, list) for each in flat):
            raise Refused(f"Input {name!r} has lists beside values")
        flat = list(chain.from_iterable(flat))
    return list(flat)


def _unpack(name: str, datatype: str, raw: memoryview) -> list[Any]:
    """Little-endian values without gaps; of BYTES each after its length in four bytes."""
    if datatype == "BYTES":
        values, place = [], 0
        while place < len(raw):
            size = int.from_bytes(raw[place : place + 4], "little")
            values.append(bytes(raw[place + 4 : place + 4 + size]))
            place += 4 + size
        if place != len(raw):
            raise Refused(f"Input {name!r} ends within a value")
        return values
    kind = np.dtype(_FLOATS.get(datatype) or _WHOLE.get(datatype) or ("bool" if datatype == "BOOL" else "V1"))
    if kind.kind == "V" or len(raw) % kind.itemsize:
        raise Refused(f"Input {name!r} has {len(raw)} bytes, which are not {datatype}")
    # Any byte but 0 is true, and numpy's own reading of others is undefined.
    found = np.frombuffer(raw, np.uint8 if kind.kind == "b" else kind.newbyteorder("<"))
    values = (found != 0).tolist() if kind.kind == "b" else found.tolist()
    return list(values)


def _floats(name: str, datatype: str, flat: list[Any]) -> list[Any]:
    kinds = {*map(type, flat)}
    if not kinds <= {float, int, type(None)}:
        raise Refused(f"Input {name!r} has values that are not {datatype}")
    if datatype == "FP64" and kinds == {float}:
        return flat
    try:
        with np.errstate(over="ignore"):
            return np.array(flat, _FLOATS[datatype]).tolist()  # type: ignore[no-any-return]
    except OverflowError as error:
        raise Refused(f"Input {name!r} has values too large for {datatype}") from error


def _whole(name: str, datatype: str, flat: list[Any]) -> list[Any]:
    if not {*map(type, flat)} <= {int}:
        raise Refused(f"Input {name!r} has values that are not {datatype}")
    bounds = np.iinfo(_WHOLE[datatype])
    if flat and not bounds.min <= min(flat) <= max(flat) <= bounds.max:
        raise Refused(f"Input {name!r} has values outside {datatype}")
    return flat


def _texts(name: str, flat: list[Any], kind: str | None) -> list[Any]:
    if not {*map(type, flat)} <= {str, bytes, type(None)}:
        raise Refused(f"Input {name!r} has values that are not BYTES")
    try:
        if kind == "base64":
            return [None if value is None else _as_base64(value) for value in flat]
        if kind == BASE64_TEXT:
            return [None if value is None else base64.b64decode(_as_base64(value)).decode() for value in flat]
        texts = [value.decode() if isinstance(value, bytes) else value for value in flat]
        return [None if text is None else json.loads(text) for text in texts] if kind == "pd_json" else texts
    except ValueError as error:
        raise Refused(f"Input {name!r} has values that are not {kind or 'text'}: {error}") from error


def _as_base64(value: str | bytes) -> str:
    """As MLServer: what is base64 stays so, anything else are bytes to be written so."""
    data = value.encode() if isinstance(value, str) else value
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error:
        data = base64.b64encode(data)
    return data.decode()
