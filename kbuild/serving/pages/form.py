"""The content of ``/``: one row in fields, several rows as a table, a request in JSON. ``try.js`` does the rest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from kbuild.serving.answer.model_facts import Facts
from kbuild.serving.pages.limits import ToldLimits
from kbuild.serving.pages.openapi import is_table
from kbuild.serving.pages.parts import parsed, pretty, read_named, read_table, said_type, text_of

Column = Mapping[str, Any]
# MLflow's types by how they are typed in; any other is typed in as JSON.
_KINDS = {"double": "number", "float": "number", "long": "whole", "integer": "whole", "boolean": "truth"}
_KINDS |= {"string": "text", "binary": "text", "datetime": "time"}
_GROUPS = {
    "number": "Numbers",
    "whole": "Whole numbers",
    "truth": "Yes or no",
    "text": "Text",
    "time": "Dates and times",
}
_MODES = {"number": "decimal", "whole": "numeric"}
# What a person would fill in; a table with more columns is pasted.
_MOST_FIELDS = 300


def make_values(facts: Facts, limits: ToldLimits) -> dict[str, Any]:
    """What the page's script knows of the model. Values are texts: JavaScript would round whole numbers."""
    names, rows = _example(facts)
    return {
        "inputs": [_field(column) for column in _columns(facts)],
        "params": [_field(param) for param in facts.params or ()],
        "example": {"columns": names, "data": [[text_of(value) for value in row] for row in rows]},
        "limits": {"rows": limits.rows, "body": limits.body},
    }


def make_form(facts: Facts) -> str:
    """The page's content."""
    columns, params = _columns(facts), list(facts.params or ())
    names, rows = _example(facts)
    # Each input by its name is one request: no row of a table has them.
    named = bool(read_named(facts.example)[0])
    parts = [
        "<noscript><p class='card'>This page needs JavaScript. <a href='docs'>How to ask without it</a>.</p></noscript>"
    ]
    few = 0 < len(columns) <= _MOST_FIELDS
    if few:
        first = dict(zip(names, rows[0], strict=False)) if rows else {}
        parts.append(_row_form(columns, params, first, len(rows), named=named))
    elif params:
        parts.append(f"<section class='card'><h2>Parameters</h2>{_params(params)}</section>")
    if columns and not named:
        parts.append(_rows_form(params, few=few, example=bool(rows)))
    request = json.dumps(parsed(facts.example), ensure_ascii=False) if facts.example else '{"inputs": []}'
    parts.append(
        f"<form id='json'><details class='card'{'' if columns else ' open'}>"
        "<summary><h2>A request in JSON</h2></summary>"
        "<p><label for='request'>As <code>POST /invocations</code> takes it</label></p>"
        f"<textarea id='request' spellcheck='false'>{escape(request)}</textarea>"
        "<div class='actions'><button>Predict</button></div><div class='result' aria-live='polite'></div>"
        "</details></form>"
    )
    return "".join(parts)


def _example(facts: Facts) -> tuple[list[str], list[list[Any]]]:
    names, values = read_named(facts.example)
    return (names, [values]) if names else read_table(facts.example)


def _columns(facts: Facts) -> list[Column]:
    return list(facts.inputs or ()) if is_table(facts.inputs) else []


def _kind(column: Column) -> str:
    return "json" if column.get("shape") else _KINDS.get(str(column.get("type")), "json")


def _field(column: Column) -> dict[str, Any]:
    required = "default" not in column and bool(column.get("required", True))
    bits = 32 if column.get("type") == "integer" else 64
    # What null is no value of, as it is of MLflow's Any.
    filled = required and column.get("type") in ("array", "object", "map")
    return {"name": str(column["name"]), "kind": _kind(column), "required": required, "bits": bits, "filled": filled}


def _row_form(
    columns: Sequence[Column], params: Sequence[Column], values: Mapping[str, Any], examples: int, *, named: bool
) -> str:
    choice = ""
    if examples and not named:
        options = "".join(f"<option value='{n}'>row {n + 1} of the example</option>" for n in range(examples))
        choice = f"<label>Fill in <select id='example'>{options}<option value='-1'>nothing</option></select></label>"
    groups: dict[str, list[str]] = {}
    for number, column in enumerate(columns):
        value = values.get(column["name"])
        text = pretty(value) if named and isinstance(value, list | dict) else text_of(value)
        control = _control(f"i{number}", column, text, grouped=True)
        groups.setdefault(_GROUPS.get(_kind(column), "Inputs" if named else "Other inputs"), []).append(control)
    inputs = "".join(_group(words, found) for words, found in groups.items())
    return (
        "<form id='row' class='card' novalidate autocomplete='off'>"
        f"<div class='head'><h2>One {'request' if named else 'row'}</h2>{choice}</div>"
        f"{inputs}{_params(params) if params else ''}"
        "<div class='actions'><button>Predict</button></div><div class='result' aria-live='polite'></div></form>"
    )


def _rows_form(params: Sequence[Column], *, few: bool, example: bool) -> str:
    with_params = " The parameters above count here, too." if params else ""
    button = "<button type='button' class='plain' id='all'>Use the example</button>" if example else ""
    return (
        f"<form id='rows'><details class='card'{'' if few else ' open'}><summary><h2>Several rows</h2></summary>"
        "<p><label for='pasted'>Paste a table with a header, from a spreadsheet or as CSV</label></p>"
        "<textarea id='pasted' spellcheck='false'></textarea>"
        "<p><label>or choose a CSV file <input type='file' id='file' accept='.csv,.tsv,.txt,text/csv'></label></p>"
        f"<p class='soft'>Columns may be in any order.{with_params}</p><p class='soft' id='note' role='status'></p>"
        f"<div class='actions'><button>Predict</button>{button}</div>"
        "<div class='result' aria-live='polite'></div></details></form>"
    )


def _params(params: Sequence[Column]) -> str:
    controls = (_control(f"p{n}", param, text_of(param.get("default"))) for n, param in enumerate(params))
    return _group("Parameters", controls)


def _group(words: str, controls: Iterable[str]) -> str:
    return f"<fieldset><legend>{words}</legend><div class='fields'>{''.join(controls)}</div></fieldset>"


def _control(name: str, column: Column, value: str, *, grouped: bool = False) -> str:
    """A label, its control and the place of its error; the heading of a group tells the type already."""
    kind, required = _kind(column), _field(column)["required"]
    words = escape(str(column.get("description") or column["name"]))
    notes = [str(column["name"])] if column.get("description") else []
    notes += [] if grouped and kind in _GROUPS and column["type"] != "binary" else [said_type(column)]
    notes += [] if required or "default" in column else ["optional"]
    unit = f" <span class='unit'>{escape(', '.join(notes))}</span>" if notes else ""
    given = f"id='{name}' aria-describedby='{name}-wrong'"
    if kind == "truth":
        options = "".join(
            f"<option{' selected' if value == each else ''}>{each}</option>"
            for each in (("true", "false") if required and value else ("", "true", "false"))
        )
        control = f"<select {given}>{options}</select>"
    elif kind == "json":
        control = f"<textarea {given} spellcheck='false'>{escape(value)}</textarea>"
    else:
        hint = " placeholder='2026-01-31T12:00:00'" if kind == "time" else ""
        control = f"<input {given} inputmode='{_MODES.get(kind, 'text')}' value='{escape(value, quote=True)}'{hint}>"
    rows = " rows" if column.get("type") == "array" and (column.get("items") or {}).get("type") == "object" else ""
    return (
        f"<div class='field{rows}'><label for='{name}'>{words}{unit}</label>{control}"
        f"<p class='wrong' id='{name}-wrong'></p></div>"
    )
