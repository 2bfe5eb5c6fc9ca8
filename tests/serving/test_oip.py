"""The Open Inference Protocol against what it says, and against ``/invocations`` of the same server."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import asgi
import jsonschema
import models
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from kbuild.serving.answer.limits import Limits
from kbuild.serving.answer.reply import Reply
from kbuild.serving.oip.endpoints import OpenInference
from kbuild.serving.oip.question import InferRequest, QuestionReader
from kbuild.serving.oip.tensors import Refused, describe, nest, read_tensor, write_tensor

# What the protocol's OpenAPI (specification/protocol/open_inference_rest.yaml) demands of answers.
TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
    },
}
VALUES = {"type": "array", "items": {"type": ["number", "string", "boolean", "null"]}}
ANSWER = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "outputs": {
            "type": "array",
            "items": {**TENSOR, "required": [*TENSOR["required"], "data"], "properties": {"data": VALUES}},
        },
    },
}
MODEL = {
    "type": "object",
    "required": ["name", "platform"],
    "properties": {
        "versions": {"type": "array", "items": {"type": "string"}},
        "inputs": {"type": "array", "items": TENSOR},
        "outputs": {"type": "array", "items": TENSOR},
    },
}
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
INFER = "/v2/models/model/infer"


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = {}
    for name in ("mixed", "numbers", "scored", "dated", "tensor", "bare", "optional"):
        folder = tmp_path_factory.mktemp(name)
        made[name] = asgi.serve(models.make_model(name, folder), folder)
    return made


def ask(app: Any, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, told, text = asyncio.run(asgi.call(app, method, path, body, named))
    return status, told, json.loads(text) if text else None


def infer(app: Any, inputs: list[dict[str, Any]], **more: Any) -> tuple[int, Any]:
    status, _, told = ask(app, "POST", INFER, json.dumps({"inputs": inputs, **more}).encode())
    jsonschema.validate(told, ANSWER if status == 200 else ERROR)
    return status, told


def tensor(name: str, datatype: str, data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data, **more}


NUMBERS = [tensor("a", "FP64", [1.5, 2]), tensor("b", "FP32", [0.5, 2.5]), tensor("c", "INT64", [3, 4])]


def columns_of(told: Any) -> dict[str, Any]:
    return {each["name"]: each["data"] for each in told["outputs"]}


def test_a_table_is_predicted_as_invocations_predicts_it(apps: dict[str, Any]) -> None:
    split = {"columns": ["a", "b", "c"], "data": [[1.5, 0.5, 3], [2.0, 2.5, 4]]}
    body = json.dumps({"dataframe_split": split}).encode()
    theirs = ask(apps["numbers"], "POST", "/invocations", body, content_type="application/json")[2]["predictions"]
    status, told = infer(apps["numbers"], NUMBERS, id="42", parameters={"content_type": "pd"})
    assert status == 200 and (told["id"], told["model_name"]) == ("42", "model")
    assert told["parameters"] == {"content_type": "pd"}
    assert columns_of(told) == {name: [row[name] for row in theirs] for name in theirs[0]}
    types = {"a": "FP64", "b": "FP64", "c": "INT64", "sum": "FP64", "big": "BOOL"}
    assert {each["name"]: each["datatype"] for each in told["outputs"]} == types
    assert [each["shape"] for each in told["outputs"]] == [[2, 1]] * 5
    assert "kbuild_fast_answers_total 2" in asyncio.run(asgi.call(apps["numbers"], "GET", "/metrics"))[2].decode()


def test_binary_tensors_as_triton_sends_them_and_one_matrix_for_all(apps: dict[str, Any]) -> None:
    expected = columns_of(infer(apps["numbers"], NUMBERS)[1])
    raw = [struct.pack("<2d", 1.5, 2), struct.pack("<2f", 0.5, 2.5), struct.pack("<2q", 3, 4)]
    inputs = [
        {
            "name": each["name"],
            "datatype": each["datatype"],
            "shape": [2],
            "parameters": {"binary_data_size": len(part)},
        }
        for each, part in zip(NUMBERS, raw, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    length = {"inference_header_content_length": str(len(head))}
    named = {name.replace("_", "-"): value for name, value in length.items()}
    status, told, answer = asyncio.run(asgi.call(apps["numbers"], "POST", INFER, head + b"".join(raw), named))
    size = int(told["inference-header-content-length"])
    assert (status, [each["name"] for each in json.loads(answer[:size])["outputs"]]) == (200, [*expected])
    floats, whole, truths = (expected[name] for name in ("a", "c", "big"))
    assert answer[size:] == struct.pack("<2d2d2q2d2?", *floats, *expected["b"], *whole, *expected["sum"], *truths)
    matrix = {"name": "input-0", "datatype": "FP64", "shape": [2, 3], "data": [[1.5, 0.5, 3], [2, 2.5, 4]]}
    assert columns_of(infer(apps["numbers"], [matrix])[1]) == expected
    for body in (head + b"".join(raw)[:-1], head + b"".join(raw) + b"x"):
        assert ask(apps["numbers"], "POST", INFER, body, **length)[0] == 400
    assert ask(apps["numbers"], "POST", INFER, head, inference_header_content_length="9999")[0] == 400


def test_texts_truths_dates_and_bytes(apps: dict[str, Any]) -> None:
    inputs = [
        tensor("x", "FP64", [1.5, None]),
        tensor("n", "INT64", [9007199254740993, 2]),
        tensor("flag", "BOOL", [True, False]),
        tensor("text", "BYTES", ["é", '"'], parameters={"content_type": "str"}),
    ]
    told = columns_of(infer(apps["mixed"], inputs, parameters={"word": "w"})[1])
    assert told["n"] == [9007199254740993, 2] and told["x"] == [1.5, None]
    assert told["flag dtype"] == ["bool", "bool"] and told["text"] == ["é", '"'] and "'w'" in told["params"][0]
    dated = [
        tensor("x", "FP64", [1.0]),
        tensor("when", "BYTES", ["2026-11-29T01:02:03"], parameters={"content_type": "datetime"}),
        tensor("blob", "BYTES", ["AAH/"], parameters={"content_type": "base64"}),
        tensor("small", "INT32", [7]),
    ]
    told = columns_of(infer(apps["dated"], dated)[1])
    assert (told["when"], told["blob"]) == (["2026-11-29T01:02:03"], ["AAH/\n"])
    assert told["small dtype"] == ["int32"] and told["when dtype"] == ["datetime64[ns]"]


def test_base64_of_a_column_of_texts_is_the_text(apps: dict[str, Any]) -> None:
    """As MLServer's codec: what is base64 is what it encodes, anything else is itself."""
    packed = {"content_type": "base64"}
    inputs = [tensor("x", "FP64", [1.0, 2, 3]), tensor("n", "INT64", [1, 2, 3]), tensor("flag", "BOOL", [True] * 3)]
    texts = tensor("text", "BYTES", ["aGk=", "w6k=", "not it"], parameters=packed)
    assert columns_of(infer(apps["mixed"], [*inputs, texts])[1])["text"] == ["hi", "é", "not it"]
    status, told = infer(apps["mixed"], [*inputs, tensor("text", "BYTES", ["/w==", "", ""], parameters=packed)])
    assert status == 400 and "'text'" in told["error"] and "base64" in told["error"]


def test_metadata_tells_the_parameters_and_their_defaults(apps: dict[str, Any]) -> None:
    told = ask(apps["mixed"], "GET", "/v2/models/model")[2]
    schema = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
    jsonschema.validate(told["parameters"], schema)
    defaults = {each["name"]: each["default"] for each in models.PARAMS}
    assert told["parameters"] == defaults and defaults["word"] == "é"
    assert "parameters" not in ask(apps["tensor"], "GET", "/v2/models/model")[2]


def test_arrays_go_to_models_without_columns(apps: dict[str, Any]) -> None:
    matrix = {"name": "any", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    told = infer(apps["tensor"], [matrix])[1]
    assert [each["name"] for each in told["outputs"]] and "[3. 4.]" in json.dumps(told)
    assert "ndarray" in json.dumps(infer(apps["bare"], [matrix])[1])
    table = [tensor("p", "INT64", [1, 2]), tensor("q", "BYTES", ["a", "b"])]
    told = columns_of(infer(apps["bare"], table, parameters={"content_type": "pd"})[1])
    assert (told["p"], told["q"]) == ([1, 2], ["a", "b"])


def test_only_the_outputs_that_are_asked_for(apps: dict[str, Any]) -> None:
    told = infer(apps["numbers"], NUMBERS, outputs=[{"name": "sum"}, {"name": "a"}])[1]
    assert list(columns_of(told)) == ["sum", "a"]
    status, told = infer(apps["numbers"], NUMBERS, outputs=[{"name": "zzz"}])
    assert status == 400 and "no output zzz" in told["error"]


def test_metadata_and_readiness(apps: dict[str, Any]) -> None:
    app = apps["mixed"]
    told = ask(app, "GET", "/v2/models/model")[2]
    jsonschema.validate(told, MODEL)
    assert [(each["name"], each["datatype"], each["parameters"]["content_type"]) for each in told["inputs"]] == [
        ("x", "FP64", "np"), ("n", "INT64", "np"), ("flag", "BOOL", "np"), ("text", "BYTES", "str")
    ]  # fmt: skip
    server = ask(app, "GET", "/v2")[2]
    assert server["name"] == "kbuild" and ask(app, "GET", "/v2/")[2] == server
    assert ask(app, "GET", "/v2/health/live")[2] == {"live": True}
    assert ask(app, "GET", "/v2/health/ready")[2] == {"ready": True}
    assert ask(app, "GET", "/v2/models/model/ready")[2] == {"name": "model", "ready": True}
    app.ready = False
    try:
        assert ask(app, "GET", "/v2/health/live")[0] == 200
        for path in ("/v2/health/ready", "/v2/models/model/ready"):
            status, headers, told = ask(app, "GET", path)
            assert (status, told, headers["retry-after"]) == (503, {"error": "The model is not ready yet."}, "1")
        assert ask(app, "POST", INFER, b"{}")[0] == 503
    finally:
        app.ready = True


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [
        (404, "GET", "/v2/models/other"),
        (404, "GET", "/v2/models/model/versions/99"),
        (404, "POST", "/v2/models/other/infer"),
        (404, "GET", "/v2/models"),
        (404, "GET", "/v2/nothing"),
        (405, "GET", INFER),
        (405, "POST", "/v2"),
        (405, "POST", "/v2/models/model"),
        (405, "DELETE", "/v2/health/live"),
    ],
)
def test_what_is_not_there_is_said_as_the_protocol_says_it(
    apps: dict[str, Any], status: int, method: str, path: str
) -> None:
    found, _, told = ask(apps["numbers"], method, path)
    jsonschema.validate(told, ERROR)
    assert found == status


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (422, b""),
        (422, b"nonsense"),
        (422, b"[]"),
        (422, b'{"inputs": []}'),
        (422, b'{"inputs": [1]}'),
        (422, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1]}]}'),
        (422, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [-1], "data": [1]}]}'),
        (422, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [true], "data": [1]}]}'),
        (422, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}], "parameters": 1}'),
        *(
            (422, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "parameters": %s}]}' % b)
            for b in (b'{"binary_data_size": "8"}', b'{"binary_data_size": -8}', b'{"binary_data_size": true}')
        ),
        (400, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [2], "data": [1]}]}'),
        (400, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": ["1"]}]}'),
        (400, b'{"inputs": [{"name": "a", "datatype": "FP99", "shape": [1], "data": [1]}]}'),
        (400, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}]}'),
        (400, b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        (400, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [0, 1000000000], "data": []}]}'),
        (400, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [9, 0], "data": []}]}'),
        (413, b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1000000000, 0], "data": []}]}'),
    ],
)
def test_a_wrong_request_is_refused_in_plain_words(apps: dict[str, Any], status: int, body: bytes) -> None:
    found, _, told = ask(apps["numbers"], "POST", INFER, body)
    jsonschema.validate(told, ERROR)
    assert (found, bool(told["error"])) == (status, True)


def test_errors_of_the_model_and_of_params_are_errors_of_the_protocol(apps: dict[str, Any]) -> None:
    status, told = infer(apps["scored"], NUMBERS, parameters={"scael": 2.0})
    assert status == 400 and "Did you mean scale?" in told["error"]
    mixed = [tensor("x", "FP64", [1.0]), tensor("n", "INT64", [13]), tensor("flag", "BOOL", [True])]
    assert infer(apps["mixed"], [*mixed, tensor("text", "BYTES", ["t"])])[0] in (400, 500)
    status, told = infer(apps["numbers"], NUMBERS[:1])
    assert status == 400 and "missing inputs" in told["error"]


def test_the_gates_limits_and_token_are_those_of_invocations(tmp_path: Path) -> None:
    loaded = models.make_model("numbers", tmp_path)
    app = asgi.serve(loaded, tmp_path, max_rows=1, token="t", max_body=2000)  # noqa: S106
    body = json.dumps({"inputs": NUMBERS}).encode()
    status, _, told = ask(app, "POST", INFER, body)
    assert (status, told) == (401, {"error": "A bearer token is needed."})
    status, _, told = ask(app, "POST", INFER, body, authorization="Bearer t")
    assert (status, told) == (413, {"error": "The request has more than 1 rows."})
    assert ask(app, "POST", INFER, body + b" " * 2000, authorization="Bearer t")[0] == 413
    assert ask(app, "GET", "/v2/health/ready")[0] == 200
    assert ask(app, "GET", "/v2", authorization="Bearer t")[0] == 200


def test_an_error_is_no_longer_than_somebody_reads(apps: dict[str, Any]) -> None:
    status, told = infer(apps["numbers"], [tensor("x" * 100_000, "FP64", ["no number"])])
    assert status == 400 and len(told["error"]) < 5000


def test_batched_requests_are_answered_the_same(tmp_path: Path) -> None:
    loaded = models.make_model("numbers", tmp_path)
    plain, batched = asgi.serve(loaded, tmp_path), asgi.serve(loaded, tmp_path, max_batch=4)
    asyncio.run(batched._warm())
    assert infer(batched, NUMBERS) == infer(plain, NUMBERS)
    assert infer(batched, [tensor("a", "FP64", ["x"])])[0] == 400


@given(st.binary(max_size=120))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_any_body_is_survived(body: bytes) -> None:
    reader = QuestionReader(asgi_facts(), Limits())
    try:
        reader.read(body, memoryview(b""))
    except Refused as refused:
        assert refused.status in (400, 413, 422)


def asgi_facts() -> Any:
    from kbuild.serving.answer.model_facts import Facts

    columns = [{"name": "a", "type": "double"}]
    nothing = dict.fromkeys(("model_id", "run_id", "outputs", "params", "example", "recorded"))
    return Facts(mlflow_version="3", inputs=columns, **nothing)


KINDS = {"BOOL": st.booleans(), "INT8": st.integers(-128, 127), "UINT64": st.integers(0, 2**64 - 1)}
KINDS |= {"FP32": st.floats(width=32, allow_nan=False), "FP64": st.floats(allow_nan=False), "BYTES": st.text()}


@given(st.sampled_from(sorted(KINDS)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(KINDS[kind], max_size=6))))
def test_values_are_read_as_they_were_sent(case: tuple[str, list[Any]]) -> None:
    datatype, values = case
    given = {"name": "x", "datatype": datatype, "shape": [len(values)], "data": values}
    assert read_tensor(given, None, "str") == (values, [len(values)])


def test_tensors_of_the_signature_and_of_values() -> None:
    assert nest([1, 2, 3, 4, 5, 6], [1, 3, 2]) == [[[1, 2], [3, 4], [5, 6]]]
    assert describe({"type": "array", "items": {"type": "double"}}, "x")["parameters"] == {"content_type": "pd_json"}
    spec = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 28]}}
    assert (describe(spec, "x")["datatype"], describe(spec, "x")["shape"]) == ("FP32", [-1, 28])
    assert write_tensor("x", [1, 2], [2, 1], "integer")["datatype"] == "INT32"
    assert write_tensor("x", [2**63], [1, 1], "long")["datatype"] == "UINT64"
    assert write_tensor("x", [1, None], [2, 1], "double")["data"] == [1, None]
    assert write_tensor("x", [], [0, 1], "boolean")["datatype"] == "BOOL"
    assert write_tensor("x", [[1], "a"], [2, 1], None)["data"] == ["[1]", '"a"']


def test_an_output_has_one_name_everywhere() -> None:
    """And float32 stays that, of columns and of tensors."""
    unnamed = {"type": "float", "required": True}
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}
    named = {**unnamed, "name": "price"}  # answered as an array, which has no name
    for output, values in ((unnamed, [0.5, 1.5]), (named, [0.5, 1.5]), (tensor, [[0.5, 1.5]])):
        made = OpenInference(replace(asgi_facts(), outputs=[output]), Limits())
        metadata = json.loads(made._model.body)["outputs"]
        for predictions in (values, []):
            reply = Reply(status=200, body=json.dumps({"predictions": predictions}).encode())
            question = InferRequest(columns=None, arrays=[], params=None, id=None, outputs=(metadata[0]["name"],))
            (told,) = json.loads(made.write(reply, question).body)["outputs"]
            assert (told["name"], told["datatype"]) == (metadata[0]["name"], metadata[0]["datatype"]), (output, told)
            assert told["datatype"] == "FP32"


PLAIN = st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=5)
OF_TYPE = {"double": st.floats(), "float": st.floats(width=32), "long": st.integers(-9, 9)}
OF_TYPE |= {"boolean": st.booleans(), "string": st.text(max_size=5)}


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(["mixed", "numbers", "scored", "optional"]),
    data=st.data(),
    params=st.sampled_from([None, None, {"scale": 2.5}, {"scale": "x"}, {"nobody": 1}, {"word": "w", "times": 3}]),
)
def test_a_table_that_is_never_written_as_json_is_the_one_that_mlflow_reads(
    apps: dict[str, Any], name: str, data: st.DataObject, params: dict[str, Any] | None
) -> None:
    model = apps[name]._model
    types = {str(each["name"]): each["type"] for each in model.facts.inputs}
    rows, names, odd = data.draw(st.integers(0, 3)), [*types], data.draw(st.sampled_from([None, None, *types, "other"]))
    if data.draw(st.integers(0, 4)) == 0:
        names = data.draw(st.lists(st.sampled_from([*types, "other"]), min_size=1, unique=True))
    kinds = {each: PLAIN if each == odd else OF_TYPE[types.get(each, "double")] for each in names}
    values = {each: data.draw(st.lists(kind, min_size=rows, max_size=rows)) for each, kind in kinds.items()}
    question = InferRequest(columns=values, arrays=None, params=params, id=None, outputs=None)
    reply, short = model.answer_columns(values, params, question.as_json)
    event(f"short way: {short}")
    if short:
        theirs = model.slow(question.as_json(), "application/json")
        # NaN is no number that equals itself.
        assert (reply.status, str(json.loads(reply.body))) == (theirs.status, str(json.loads(theirs.body)))
