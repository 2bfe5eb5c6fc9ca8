"""Texts of packages, files and servers, made harmless for whoever reads them."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

# Control characters, direction marks and the like, surrogates, separators of lines (Unicode's general categories).
_UNPRINTED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def plain(text: str) -> str:
    """A text whose control and direction characters are written out: none of them reaches a terminal or a page."""
    return "".join(
        character if character == "\n" or unicodedata.category(character) not in _UNPRINTED else _written(character)
        for character in text
    )


def plain_json(value: Any) -> str:
    """A JSON document in which every text is plain: also what a reader takes out of it, and shows."""
    return json.dumps(plain_value(value), indent=2) + "\n"


def plain_value(value: Any) -> Any:
    """The same value with plain texts; tuples become lists."""
    if isinstance(value, dict):
        return {plain(str(key)): plain_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(each) for each in value]
    return plain(value) if isinstance(value, str) else value


def _written(character: str) -> str:
    return " " if character == "\t" else character.encode("unicode_escape").decode("ascii")
