"""The content of ``/docs``: how to ask this server from programs, what it takes and answers, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pprint import pformat
from typing import Any

from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.pages.limits import ToldLimits
from kbuild.serving.pages.openapi import is_table
from kbuild.serving.pages.parts import parsed, pretty, read_named, read_table, said_type, table, text_of

_ERRORS = (
    ("400", "The request is wrong: a column is missing, a value has another type. The body's message says which."),
    ("401", "No token, or another one (where the server has one)."),
    ("408", "The request did not arrive in time."),
    ("413", "More bytes, rows or columns than the limits above."),
    ("415", "Another content type or encoding."),
    ("500", "The model failed; the server's log says why."),
    ("503", "Not ready yet, or too many requests wait: ask again after the seconds of Retry-After."),
    ("504", "The prediction took longer than the limit."),
)
_TYPES = (
    ("application/json", "one of dataframe_split, dataframe_records, inputs, instances; beside it params"),
    ("text/csv", "a header and rows"),
    ("application/vnd.apache.parquet", "a file, where the image has pyarrow"),
)
_SAMPLES: dict[str, Any] = {"double": 1.5, "float": 1.5, "long": 1, "integer": 1, "boolean": True, "string": "text"}
_SAMPLES |= {"datetime": "2026-01-31T12:00:00", "binary": "AAEC"}
_CURL = """curl {address}/invocations \\
  -H 'Content-Type: application/json'{token} \\
  --data-binary @- <<'JSON'
{request}
JSON"""
_PYTHON = """import requests

request = {request}
answer = requests.post("{address}/invocations", json=request{token}, timeout=60)
answer.raise_for_status()
print(answer.json()["predictions"])"""
_SCRIPT = """const request = {request};
const answer = await fetch("{address}/invocations", {{
  method: "POST",
  headers: {{ "Content-Type": "application/json"{token} }},
  body: JSON.stringify(request),
}});
if (!answer.ok) throw new Error(await answer.text());
console.log((await answer.json()).predictions);"""
_BATCH = """import time
import pandas as pd
import requests

url = "{address}/invocations"
with requests.Session() as session:
    session.headers["Content-Type"] = "application/json"{token}
    for number, rows in enumerate(pd.read_csv("rows.csv", chunksize={rows})):
        body = '{{"dataframe_split": %s}}' % rows.to_json(orient="split", index=False)
        while (answer := session.post(url, data=body.encode(), timeout=60)).status_code == 503:
            time.sleep(float(answer.headers.get("Retry-After", 1)))
        answer.raise_for_status()
        found = pd.DataFrame(answer.json()["predictions"])
        found.to_csv("predictions.csv", mode="a" if number else "w", header=not number, index=False)"""


def describe(facts: Facts, openapi: Mapping[str, Any], limits: ToldLimits) -> str:
    """The page's content."""
    request, given = _first_row(facts), read_named(facts.example)
    parts = [
        "<p id='said' class='soft' role='status'></p>",
        _card("Ask it", "".join(_examples(request, limits, table_like=is_table(facts.inputs) and not given[0]))),
    ]
    names, rows = read_table(facts.example)
    example = dict(zip(names, rows[0], strict=False)) if rows else dict(zip(*given, strict=True))
    if facts.inputs:
        columns = [_column(each, example.get(str(each.get("name")))) for each in facts.inputs]
        parts.append(_card("Inputs", table("Inputs", ("name", "type", "required", "example"), columns)))
    if facts.params:
        params = [(str(p["name"]), said_type(p), text_of(p.get("default"))) for p in facts.params]
        parts.append(_card("Parameters", table("Parameters", ("name", "type", "default"), params)))
    parts.append(_outputs(facts))
    if facts.example:
        texts = [_code("The request", "request", pretty(parsed(facts.example)))]
        if facts.recorded:
            texts.append(_code("What training answered it with", "answer", pretty(parsed(facts.recorded))))
        parts.append(_card("The model's example", "".join(texts)))
    told = table("Limits", ("limit", "value", "variable"), limits.told)
    parts.append(_card("Limits of this server", told))
    types = table("Content types", ("content type", "body"), _TYPES)
    parts.append(_card("Content types", f"{types}<p class='soft'>A body may be gzip, with Content-Encoding: gzip.</p>"))
    parts.append(_card("Errors", table("Errors", ("status", "meaning"), _ERRORS)))
    paths = [
        (method.upper(), path, about["summary"])
        for path, methods in openapi["paths"].items()
        for method, about in methods.items()
    ]
    return "".join([*parts, _card("Paths", table("Paths", ("method", "path", "answer"), paths))])


def _first_row(facts: Facts) -> Any:
    """The example as a request of one row, whole where it is no table; without an example a row made up."""
    names, rows = read_table(facts.example)
    if not rows and facts.example is None and is_table(facts.inputs):
        columns = facts.inputs or []
        names, rows = [str(each["name"]) for each in columns], [[_SAMPLES.get(str(each["type"])) for each in columns]]
    if rows:
        return {"dataframe_split": {"columns": names, "data": rows[:1]}}
    return parsed(facts.example) if facts.example else {"inputs": []}


def _examples(request: Any, limits: ToldLimits, *, table_like: bool) -> list[str]:
    text = pretty(request)
    tokens = (
        (
            ' \\\n  -H "Authorization: Bearer $TOKEN"',
            ', headers={"Authorization": "Bearer …"}',
            ', Authorization: "Bearer …"',
        )
        if limits.token
        else ("", "", "")
    )
    curl, python, script = (
        template.format(address=limits.address, request=written, token=token)
        for template, written, token in zip(
            (_CURL, _PYTHON, _SCRIPT),
            (text, pformat(request, width=110, compact=True, sort_dicts=False), text),
            tokens,
            strict=True,
        )
    )
    found = [
        _code("curl", "curl", curl, limits.address),
        _code("Python, with requests", "python", python, limits.address),
        _code("JavaScript", "script", script, limits.address),
        "<p class='soft'>A page of another origin may ask where KBUILD_CORS_ORIGINS names it.</p>",
    ]
    if table_like:
        token = '\n    session.headers["Authorization"] = "Bearer …"' if limits.token else ""
        batch = _BATCH.format(address=limits.address, token=token, rows=min(10_000, limits.rows))
        found.append(_code("Many rows, a part at a time", "batch", batch, limits.address))
    return found


def _outputs(facts: Facts) -> str:
    answered = (parsed(facts.recorded) or {}).get("predictions") if facts.recorded else None
    first = answered[0] if isinstance(answered, list) and answered and isinstance(answered[0], dict) else {}
    if not facts.outputs:
        return ""
    rows = [(*_column(each, None)[:2], text_of(first.get(str(each.get("name"))))) for each in facts.outputs]
    words = "<p>A JSON object whose <code>predictions</code> has a value, or an object with these names, a row.</p>"
    return _card("Outputs", words + table("Outputs", ("name", "type", "example"), rows))


def _column(column: Mapping[str, Any], example: Any) -> Sequence[str]:
    name = str(column.get("name") or "—")
    words = f"{name}: {column['description']}" if column.get("description") else name
    return words, said_type(column), "yes" if column.get("required", True) else "no", text_of(example)


def _card(heading: str, content: str) -> str:
    return f"<section class='card'><h2>{heading}</h2>{content}</section>"


def _code(heading: str, name: str, text: str, base: str = "") -> str:
    """A block of code with a button that copies it; ``base`` in it is replaced by where the page comes from."""
    given = f" data-base='{escape(base, quote=True)}'" if base else ""
    return (
        f"<div class='head'><h3>{heading}</h3><button type='button' class='plain copy' data-of='{name}' "
        f"aria-label='Copy {heading}' hidden>Copy</button></div>"
        f"<pre tabindex='0'><code id='{name}'{given}>{escape(text)}</code></pre>"
    )
