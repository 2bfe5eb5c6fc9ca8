"""Names that secrets stand behind: one list for what is blanked out, and for what an audit looks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kbuild.urls.credentials import without_credentials

HIDDEN = "***"
_NAMED = re.compile(
    r"(?:^|[_.\-/ ])(?:(?:password|passwd|pwd|passphrase|secret"
    r"|(?:api|access|account|auth|private|secret)[_-]?key(?:[_-]id)?)(?:[_-]?\d{1,2})?|token|credentials?)$",
    re.I,
)
# Of a vocabulary, as transformers call them.
_MARK_OF_TEXT = re.compile(r"(.*[_.\-/ ])?(bos|eos|pad|unk|sep|cls|mask)_token", re.I)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")


def names_secret(name: str) -> bool:
    """Whether a name, its last word, is one of a secret: ``db.password``, ``apiKey``; not ``max_tokens``."""
    name = _HUMP.sub("_", name)
    return _MARK_OF_TEXT.fullmatch(name) is None and _NAMED.search(name) is not None


def hide_secrets(name: str, value: Any) -> Any:
    """The value of that name, with ``***`` for what names of secrets stand before, and without credentials in urls.

    What is in mappings, lists and tuples is seen by the names there. A value that holds no secret is given as it is.
    """
    if names_secret(name) and not isinstance(value, bool | None) and not (isinstance(value, str) and not value):
        return HIDDEN
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        made = {key: hide_secrets(str(key), each) for key, each in value.items()}
        return value if all(made[key] is each for key, each in value.items()) else made
    if type(value) in (list, tuple):
        some = [hide_secrets("", each) for each in value]
        return value if all(new is old for new, old in zip(some, value, strict=True)) else type(value)(some)
    return value
