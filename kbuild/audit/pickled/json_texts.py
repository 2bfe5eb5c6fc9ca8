"""JSON in any bytes, as Python's ``json`` reads it: in which encoding, and what its escapes stand for (RFC 8259)."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from kbuild.audit.pickled.effort import Effort

_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
_OBJECT = re.compile(r'\{\s*"')
_BEGIN = re.compile(rb"(?:\xff\xfe|\xfe\xff|\0\0\xfe\xff)?[\0 \t\r\n]*+[{\[]")
_TRY = 32  # looks that it takes to begin to read
_SHORT, _WIDER = 256, 8  # characters that are read at first, and how many times more where those end too early
_LAST = 16  # characters at the end of a piece in which an error may be that it ends there


def is_wide(data: bytes) -> bool:
    """Whether Python's reader of JSON takes these bytes for UTF-16 or UTF-32."""
    return _BEGIN.match(data) is not None and not json.detect_encoding(data).startswith("utf-8")


def unescaped(data: bytes) -> bytes:
    """Its ASCII as it is without escapes and wide letters; what is not JSON stays what it is as good as always."""
    if is_wide(data):
        data = data.replace(b"\0", b"")
    if b"\\u00" in data:
        data = _ESCAPE.sub(lambda each: bytes([int(each[1], 16)]), data)
    return data.replace(b"py\\/", b"py/") if b"py\\/" in data else data


def objects_of_json(data: bytes, effort: Effort) -> Iterator[Any]:
    """Every object of JSON that begins anywhere in these bytes, the outermost ones. Raises TooMuch."""
    # Numbers of any length. In all of it: where a configuration begins is not told, and what it names is ASCII.
    decoder = json.JSONDecoder(parse_int=float)
    if is_wide(data):
        with contextlib.suppress(ValueError, RecursionError):
            yield decoder.decode(data.decode(json.detect_encoding(data), "surrogatepass").lstrip("\ufeff"))
            return
    text, at = data.decode("latin-1"), 0
    while (match := _OBJECT.search(text, at)) is not None:
        value, at = _object_at(text, match, decoder, effort)
        if value is not None:
            yield value


def _object_at(text: str, match: re.Match[str], decoder: json.JSONDecoder, effort: Effort) -> tuple[Any, int]:
    """The object that begins there and its end, else None and where to look on.

    In pieces: Python counts the lines before an error, from the beginning of what it is given.
    """
    begin, size = match.start(), _SHORT
    while True:
        piece = text[begin : begin + size]
        is_all = begin + size >= len(text)
        try:
            value, end = decoder.raw_decode(piece)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated string")
            if is_all or not (cut or error.pos > size - _LAST):
                effort.look(max(_TRY, len(piece) if cut else error.pos))
                return None, match.end()
        except (ValueError, RecursionError):
            effort.look(max(_TRY, len(piece)))
            return None, match.end()
        else:
            return value, begin + end
        size *= _WIDER
