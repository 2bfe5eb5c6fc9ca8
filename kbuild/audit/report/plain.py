"""Texts of packages, files and servers, made harmless for whoever reads them."""

from __future__ import annotations

import json
from typing import Any

from kbuild.untrusted import plain


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
