from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import asgi
import models
import pytest

from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.http.server_settings import limits_of
from kbuild.serving.pages.about import name_model
from kbuild.serving.pages.openapi import make_openapi
from kbuild.serving.pages.page import ModelPages
from kbuild.serving.pages.parts import pretty

FACTS = Facts(
    mlflow_version="3",
    model_id="m-1",
    run_id="r",
    inputs=[
        {"type": "double", "name": "x", "required": True},
        {"type": "long", "name": "n", "required": True},
        {"type": "boolean", "name": "<b>", "required": True},
        {"type": "string", "name": "text", "required": False, "description": "What it's <said> to be"},
    ],
    outputs=[{"type": "double", "name": "y", "required": True}],
    params=[{"name": "scale", "type": "double", "default": 2.0, "shape": None}],
    example=b'{"dataframe_split": {"columns": ["x", "n", "<b>", "text"],'
    b' "data": [[1.5, 9007199254740993, true, "</script>"], [NaN, 3, false, null]]}}',
    recorded=b'{"predictions": [{"y": 3.0}]}',
    name="churn",
)


def make_site(facts: Facts = FACTS, **settings: Any) -> ModelPages:
    return ModelPages(facts, limits_of(asgi.make_settings(**settings)))


class Page(HTMLParser):
    """What a browser would make of it: text and attributes by id, and the label of each control."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.attributes: dict[str, dict[str, str | None]] = {}
        self.texts: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(html.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name = given.get("id") or (f"label of {given['for']}" if tag == "label" and "for" in given else tag)
        self.attributes[str(name)] = given
        if tag not in ("meta", "link", "input"):
            self._inside.append(str(name))

    def handle_endtag(self, tag: str) -> None:
        self._inside.pop()

    def handle_data(self, data: str) -> None:
        for name in {*self._inside}:
            self.texts[name] = self.texts.get(name, "") + data


def test_the_name_comes_first_and_each_field_has_its_label_and_example() -> None:
    page = Page(make_site().page)
    assert page.texts["h1"] == "churn" and page.texts["title"] == "churn: try it"
    assert [page.attributes[f"i{n}"].get("value") for n in (0, 1, 3)] == ["1.5", "9007199254740993", "</script>"]
    assert [page.texts[f"label of i{n}"] for n in range(4)] == [
        "x",
        "n",
        "<b>",
        "What it's <said> to be text, optional",
    ]
    assert page.attributes["p0"]["value"] == "2.0" and page.texts["label of p0"] == "scale number"
    told = json.loads(page.texts["facts"])
    assert told["example"]["data"] == [["1.5", "9007199254740993", "true", "</script>"], ["", "3", "false", ""]]
    assert [(each["kind"], each["required"]) for each in told["inputs"]] == [
        *(("number", True), ("whole", True), ("truth", True), ("text", False)),
    ]


def test_a_registered_name_and_one_that_is_given_come_before_the_models_own() -> None:
    assert name_model(FACTS, {}) == ("churn", "m-1")
    assert name_model(FACTS, {"KBUILD_MODEL_URI": "models:/sales/7"}) == ("sales", "7")
    assert name_model(FACTS, {"KBUILD_MODEL_URI": "models:/m-1"}) == ("churn", "m-1")
    assert name_model(FACTS, {"KBUILD_MODEL_URI": "runs:/r/model", "KBUILD_MODEL_NAME": "mine"}) == ("mine", "m-1")
    assert name_model(FACTS, {"KBUILD_MODEL_URI": "models:/m-1", "KBUILD_MODEL_VERSION": "4"}) == ("churn", "4")
    assert name_model(replace(FACTS, name=None, model_id=None), {}) == ("model", None)


def test_the_version_that_a_registry_gave_stands_beside_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (make_site().page, make_site().docs):
        assert "model m-1 · " in page.decode() and "version not told (KBUILD_MODEL_VERSION tells it)" in page.decode()
    monkeypatch.setenv("KBUILD_MODEL_VERSION", "4")
    site = make_site()
    assert Page(site.page).texts["h1"] == Page(site.docs).texts["h1"] == "churn version 4"
    assert "model m-1 · " in site.page.decode() and "not told" not in site.page.decode() + site.docs.decode()


@pytest.mark.parametrize("inputs", [None, [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]])
def test_a_model_without_columns_is_asked_in_json(inputs: Any) -> None:
    site = make_site(replace(FACTS, inputs=inputs, outputs=None, params=None, example=None, recorded=None))
    page = Page(site.page)
    assert "row" not in page.attributes and "rows" not in page.attributes and page.texts["request"] == '{"inputs": []}'
    assert json.loads(site.openapi)["paths"]["/invocations"]


def test_what_is_no_plain_column_is_typed_in_as_json_and_wide_tables_are_pasted() -> None:
    inputs = [{"type": "array", "items": {"type": "double"}, "name": "list"}, {"type": "binary", "name": "b"}]
    page = Page(make_site(replace(FACTS, inputs=inputs, example=None)).page)
    assert page.texts["label of i0"] == "list list of number" and page.texts["label of i1"] == "b base64"
    wide = [{"type": "double", "name": f"x{n}", "required": True} for n in range(1000)]
    page = Page(make_site(replace(FACTS, inputs=wide, example=None)).page)
    assert "i0" not in page.attributes and "pasted" in page.attributes and "p0" in page.attributes


def test_nothing_comes_from_elsewhere_and_the_policy_knows_style_and_scripts() -> None:
    site = make_site()
    policy = dict(site.headers)["content-security-policy"]
    for page in (site.page.decode(), site.docs.decode()):
        # Relative, since a proxy may have put all of them below a path.
        linked = set(re.findall(r"<[^>]* (?:src|href|action)=['\"]?([^'\" >]*)", page))
        assert linked <= {"./", "docs", "openapi.json", "data:,"}
        assert "@import" not in page and " style=" not in page and not re.search(r"<[^>]* on[a-z]+=", page)
        parts = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page, re.DOTALL)
        assert len(parts) == 2
        for part in parts:
            assert f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" in policy
        assert len(page) < 50_000
    assert "unsafe" not in policy and policy.startswith("default-src 'none'")


def test_the_docs_show_programs_that_are_programs() -> None:
    changed = {"port": 8123, "root_path": "/models/churn", "token": "-", "max_rows": 500, "max_body": 1234}
    page = Page(make_site(**changed).docs)
    for name in ("python", "batch"):
        compile(page.texts[name], name, "exec")
        assert '"http://localhost:8123/models/churn/invocations"' in page.texts[name]
        assert page.attributes[name]["data-base"] == "http://localhost:8123/models/churn"
    assert "chunksize=500" in page.texts["batch"]
    assert all("Authorization" in page.texts[name] for name in ("curl", "python", "script", "batch"))
    sent = page.texts["curl"].split("<<'JSON'\n")[1].removesuffix("JSON")
    assert json.loads(sent)["dataframe_split"]["data"] == [[1.5, 9007199254740993, True, "</script>"]]
    assert json.loads(page.texts["answer"]) == json.loads(FACTS.recorded or b"")
    assert "KBUILD_MAX_BODY_BYTES" in page.texts["main"] and "1,234" in page.texts["main"]
    assert "Authorization" not in make_site().docs.decode()
    made_up = Page(make_site(replace(FACTS, example=None)).docs)
    assert "dataframe_split" in made_up.texts["python"] and "batch" in made_up.texts


def test_json_for_people_is_the_same_json() -> None:
    value = {"a": [[1, 2], ["é", None]], "b": {"c": {}}, "d": []}
    assert json.loads(pretty(value)) == value
    names = [f"a_name_of_{n}" for n in range(30)]
    lines = pretty({"columns": names, "data": [[0]]}).splitlines()
    assert json.loads("".join(lines)) == {"columns": names, "data": [[0]]} and max(map(len, lines)) <= 100
    assert pretty({"data": [[1, 2], [3, 4]]}) == '{\n  "data": [\n    [1, 2],\n    [3, 4]\n  ]\n}'


def test_half_a_character_of_a_text_stops_no_page() -> None:
    odd = b'{"dataframe_split": {"columns": ["text"], "data": [["cut \\ud83d"]]}}'
    site = make_site(replace(FACTS, example=odd, recorded=b'{"predictions": ["\\ud83d"]}'))
    facts = json.loads(Page(site.page).texts["facts"])
    assert "cut \\ud83d" in json.dumps(facts)
    assert "cut ?" in Page(site.docs).texts["html"]


def test_openapi_has_the_models_schema_and_example() -> None:
    described = make_openapi(replace(FACTS, example=b'{"inputs": [1, NaN]}'))
    body = described["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"inputs": [1, None]}
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


def test_several_inputs_have_their_example_and_columns_and_no_table_to_paste() -> None:
    """As a model of two tables has them: each is a list of its rows, and one request brings both."""
    row = {"day": {"type": "string", "required": True}, "count": {"type": "long", "required": True}}
    rows = {"type": "array", "items": {"type": "object", "properties": row}, "required": True}
    example = b'{"inputs": {"orders": [{"day": "2026-01-31", "count": 5}], "rates": [{"day": "x", "count": 1}]}}'
    inputs = [{**rows, "name": "orders"}, {**rows, "name": "rates"}]
    site = make_site(replace(FACTS, inputs=inputs, example=example))
    page = Page(site.page)
    assert json.loads(page.texts["i0"]) == [{"day": "2026-01-31", "count": 5}]
    assert json.loads(page.texts["i1"]) == [{"day": "x", "count": 1}]
    assert page.texts["i0"] == '[\n  {"day": "2026-01-31", "count": 5}\n]', "a row a line, to be edited"
    assert page.texts["legend"].startswith("Inputs")
    assert page.texts["label of i0"] == "orders list of {day: text, count: whole number}"
    assert "rows" not in page.attributes and page.texts["h2"].startswith("One request")
    assert [each["filled"] for each in json.loads(page.texts["facts"])["inputs"]] == [True, True]
    docs = Page(site.docs)
    assert "batch" not in docs.attributes and "list of {day: text, count: whole number}" in docs.texts["table"]
    assert json.loads(docs.texts["curl"].partition("JSON'\n")[2].rpartition("\nJSON")[0]) == json.loads(example)
