"""How a result is shown in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def html_table(rows: Mapping[str, object]) -> str:
    """A table of two columns, every text escaped."""
    lines = (f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{''.join(lines)}</table>"


def html_text(text: str) -> str:
    """Text as it is printed."""
    return f"<pre>{escape(text)}</pre>"
