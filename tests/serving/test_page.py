from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import asgi
import models
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.answer.reply import Reply
from kbuild.serving.pages.openapi import make_openapi
from kbuild.serving.pages.page import Site

FACTS = Facts(
    mlflow_version="3",
    model_id="m-1",
    run_id="r",
    inputs=[
        {"type": "double", "name": "x", "required": True},
        {"type": "long", "name": "n", "required": True},
        {"type": "boolean", "name": "<b>", "required": True},
        {"type": "string", "name": "text", "required": True},
    ],
    outputs=[{"type": "double", "name": "y", "required": True}],
    params=[{"name": "scale", "type": "double", "default": 2.0, "shape": None}],
    example=b'{"dataframe_split": {"columns": ["x", "n", "<b>", "text"], "data": [[1.5, 2, true, "<i>"]]}}',
    recorded=b'{"predictions": [{"y": 3.0}]}',
)
FORM = {"kind": "row", "input.x": "1.5", "input.n": "2", "input.<b>": "true", "input.text": "é&", "param.scale": "3"}


def read(site: Site, form: dict[str, str]) -> Any:
    body = site.read_form(urlencode(form).encode())
    return None if body is None else json.loads(body)


def test_a_form_becomes_a_request() -> None:
    assert read(Site(FACTS), FORM) == {
        "dataframe_split": {"columns": ["x", "n", "<b>", "text"], "data": [[1.5, 2, True, "é&"]]},
        "params": {"scale": 3.0},
    }


def test_what_is_no_number_is_left_for_mlflow_to_refuse() -> None:
    form = {**FORM, "input.x": "", "input.n": "two", "param.scale": ""}
    assert read(Site(FACTS), form) == {
        "dataframe_split": {"columns": ["x", "n", "<b>", "text"], "data": [[None, "two", True, "é&"]]}
    }


def test_json_is_passed_on_as_typed() -> None:
    assert Site(FACTS).read_form(urlencode({"kind": "json", "request": "{ nonsense"}).encode()) == b"{ nonsense"
    assert Site(FACTS).read_form(b"kind=other") is None
    assert Site(FACTS).read_form(b"\xff\xfe") is None


def test_the_example_is_filled_in_and_escaped() -> None:
    page = Site(FACTS).page().decode()
    assert "name='input.x' inputmode='decimal' value='1.5'" in page
    assert "value='&lt;i&gt;'" in page
    assert "<b>" not in page and "<i>" not in page
    assert "name='param.scale' inputmode='decimal' value='2.0'" in page


def test_a_prediction_is_a_table_and_an_error_is_text() -> None:
    site = Site(FACTS)
    form = urlencode(FORM).encode()
    page = site.page(form=form, answer=Reply(status=200, body=b'{"predictions": [{"y": 1.5, "s": "<u>"}]}')).decode()
    assert "<th>y</th><th>s</th>" in page and "<td class=number>1.5</td><td>&lt;u&gt;</td>" in page
    page = site.page(form=form, answer=Reply(status=400, body=b'{"message": "no <u>"}')).decode()
    assert "<pre>no &lt;u&gt;</pre>" in page
    for predictions in ("[1, 2]", "[]", '{"a": 1}', '"text"', "null", "[[1], [2]]"):
        assert site.page(form=form, answer=Reply(status=200, body=b'{"predictions": %s}' % predictions.encode()))


@pytest.mark.parametrize("inputs", [None, [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]])
def test_a_model_without_columns_is_asked_in_json(inputs: Any) -> None:
    site = Site(replace(FACTS, inputs=inputs, outputs=None, params=None, example=None, recorded=None))
    page = site.page().decode()
    assert "id='row'" not in page and "<textarea name='request'" in page
    assert json.loads(site.openapi)["paths"]["/invocations"]


def test_nothing_comes_from_elsewhere_and_the_policy_knows_the_style() -> None:
    site = Site(FACTS)
    for page in (site.page().decode(), site.docs.decode()):
        # Relative, since a proxy may have put all of them below a path.
        linked = set(re.findall(r"(?:src|href|action)=['\"]?([^'\" >]*)", page))
        assert linked <= {"./", "docs", "openapi.json", "data:,"}
        assert "<script" not in page and "@import" not in page
        style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
        assert style is not None
        digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in dict(site.headers)["content-security-policy"]
        assert " style=" not in page


@given(st.binary(max_size=200))
def test_any_form_is_survived(body: bytes) -> None:
    site = Site(FACTS)
    assert site.read_form(body) is None or site.page(form=body, answer=Reply(status=200, body=b"{}"))


def test_openapi_has_the_models_schema_and_example() -> None:
    described = make_openapi(FACTS)
    body = described["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == json.loads(FACTS.example or b"")
    records = body["schema"]["oneOf"][1]["properties"]
    assert records["dataframe_records"]["items"]["properties"]["n"] == {"type": "integer", "format": "int64"}
    assert records["params"]["properties"]["scale"]["default"] == 2.0
    answer = described["paths"]["/invocations"]["post"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"]["properties"]["predictions"]["items"]["required"] == ["y"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", models.SIGNATURES)
def test_every_signature_has_pages(name: str, tmp_path: Path) -> None:
    app = asgi.serve(models.make_model(name, tmp_path), tmp_path)
    for path in ("/", "/docs", "/openapi.json"):
        assert asyncio.run(asgi.call(app, "GET", path))[0] == 200


def test_a_submitted_form_is_predicted(tmp_path: Path) -> None:
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path)
    form = urlencode({"kind": "row", "input.a": "1.5", "input.b": "2", "input.c": "3"}).encode()
    status, headers, page = asyncio.run(asgi.call(app, "POST", "/", form))
    assert status == 200 and b"<th>sum</th>" in page and "content-security-policy" in headers
    assert asyncio.run(asgi.call(app, "POST", "/", b"kind=row"))[0] == 400
