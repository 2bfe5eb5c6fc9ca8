"""What answers of the Open Inference Protocol carry: numbers that JSON lacks, binary tensors, shapes."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import asgi
import models
import pytest
from test_oip import INFER, asgi_facts, infer

from kbuild.serving.answer.limits import Limits
from kbuild.serving.answer.reply import Reply
from kbuild.serving.oip.endpoints import OpenInference
from kbuild.serving.oip.question import InferRequest, QuestionReader
from kbuild.serving.oip.tensors import Refused

NAN, INF = math.nan, math.inf
ONE_FLOAT = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]
ASKED = InferRequest(columns=None, arrays=[], params=None, id=None, outputs=None)


def write(predictions: Any, signature: list[dict[str, Any]] | None = None, **asked: Any) -> Reply:
    made = OpenInference(replace(asgi_facts(), outputs=signature), Limits())
    reply = Reply(status=200, body=json.dumps({"predictions": predictions}).encode())
    return made.write(reply, replace(ASKED, **asked))


def strictly(reply: Reply) -> list[dict[str, Any]]:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    told: list[dict[str, Any]] = json.loads(reply.body, parse_constant=refuse)["outputs"]
    return told


@pytest.mark.parametrize("missing", [NAN, INF, -INF])
def test_a_float_is_a_float_where_no_value_of_the_answer_is_in_json(missing: float) -> None:
    (array,) = strictly(write([missing]))
    assert (array["datatype"], array["data"], "parameters" in array) == ("FP64", [None], False)
    (single,) = strictly(write([missing], ONE_FLOAT))
    assert (single["datatype"], single["data"]) == ("FP32", [None])
    (column,) = strictly(write([{"sum": missing}], [{"type": "double", "name": "sum"}]))
    assert (column["datatype"], column["data"]) == ("FP64", [None])
    (null,) = strictly(write([{"sum": None}], [{"type": "double", "name": "sum"}]))
    assert (null["datatype"], null["data"]) == ("FP64", [None])


def test_what_is_missing_among_texts_and_in_cells_is_null() -> None:
    text = [{"type": "string", "name": "word"}]
    (told,) = strictly(write([{"word": "a"}, {"word": NAN}], text))
    assert (told["datatype"], told["data"]) == ("BYTES", ['"a"', "null"])
    (told,) = strictly(write([{"word": NAN}], text))
    assert (told["datatype"], told["data"]) == ("BYTES", ["null"])
    (told,) = strictly(write([{"cell": {"k": [NAN, 1.5]}}]))
    assert json.loads(told["data"][0]) == {"k": [None, 1.5]}


def unpack(reply: Reply) -> tuple[list[dict[str, Any]], bytes]:
    (length,) = (value for name, value in reply.headers if name == "inference-header-content-length")
    assert reply.content_type == "application/octet-stream"
    return json.loads(reply.body[: int(length)])["outputs"], reply.body[int(length) :]


def test_binary_outputs_have_every_float() -> None:
    outputs, raw = unpack(write([1.5, NAN, INF, -INF], binary=True))
    assert outputs == [
        {"name": "output-1", "shape": [4, 1], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
    ]
    assert raw == struct.pack("<4d", 1.5, NAN, INF, -INF)
    outputs, raw = unpack(write([0.5, None, INF], ONE_FLOAT, binary=True))
    assert (outputs[0]["datatype"], raw) == ("FP32", struct.pack("<3f", 0.5, NAN, INF))


def test_binary_outputs_of_each_kind_and_beside_json() -> None:
    rows = [{"n": 2**63 - 1, "u": 2**64 - 1, "yes": True, "word": "é"}, {"n": -1, "u": 0, "yes": False, "word": ""}]
    outputs, raw = unpack(write(rows, binary=True))
    assert [(each["datatype"], each["parameters"]["binary_data_size"]) for each in outputs] == [
        ("INT64", 16), ("UINT64", 16), ("BOOL", 2), ("BYTES", 10)
    ]  # fmt: skip
    assert outputs[3]["parameters"]["content_type"] == "str"
    assert raw == struct.pack("<2q2Q2?", 2**63 - 1, -1, 2**64 - 1, 0, True, False) + b"\2\0\0\0\xc3\xa9\0\0\0\0"
    outputs, raw = unpack(write(rows, outputs=("u", "n"), binary=frozenset({"n"})))
    assert outputs[0] == {"name": "u", "shape": [2, 1], "datatype": "UINT64", "data": [2**64 - 1, 0]}
    assert raw == struct.pack("<2q", 2**63 - 1, -1)
    outputs, raw = unpack(write([{"n": 1}], [{"type": "integer", "name": "n"}], binary=True))
    assert (outputs[0]["datatype"], raw) == ("INT32", struct.pack("<i", 1))


def test_a_number_that_is_too_large_for_a_float_stays_in_json() -> None:
    outputs, raw = unpack(write([{"x": 10**400, "y": 1.5}], binary=True))
    assert (outputs[0]["data"], raw) == ([10**400], struct.pack("<d", 1.5))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, frozenset()),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"parameters": {"binary_data_output": False}, "outputs": [{"name": "x"}]}, frozenset()),
        ({"outputs": [{"name": "x", "parameters": {"binary_data": True}}, {"name": "y"}]}, frozenset({"x"})),
        ({"outputs": [{"name": "x", "parameters": {"binary_data": "no"}}, {"name": "y"}]}, frozenset()),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "x", "parameters": {"binary_data": False}}, {"name": "y"}],
            },
            frozenset({"y"}),
        ),
    ],
)
def test_which_outputs_are_asked_for_in_binary(more: dict[str, Any], expected: Any) -> None:
    inputs = [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1.0]}]
    reader = QuestionReader(asgi_facts(), Limits())
    assert reader.read(json.dumps({"inputs": inputs, **more}).encode(), memoryview(b"")).binary == expected


def test_parameters_of_outputs_are_an_object() -> None:
    inputs = [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1.0]}]
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "x", "parameters": [1]}]}).encode()
    with pytest.raises(Refused, match=r"outputs\[0\]\.parameters is not an object"):
        QuestionReader(asgi_facts(), Limits()).read(body, memoryview(b""))


def test_an_infinity_of_the_model_reaches_a_client_that_asks_in_binary(tmp_path: Path) -> None:
    app = asgi.serve(models.make_model("mixed", tmp_path, lambda table, *_: table[["x"]] / 0.0), tmp_path)
    inputs = [
        {"name": "x", "datatype": "FP64", "shape": [3], "data": [1.0, -1.0, 0.0]},
        {"name": "n", "datatype": "INT64", "shape": [3], "data": [1, 2, 3]},
        {"name": "flag", "datatype": "BOOL", "shape": [3], "data": [True, True, True]},
        {"name": "text", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]},
    ]
    (told,) = infer(app, inputs)[1]["outputs"]
    assert (told["datatype"], told["data"]) == ("FP64", [None, None, None])
    body = json.dumps({"inputs": inputs, "outputs": [{"name": "x", "parameters": {"binary_data": True}}]}).encode()
    status, headers, answer = asyncio.run(asgi.call(app, "POST", INFER, body))
    length = int(headers["inference-header-content-length"])
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    first, second, third = struct.unpack("<3d", answer[length:])
    assert (first, second, math.isnan(third)) == (INF, -INF, True)


def test_metadata_has_the_shape_that_answers_have() -> None:
    made = OpenInference(replace(asgi_facts(), outputs=ONE_FLOAT), Limits())
    (told,) = json.loads(made._model.body)["outputs"]
    assert told["shape"] == [-1, 1] and strictly(write([0.5, 1.5], ONE_FLOAT))[0]["shape"] == [2, 1]


def test_an_unnamed_column_has_one_value_a_row() -> None:
    reader = QuestionReader(replace(asgi_facts(), inputs=[{"type": "string"}]), Limits())

    def read(shape: list[int], data: list[str]) -> Any:
        given = {"name": "input-0", "datatype": "BYTES", "shape": shape, "data": data}
        return reader.read(json.dumps({"inputs": [given]}).encode(), memoryview(b"")).arrays

    assert read([2], ["a", "b"]) == read([2, 1], ["a", "b"]) == ["a", "b"]
    with pytest.raises(Refused, match=r"one value a row: \[1\] or \[1, 1\]"):
        read([1, 2], ["a", "b"])


# MLServer 1.7.1 makes an array of this shape of it (its NumpyCodec), and an answer of (0, n) is one of no values.
EMPTY = {"name": "input-0", "datatype": "FP32", "shape": [0, 2, 2], "data": []}
PICTURES = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, 2]}}]


def _ask(given: list[dict[str, Any]], inputs: Any, scores: Any, **more: Any) -> Reply:
    made = OpenInference(replace(asgi_facts(), inputs=inputs, outputs=scores), Limits())

    def ask(question: InferRequest) -> tuple[Reply, bool]:
        raise AssertionError("the model is not asked about nothing")

    return made.answer(json.dumps({"inputs": given, **more}).encode(), {}, ask)[0]


def test_an_array_without_rows_has_an_answer_without_rows() -> None:
    scores = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 10]}}]
    reply = _ask([EMPTY], PICTURES, scores, id="7")
    told = json.loads(reply.body)
    assert (reply.status, told["id"], told["parameters"]) == (200, "7", {"content_type": "np"})
    assert told["outputs"] == [{"name": "output-1", "shape": [0, 10], "datatype": "FP32", "data": []}]
    (column,) = strictly(_ask([EMPTY], PICTURES, ONE_FLOAT))
    assert column["shape"] == [0, 1], "as an answer of two rows is [2, 1]"
    two = [{**each, "name": name} for name, each in (("mean", *ONE_FLOAT), ("class", *scores))]
    told = json.loads(_ask([EMPTY], PICTURES, two, outputs=[{"name": "class"}]).body)
    assert [each["shape"] for each in told["outputs"]] == [[0, 10]] and told["parameters"]["content_type"] == "dict"
    raw = _ask([EMPTY], PICTURES, scores, parameters={"binary_data_output": True})
    length = int(dict(raw.headers)["inference-header-content-length"])
    assert length == len(raw.body) and b'"binary_data_size": 0' in raw.body


@pytest.mark.parametrize(
    ("given", "outputs", "says"),
    [
        ([{**EMPTY, "shape": [0, 2, 3]}], ONE_FLOAT, "'input-0' has the shape [0, 2, 3]; the model's is [-1, 2, 2]"),
        ([{**EMPTY, "shape": [0, 2]}], ONE_FLOAT, "'input-0' has the shape [0, 2]; the model's is [-1, 2, 2]"),
        ([EMPTY, {**EMPTY, "name": "b"}], ONE_FLOAT, "The model takes one input, not 2"),
        ([EMPTY], None, "the signature does not tell the shape of the answer"),
        ([EMPTY], [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, -1]}}], "does not tell"),
        ([EMPTY], [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [1, 2]}}], "does not tell"),
    ],
)
def test_an_array_without_rows_that_has_no_answer_is_refused(given: Any, outputs: Any, says: str) -> None:
    reply = _ask(given, PICTURES, outputs)
    assert reply.status == 400 and says in json.loads(reply.body)["error"]


def test_inputs_of_which_one_has_no_rows_are_told_apart() -> None:
    inputs = [{**PICTURES[0], "name": name} for name in "ab"]
    a, b = ({**EMPTY, "name": name} for name in "ab")
    assert strictly(_ask([a, b], inputs, ONE_FLOAT))[0]["shape"] == [0, 1]
    assert b"no input b" in _ask([a], inputs, ONE_FLOAT).body
    one = {**b, "shape": [1, 2, 2], "data": [1.0, 2, 3, 4]}
    assert b"different numbers of rows: 0, 1" in _ask([a, one], inputs, ONE_FLOAT).body
