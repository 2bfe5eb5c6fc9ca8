"""A request of the protocol as one for ``/invocations``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kbuild.serving.answer.limits import Limits
from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.oip.tensors import BASE64_TEXT, Refused, nest, read_tensor, type_of

# What clients send beside a model's own: for the codec, the binary extension, and schedulers that are not here.
_CLIENTS_OWN = {"content_type", "headers", "binary_data_output", "priority", "timeout"}
_CLIENTS_OWN |= {"sequence_id", "sequence_start", "sequence_end"}
_PATHS = {"inputs": list, "parameters": dict, "outputs": list, "id": str}
_INPUT = {"name": str, "shape": list, "datatype": str}
_Tensor = tuple[list[Any], list[int]]  # its values in row-major order, and its shape
_WORDS = {list: "a list", dict: "an object", str: "text"}


@dataclass(frozen=True, kw_only=True, slots=True)
class InferRequest:
    """``columns`` of a table, None where ``arrays`` are asked about; ``outputs`` are those asked for, None for all.

    ``binary`` are those of them that are to come in binary, True for all of them. What is asked has the values that
    MLflow's JSON would have.
    """

    columns: Mapping[str, list[Any]] | None
    arrays: Any
    params: Mapping[str, Any] | None
    id: str | None
    outputs: tuple[str, ...] | None
    binary: frozenset[str] | bool = frozenset()
    empty: bool = False
    """Arrays without rows, whose shape no JSON of MLflow's tells the model."""

    def as_json(self) -> bytes:
        """The request that ``/invocations`` takes."""
        if self.columns is None:
            asked = {"inputs": self.arrays}
        else:
            rows = list(zip(*self.columns.values(), strict=True))
            asked = {"dataframe_split": {"columns": list(self.columns), "data": rows}}
        return json.dumps(asked if self.params is None else {**asked, "params": self.params}).encode()


class QuestionReader:
    """For one model, by its signature; may be used from many threads."""

    def __init__(self, facts: Facts, limits: Limits) -> None:
        self._limits = limits
        self._columns = {str(each["name"]): each for each in facts.inputs or () if each.get("name")}
        self._tensors = bool(facts.inputs) and all(each.get("type") == "tensor" for each in facts.inputs or ())
        self._unnamed = [each for each in facts.inputs or () if not each.get("name")]
        self._params = {str(each["name"]) for each in facts.params or ()}

    def read(self, text: bytes | memoryview, binary: memoryview) -> InferRequest:
        """``binary`` follows the JSON; raises Refused, and RecursionError for JSON too deep."""
        request = _parse(text)
        inputs = request["inputs"]
        if len(inputs) > self._limits.columns:
            raise Refused(f"The request has more than {self._limits.columns} inputs.", 413)
        found: dict[str, _Tensor] = {}
        for given in inputs:
            name = given["name"]
            if name in found:
                raise Refused(f"There are two inputs {name!r}")
            if given["shape"] and given["shape"][0] > self._limits.rows:
                raise Refused(f"The request has more than {self._limits.rows} rows.", 413)
            raw, binary = _take(given, binary)
            found[name] = read_tensor(given, raw, self._kind_of(given))
        if len(binary):
            raise Refused(f"{len(binary)} bytes belong to no input")
        parameters = request.get("parameters") or {}
        columns = arrays = None
        empty = self._tensors and any(len(shape) > 1 and not shape[0] for _, shape in found.values())
        if empty:
            self._check_empty(found)
        elif self._is_table(parameters.get("content_type")):
            columns = self._table(found)
        else:
            arrays = self._arrays(found)
        outputs = request.get("outputs")
        packed = parameters.get("binary_data_output") is True
        wanted = {
            each["name"] for each in outputs or () if (each.get("parameters") or {}).get("binary_data", packed) is True
        }
        return InferRequest(
            columns=columns,
            arrays=arrays,
            params={n: v for n, v in parameters.items() if n in self._params or n not in _CLIENTS_OWN} or None,
            id=request.get("id"),
            outputs=tuple(each["name"] for each in outputs) if outputs else None,
            binary=True if packed and not outputs else frozenset(wanted),
            empty=empty,
        )

    def _kind_of(self, given: Mapping[str, Any]) -> str | None:
        kind = (given.get("parameters") or {}).get("content_type")
        if kind == "base64" and self._spec(given["name"]).get("type") == "string":
            return BASE64_TEXT
        if kind is None and given["name"] in self._columns:
            return type_of(self._columns[given["name"]])[1]
        return kind if isinstance(kind, str) else None

    def _spec(self, name: str) -> Mapping[str, Any]:
        return self._columns.get(name) or (self._unnamed or [{}])[0]

    def _is_table(self, kind: Any) -> bool:
        """Whether the signature has columns, or the request says so."""
        return not self._tensors and (kind == "pd" or bool(self._columns))

    def _arrays(self, found: Mapping[str, _Tensor]) -> Any:
        """One array, or several by name."""
        arrays = {name: self._array(name, *each) for name, each in found.items()}
        single = self._unnamed or (not self._columns and len(arrays) == 1)
        if single and len(arrays) != 1:
            raise Refused(f"The model takes one input, not {len(arrays)}")
        return next(iter(arrays.values())) if single else arrays

    def _check_empty(self, found: Mapping[str, _Tensor]) -> None:
        """That these are all inputs, each of its shape but for its rows."""
        if not self._unnamed and (lacking := self._columns.keys() - found.keys()):
            raise Refused(f"The request has no input {', '.join(sorted(lacking))}")
        if self._unnamed and len(found) != 1:
            raise Refused(f"The model takes one input, not {len(found)}")
        for name, (_, shape) in found.items():
            wanted = (self._spec(name).get("tensor-spec") or {}).get("shape") or []
            if shape[:1] != [0]:
                raise Refused(f"The inputs have different numbers of rows: 0, {(shape or [1])[0]}")
            if len(shape) != len(wanted) or any(has not in (is_, -1) for is_, has in zip(shape, wanted, strict=True)):
                raise Refused(f"Input {name!r} has the shape {shape}; the model's is {list(wanted)}")

    def _array(self, name: str, flat: list[Any], shape: list[int]) -> list[Any]:
        if len(self._unnamed) == 1 and not self._tensors:
            return self._column(name, flat, shape)
        return nest(flat, shape)

    def _table(self, found: Mapping[str, _Tensor]) -> dict[str, list[Any]]:
        """Columns of one length."""
        if len(found) == 1 and self._columns and not found.keys() & self._columns.keys():
            return self._split(found)
        columns = {name: self._column(name, *each) for name, each in found.items()}
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            raise Refused(f"The inputs have different numbers of rows: {', '.join(map(str, sorted(lengths)))}")
        return columns

    def _split(self, found: Mapping[str, _Tensor]) -> dict[str, list[Any]]:
        """One matrix for all columns, in the signature's order."""
        ((name, (flat, shape)),) = found.items()
        count = len(self._columns)
        if len(shape) != 2 or shape[1] != count:
            raise Refused(
                f"The model has no input {name!r}, and a matrix of all its inputs has the shape [-1, {count}]"
            )
        return {
            name: _as_whole(flat[n::count]) if each.get("type") in ("long", "integer") else flat[n::count]
            for n, (name, each) in enumerate(self._columns.items())
        }

    def _column(self, name: str, flat: list[Any], shape: list[int]) -> list[Any]:
        rows = shape[0] if shape else 1
        if math.prod(shape[1:]) == 1:
            return flat
        if self._spec(name).get("type") not in ("array", None):
            raise Refused(f"Input {name!r} has the shape {shape}; it has one value a row: [{rows}] or [{rows}, 1]")
        return nest(flat, shape)


def _as_whole(values: list[Any]) -> list[Any]:
    """A matrix has one datatype: whole numbers among others come as floats."""
    whole = all(isinstance(value, float) and value.is_integer() for value in values)
    return [int(value) for value in values] if whole else values


def _parse(text: bytes | memoryview) -> dict[str, Any]:
    """The request's JSON, of which every field that is read here has its type; raises Refused."""
    try:
        request = json.loads(bytes(text))
    except ValueError as error:
        raise Refused(f"The request is not JSON: {error}", 422) from error
    if not isinstance(request, dict) or not request.get("inputs"):
        raise Refused("The request is not an object with inputs", 422)
    for name, kind in _PATHS.items():
        if request.get(name) is not None and not isinstance(request[name], kind):
            raise Refused(f"{name} is not {_WORDS[kind]}", 422)
    for number, given in enumerate(request["inputs"]):
        _check_input(f"inputs[{number}]", given)
    for number, given in enumerate(request.get("outputs") or ()):
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise Refused(f"outputs[{number}] is not an object with a name", 422)
        if not isinstance(given.get("parameters") or {}, dict):
            raise Refused(f"outputs[{number}].parameters is not an object", 422)
    return request


def _check_input(place: str, given: Any) -> None:
    if not isinstance(given, dict):
        raise Refused(f"{place} is not an object", 422)
    for name, kind in _INPUT.items():
        if not isinstance(given.get(name), kind):
            raise Refused(f"{place}.{name} is not {_WORDS[kind]}", 422)
    if any(type(size) is not int or size < 0 for size in given["shape"]):
        raise Refused(f"{place}.shape has a value that is not a size", 422)
    if not isinstance(given.get("parameters") or {}, dict):
        raise Refused(f"{place}.parameters is not an object", 422)
    parameters = given.get("parameters") or {}
    binary = "binary_data_size" in parameters
    if binary and (type(parameters["binary_data_size"]) is not int or parameters["binary_data_size"] < 0):
        raise Refused(f"{place}.parameters.binary_data_size is not a number of bytes", 422)
    if binary == ("data" in given) or not isinstance(given.get("data", []), list | str):
        raise Refused(f"{place} has not its data in a list, nor binary_data_size in place of it", 422)


def _take(given: Mapping[str, Any], binary: memoryview) -> tuple[memoryview | None, memoryview]:
    """The bytes of an input, None where its values are in the JSON, and what is left."""
    if "data" in given:
        return None, binary
    size = given["parameters"]["binary_data_size"]
    if size > len(binary):
        raise Refused(f"Input {given['name']!r} has {size} bytes, and the request {len(binary)}")
    return binary[:size], binary[size:]
