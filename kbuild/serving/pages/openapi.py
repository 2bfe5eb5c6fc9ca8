"""OpenAPI 3.1 of this server, with the model's own columns, params and example.

Format: https://spec.openapis.org/oas/v3.1.0. Columns and params come as in MLflow's JSON signature.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from kbuild._version import __version__
from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.answer.reply import JSON
from kbuild.serving.pages.about import name_model
from kbuild.serving.pages.parts import parsed

_TYPES: dict[str, dict[str, Any]] = {
    "boolean": {"type": "boolean"},
    "integer": {"type": "integer", "format": "int32"},
    "long": {"type": "integer", "format": "int64"},
    "float": {"type": "number", "format": "float"},
    "double": {"type": "number", "format": "double"},
    "string": {"type": "string"},
    "binary": {"type": "string", "contentEncoding": "base64"},
    "datetime": {"type": "string"},
}


def make_openapi(facts: Facts) -> dict[str, Any]:
    """The description as JSON values."""
    invocations = {
        "post": {
            "summary": "Predict",
            "operationId": "invocations",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": _with_example(_request(facts), parsed(facts.example)),
                    "text/csv": {"schema": {"type": "string"}},
                },
            },
            "responses": {
                "200": {
                    "description": "Predictions",
                    "content": {"application/json": _with_example(_answer(facts), parsed(facts.recorded))},
                },
                "400": _error("A request the model cannot answer"),
                "401": _error("No or another bearer token (where one is set)"),
                "408": _error("The request did not arrive in time"),
                "413": _error("The request is too large"),
                "415": {"description": "Another content type", "content": {"text/plain": {"schema": _TYPES["string"]}}},
                "500": {"description": "The model failed", "content": {"text/plain": {"schema": _TYPES["string"]}}},
                "503": {**_error("Not ready, or too many requests"), "headers": {"Retry-After": {"schema": _WHOLE}}},
                "504": {"description": "The prediction took too long"},
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Scoring server",
            "version": facts.model_id or __version__,
            "description": "MLflow's scoring protocol, served by kbuild.",
        },
        "paths": {
            "/invocations": invocations,
            "/ping": _probe("Ready to predict (as MLflow's server says it)", ready=True),
            "/health": _probe("Ready to predict (as MLflow's server says it)", ready=True),
            "/readyz": _probe("Ready to predict", ready=True),
            "/livez": _probe("The process answers", ready=False),
            "/version": _get("MLflow's version", "application/json"),
            "/metadata": _get("What is served: versions, run, digests, signature", "application/json"),
            "/metrics": _get("Counters for Prometheus", "text/plain"),
            **_open_inference(name_model(facts)[0]),
        },
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error_code", "message"],
                    "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
                }
            }
        },
    }


_WHOLE = {"type": "integer"}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}


def _open_inference(name: str) -> dict[str, Any]:
    """https://github.com/kserve/open-inference-protocol, in short."""
    model = f"/v2/models/{quote(name, safe='')}"
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": _TENSOR},
            "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
        },
    }
    answer = {"type": "object", "required": ["model_name", "outputs"]}
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    wrong = {"description": "What is wrong", "content": {"application/json": {"schema": error}}}
    infer = {
        "summary": "Predict by the Open Inference Protocol",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "Predictions", "content": {"application/json": {"schema": answer}}},
            **dict.fromkeys(("400", "401", "404", "408", "413", "415", "422", "500", "503", "504"), wrong),
        },
    }
    return {
        "/v2": _get("This server, by the Open Inference Protocol", JSON),
        "/v2/health/live": _get("The process answers", JSON),
        "/v2/health/ready": _get("Ready to predict", JSON),
        model: _get("The model's tensors", JSON),
        f"{model}/ready": _get("Ready to predict", JSON),
        f"{model}/infer": {"post": infer},
    }


def column_schema(column: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of one value of a column or param of a signature; ``{}`` where it has no simple one."""
    kind = column.get("type")
    if kind == "array":
        return {"type": "array", "items": column_schema(column.get("items") or {})}
    if kind == "object":
        properties = column.get("properties") or {}
        return {"type": "object", "properties": {name: column_schema(each) for name, each in properties.items()}}
    if kind == "map":
        return {"type": "object", "additionalProperties": column_schema(column.get("values") or {})}
    schema = dict(_TYPES.get(str(kind), {}))
    if "default" in column:
        schema["default"] = column["default"]
    return schema


def is_table(columns: list[dict[str, Any]] | None) -> bool:
    """Whether a side of a signature is a table of named columns."""
    return bool(columns) and all(column.get("name") and column.get("type") != "tensor" for column in columns or [])


def _request(facts: Facts) -> dict[str, Any]:
    forms: dict[str, Any] = {"inputs": {}, "instances": {}}
    if is_table(facts.inputs) or facts.inputs is None:
        forms = {
            "dataframe_split": {
                "type": "object",
                "required": ["data"],
                "properties": {
                    "columns": {"type": "array", "items": _column_name(facts)},
                    "data": {"type": "array", "items": {"type": "array"}},
                    "index": {"type": "array"},
                },
            },
            "dataframe_records": {"type": "array", "items": _record(facts.inputs)},
            "inputs": _columns(facts.inputs),
            "instances": {},
        }
    params = {} if facts.params is None else {"params": _record(facts.params, required=False)}
    return {
        "type": "object",
        "oneOf": [
            {"required": [name], "title": name, "properties": {name: schema, **params}}
            for name, schema in forms.items()
        ],
    }


def _answer(facts: Facts) -> dict[str, Any]:
    predictions: dict[str, Any] = {}
    if is_table(facts.outputs):
        predictions = {"type": "array", "items": _record(facts.outputs)}
    return {"type": "object", "required": ["predictions"], "properties": {"predictions": predictions}}


def _record(columns: list[dict[str, Any]] | None, *, required: bool = True) -> dict[str, Any]:
    if columns is None:
        return {"type": "object"}
    schema = {"type": "object", "properties": {column["name"]: column_schema(column) for column in columns}}
    needed = [column["name"] for column in columns if column.get("required", True)]
    return {**schema, "required": needed} if required and needed else schema


def _columns(columns: list[dict[str, Any]] | None) -> dict[str, Any]:
    if columns is None:
        return {}
    lists = {column["name"]: {"type": "array", "items": column_schema(column)} for column in columns}
    return {"type": "object", "properties": lists}


def _column_name(facts: Facts) -> dict[str, Any]:
    return _TYPES["string"] if facts.inputs is None else {"enum": [column["name"] for column in facts.inputs]}


def _with_example(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"schema": schema} if example is None else {"schema": schema, "example": example}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def _probe(text: str, *, ready: bool) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "Yes"}}
    if ready:
        responses["503"] = _error("Not yet")
    return {"get": {"summary": text, "responses": responses}}


def _get(text: str, kind: str) -> dict[str, Any]:
    return {"get": {"summary": text, "responses": {"200": {"description": text, "content": {kind: {}}}}}}
