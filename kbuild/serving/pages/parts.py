"""What both pages show: types in words, values as text, JSON that is read by people, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_WORDS = {
    "double": "number",
    "float": "number",
    "long": "whole number",
    "integer": "whole number",
    "boolean": "true or false",
    "string": "text",
    "datetime": "date and time",
    "binary": "base64",
}
_MOST_SAID = 20
_LINE = 100  # characters that the page of 1200 pixels shows of a line of code


def said_type(column: Mapping[str, Any]) -> str:
    """The type of a column or param of MLflow's signature, in words."""
    kind = str(column.get("type"))
    if column.get("shape"):
        return f"list of {_WORDS.get(kind, kind)}"
    if kind == "array":
        return f"list of {said_type(column.get('items') or {})}"
    if kind == "tensor":
        spec = column.get("tensor-spec") or {}
        return f"tensor of {spec.get('dtype')}, shape {json.dumps(spec.get('shape'))}"
    if kind == "object" and column.get("properties"):
        inner = [f"{name}: {said_type(each)}" for name, each in column["properties"].items()]
        more = [f"{len(inner) - _MOST_SAID} more"] if len(inner) > _MOST_SAID else []
        return f"{{{', '.join([*inner[:_MOST_SAID], *more])}}}"
    return _WORDS.get(kind, kind)


def text_of(value: Any) -> str:
    """A value as it is typed in; nothing for what is missing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parsed(text: bytes | None) -> Any:
    """JSON as values; None without any. NaN, which Python writes and no JSON has, is null, as which MLflow reads it."""
    return None if text is None else json.loads(text, parse_constant=lambda _: None)


def read_table(example: bytes | None) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of an example that MLflow wrote as ``dataframe_split``; none of any other."""
    found = parsed(example)
    table = found.get("dataframe_split") if isinstance(found, dict) else None
    if not isinstance(table, dict) or not table.get("columns") or not table.get("data"):
        return [], []
    return [str(name) for name in table["columns"]], table["data"]


def read_named(example: bytes | None) -> tuple[list[str], list[Any]]:
    """Names and values of an example that brings each input by its name, as of several inputs; none of any other."""
    found = parsed(example)
    named = found.get("inputs") if isinstance(found, dict) else None
    return ([str(name) for name in named], [*named.values()]) if isinstance(named, dict) else ([], [])


def pretty(value: Any, depth: int = 0) -> str:
    """JSON for people: what holds nothing but plain values stays on one line, a row of a table above all.

    A list that is longer than a line is filled into several.
    """
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not any(isinstance(each, dict | list) for each in inner):
        text = json.dumps(value, ensure_ascii=False)
        return _filled(value, depth) if isinstance(value, list) and len(text) + 2 * depth > _LINE else text
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(str(name), ensure_ascii=False)}: {pretty(each, depth + 1)}" for name, each in value.items()
        ]
    else:
        parts = [pretty(each, depth + 1) for each in value]
    start, end = "{}" if isinstance(value, dict) else "[]"
    space = "\n" + "  " * depth
    return f"{start}{space}  {f',{space}  '.join(parts)}{space}{end}"


def _filled(values: list[Any], depth: int) -> str:
    lines = [""]
    for each in (json.dumps(value, ensure_ascii=False) for value in values):
        if lines[-1] and len(lines[-1]) + len(each) + 2 * depth > _LINE - 4:
            lines.append("")
        lines[-1] += f"{each}, "
    space = "\n" + "  " * depth
    return f"[{space}  {f'{space}  '.join(line.rstrip() for line in lines).removesuffix(',')}{space}]"


def table(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, which wide ones scroll in; ``name`` is for those who cannot see it."""
    head = "".join(f"<th scope='col'>{escape(each)}</th>" for each in heads)
    body = "".join(
        "<tr>" + "".join(map("<td data-head='{}'>{}</td>".format, map(escape, heads), map(escape, row))) + "</tr>"
        for row in rows
    )
    return (
        f"<div class='wide told' tabindex='0' role='region' aria-label='{escape(name, quote=True)}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
