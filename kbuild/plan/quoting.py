"""Quoting for the Dockerfile's own syntax.

Dockerfile reference (docs.docker.com/reference/dockerfile): "Parser directives" (escape), "Environment replacement",
"LABEL", "ENV", "Shell and exec form" (exec form is parsed as JSON).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from kbuild.errors import LabelError

_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def quote_value(value: str, *, what: str = "value") -> str:
    """A double-quoted word that the Dockerfile parser reads back as exactly ``value``.

    Raises LabelError for control characters: a Dockerfile has no escape for a newline.
    """
    if any(ord(char) < 32 or ord(char) == 127 or char in "\x85\u2028\u2029" for char in value):
        raise LabelError(f"{what} {value!r} has a newline or another control character, which no Dockerfile can carry")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    return f'"{escaped}"'


def quote_label(key: str, value: str) -> str:
    """``"key"="value"`` for a LABEL instruction; raises LabelError for a key outside [A-Za-z0-9._/-]."""
    if not _KEY.fullmatch(key):
        raise LabelError(f"label key {key!r} is not made of letters, digits and . _ / -")
    return f'"{key}"={quote_value(value, what=f"the value of label {key}:")}'


def quote_env(name: str, value: str) -> str:
    """``NAME="value"`` for an ENV instruction; raises LabelError for a name that is no variable name."""
    if not _ENV_NAME.fullmatch(name):
        raise LabelError(f"{name!r} is not a name of an environment variable")
    return f"{name}={quote_value(value, what=f'the value of variable {name}:')}"


def exec_form(words: Sequence[str]) -> str:
    """The JSON array of an exec-form instruction, on one line."""
    return json.dumps(list(words), ensure_ascii=True)
