"""The pages ``/`` (try the model) and ``/docs``: made here, no script, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from html import escape
from typing import Any
from urllib.parse import parse_qs

from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.answer.reply import Reply
from kbuild.serving.pages.openapi import is_table, make_openapi

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--accent:#2563eb}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}
.about{color:#777;font-size:.85rem;margin-top:.2rem;overflow-wrap:anywhere}
.fields{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.8rem}
label{display:block;font-size:.85rem}label small{color:#777}
input,select,textarea{font:inherit;width:100%;box-sizing:border-box;padding:.35rem .5rem;
  border:1px solid var(--line);border-radius:.3rem}
textarea{font:13px/1.4 ui-monospace,monospace;min-height:12rem}
button{font:inherit;margin-top:1rem;padding:.45rem 1.4rem;border:0;
  border-radius:.3rem;background:var(--accent);color:#fff;cursor:pointer}
.wide{overflow-x:auto}table{border-collapse:collapse}
th,td{border:1px solid var(--line);padding:.3rem .7rem;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums}
#result{border:2px solid var(--accent);border-radius:.4rem;padding:.2rem 1rem 1rem;margin-top:1.5rem}
#result.error{border-color:#dc2626}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:.7rem;border-radius:.3rem}
""".strip()
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_SIMPLE = ("double", "float", "long", "integer", "boolean", "string", "datetime")
_MOST_ROWS = 1000


class Site:
    """The pages of one model; ``headers`` belong to each of them."""

    headers = (("content-security-policy", _POLICY), ("referrer-policy", "no-referrer"))

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._columns = _simple(facts.inputs) if is_table(facts.inputs) else []
        self._params = _simple(facts.params)
        described = make_openapi(facts)
        self.openapi = json.dumps(described).encode()
        self.docs = _document("Scoring server", _docs(described, facts)).encode()

    def page(self, *, form: bytes | None = None, answer: Reply | None = None) -> bytes:
        """The page, with what was typed and what was answered, or with the model's example."""
        typed = _fields(form) if form is not None else {}
        parts = [f"<h1>Try the model</h1><p class='about'>{_about(self._facts)}</p>"]
        if form is not None:
            parts.append(_result(answer))
        if self._columns:
            values = typed if typed.get("kind") == "row" else self._example_row()
            parts.append(self._row_form(values))
        request = typed.get("request") or self._example_text()
        heading = "Several rows at once" if self._columns else "Request"
        parts.append(
            f"<h2>{heading}</h2><form method='post' action='./' id='json'>"
            "<input type='hidden' name='kind' value='json'>"
            f"<label>JSON, as <code>POST /invocations</code> takes it"
            f"<textarea name='request' spellcheck='false'>{escape(request)}</textarea></label>"
            "<button>Predict</button></form><p><a href='docs'>How to call it from a program</a></p>"
        )
        return _document("Try the model", "".join(parts)).encode()

    def read_form(self, body: bytes) -> bytes | None:
        """The JSON request that a submitted form means; None for what is no form of ours."""
        typed = _fields(body)
        if typed.get("kind") == "json":
            return typed.get("request", "").encode()
        if typed.get("kind") != "row" or not self._columns:
            return None
        row = [_value(column, typed.get(f"input.{column['name']}", "")) for column in self._columns]
        names = [column["name"] for column in self._columns]
        request: dict[str, Any] = {"dataframe_split": {"columns": names, "data": [row]}}
        params = {p["name"]: _value(p, typed[f"param.{p['name']}"]) for p in self._params if typed.get(_key(p))}
        return json.dumps({**request, "params": params} if params else request).encode()

    def _row_form(self, values: dict[str, str]) -> str:
        inputs = "".join(_control(f"input.{column['name']}", column, values) for column in self._columns)
        params = "".join(_control(_key(param), param, values) for param in self._params)
        if params:
            params = f"<h2>Parameters</h2><div class='fields'>{params}</div>"
        return (
            "<form method='post' action='./' id='row'><input type='hidden' name='kind' value='row'>"
            f"<h2>Inputs</h2><div class='fields'>{inputs}</div>{params}<button>Predict</button></form>"
        )

    def _example_row(self) -> dict[str, str]:
        values = {_key(param): _text(param.get("default")) for param in self._params}
        table = self._example().get("dataframe_split") or {}
        if table.get("columns") and table.get("data"):
            first = zip(table["columns"], table["data"][0], strict=False)
            values |= {f"input.{name}": _text(value) for name, value in first}
        return values

    def _example(self) -> dict[str, Any]:
        found = json.loads(self._facts.example) if self._facts.example else {}
        return found if isinstance(found, dict) else {}

    def _example_text(self) -> str:
        return json.dumps(self._example(), ensure_ascii=False) if self._facts.example else '{"inputs": []}'


def _document(title: str, content: str) -> str:
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'><link rel='icon' href='data:,'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{content}</body></html>"
    )


def _about(facts: Facts) -> str:
    known = (("model", facts.model_id), ("run", facts.run_id), ("MLflow", facts.mlflow_version))
    return escape(" · ".join(f"{name} {value}" for name, value in known if value))


def _simple(columns: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """The columns, or none at all where one of them has no form field."""
    plain = all(column.get("type") in _SIMPLE and not column.get("shape") for column in columns or [])
    return list(columns or []) if plain else []


def _fields(body: bytes) -> dict[str, str]:
    try:
        read = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10_000)
    except ValueError:
        return {}
    return {name: values[0] for name, values in read.items()}


def _key(param: dict[str, Any]) -> str:
    return f"param.{param['name']}"


def _value(column: dict[str, Any], text: str) -> Any:
    """What was typed, as the column's type; text that is none of that type stays text, for MLflow to refuse."""
    kind = column["type"]
    if text == "" and kind != "string":
        return None
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    try:
        if kind in ("long", "integer"):
            return int(text)
        return float(text) if kind in ("double", "float") else text
    except ValueError:
        return text


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _control(key: str, column: dict[str, Any], values: dict[str, str]) -> str:
    kind, value = column["type"], values.get(key, "")
    name = escape(key, quote=True)
    label = f"<label>{escape(str(column['name']))} <small>{escape(kind)}</small>"
    if kind == "boolean":
        options = "".join(
            f"<option{' selected' if value == each else ''}>{each}</option>" for each in ("true", "false")
        )
        return f"{label}<select name='{name}'>{options}</select></label>"
    mode = {"double": "decimal", "float": "decimal", "long": "numeric", "integer": "numeric"}.get(kind, "text")
    return f"{label}<input name='{name}' inputmode='{mode}' value='{escape(value, quote=True)}'></label>"


def _result(answer: Reply | None) -> str:
    if answer is None:
        return "<div id='result' class='error'><h2>Error</h2><p>This form is not known here.</p></div>"
    try:
        told = json.loads(answer.body)
    except ValueError:
        told = answer.body.decode("utf-8", "replace")
    if answer.status != 200:
        message = told.get("message", told) if isinstance(told, dict) else told
        return f"<div id='result' class='error'><h2>Error</h2><pre>{escape(str(message))}</pre></div>"
    return f"<div id='result'><h2>Prediction</h2>{_table(told.get('predictions', told))}</div>"


def _table(predictions: Any) -> str:
    if not isinstance(predictions, list) or not predictions:
        return f"<pre>{escape(json.dumps(predictions, indent=1, ensure_ascii=False))}</pre>"
    rows = predictions[:_MOST_ROWS]
    if all(isinstance(row, dict) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        cells: Iterable[list[Any]] = ([row.get(name) for name in names] for row in rows)
    else:
        names, cells = ["prediction"], ([row] for row in rows)
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in cells)
    more = f"<p>and {len(predictions) - _MOST_ROWS} more</p>" if len(predictions) > _MOST_ROWS else ""
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>{more}"


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"<td{' class=number' if number else ''}>{escape(_text(value))}</td>"


def _docs(described: dict[str, Any], facts: Facts) -> str:
    example = json.dumps(json.loads(facts.example), ensure_ascii=False) if facts.example else '{"inputs": []}'
    command = "curl -H 'Content-Type: application/json' -d @request.json http://HOST:PORT/invocations"
    parts = [
        f"<h1>Scoring server</h1><p class='about'>{_about(facts)}</p>",
        "<p>MLflow's scoring protocol. For programs: <a href='openapi.json'>openapi.json</a>. "
        "By hand: <a href='./'>try the model</a>.</p>",
        f"<h2>Predict</h2><pre>{escape(command)}</pre><p>with this <code>request.json</code>:</p>"
        f"<pre>{escape(example)}</pre>",
    ]
    if facts.recorded:
        answer = json.dumps(json.loads(facts.recorded), ensure_ascii=False)
        parts.append(f"<p>which training answered with:</p><pre>{escape(answer)}</pre>")
    for heading, columns in (("Inputs", facts.inputs), ("Parameters", facts.params), ("Outputs", facts.outputs)):
        if columns:
            parts.append(f"<h2>{heading}</h2>{_table([_described(column) for column in columns])}")
    paths = [
        {"path": path, "method": method.upper(), "answer": about["summary"]}
        for path, methods in described["paths"].items()
        for method, about in methods.items()
    ]
    return "".join([*parts, f"<h2>Paths</h2>{_table(paths)}"])


def _described(column: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in column.items()}
