"""How much one request may hold, seen before any table is made of it.

What is above a limit is answered here, everything else by MLflow's rules. The counts are those of what was sent: a
table's rows and columns, an array's first dimension, the deepest nesting of the JSON.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np

from kbuild.serving.answer import parquet
from kbuild.serving.answer.reply import TOO_DEEP, Reply, error_reply

_CSV, _JSON, _PARQUET = "text/csv", "application/json", "application/vnd.apache.parquet"
_NOT_STRUCTURE = bytes(sorted({*range(256)} - {*b'"[]{}'}))
_AS_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_QUOTE, _OPEN, _CLOSE = b'"[]'
_PART = 2**20
# Bytes of a header of CSV: pandas and the error that follows take 24 times as much for a column's name.
_NAMES = 4 * 2**20
_CELL, _CONTAINER = 8, 64  # bytes that a cell of a table, and a list or object of JSON, take at least
# A field in quotes from its start on, or a carriage return that ends a line by itself.
_QUOTED_OR_RETURN = re.compile(rb'(?:\A(?:\xef\xbb\xbf)?|(?<=[,\r\n]))"[^"]*(?:""[^"]*)*(?:"|\Z)|\r(?!\n)')
# A field of CSV as pandas reads it, and what ends it: quotes count at its start only.
_FIELD = re.compile(rb'(?:"[^"]*(?:""[^"]*)*(?:"[^,\r\n]*)?|[^,\r\n]*)(,|\r\n?|\n|\Z)')


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that one request may hold: ``depth`` of nested JSON, ``rows`` and ``columns`` of its table.

    ``memory`` are the bytes that its table may take, however few stand for it in what is sent.
    """

    depth: int = 100
    rows: int = 1_000_000
    columns: int = 10_000
    memory: int = 256 * 2**20

    def is_large(self, body: bytes, content_type: str) -> bool:
        """Whether there could be too many rows; without parsing: each but the first follows a comma or line.

        Of CSV also whether there could be too many columns or cells, which pandas reads before it sees which they are.
        """
        commas, lines = body.count(b","), body.count(b"\n")
        if content_type.startswith(_JSON):
            return commas >= self.rows or lines > self.rows
        wide = len(body) > _NAMES or commas * lines * _CELL > self.memory
        return wide or commas >= min(self.rows, self.columns) or lines > self.rows

    def check(self, body: bytes, content_type: str) -> Reply | None:
        """The refusal of a body that is above a limit; None for one that is not, or cannot be read at all."""
        kind = content_type.partition(";")[0].strip()
        if kind == _JSON:
            return self._check_json(body)
        if kind == _CSV:
            # A table first of rows alone: to count fields takes longer.
            rows = _count_lines(body)
            refused = self.check_size(rows, 0) or self.check_size(rows, _count_fields(body, self.columns))
            return refused or (_names_too_long() if len(body) > _NAMES and _header(body) > _NAMES else None)
        return self._check_parquet(body) if kind == _PARQUET else None

    def guard(self, answer: Callable[..., Reply]) -> Callable[..., Reply]:
        """``answer`` behind the limits; a table of CSV reaches it by ``with_line_feeds``."""

        def guarded(body: bytes, content_type: str, *known: Any) -> Reply:
            if content_type.partition(";")[0].strip() == _CSV:
                body = with_line_feeds(body)
            return self.check(body, content_type) or answer(body, content_type, *known)

        return guarded

    def check_nesting(self, body: bytes) -> Reply | None:
        """The same of JSON for its depth and its lists and objects alone, before it is parsed."""
        if (encoding := json.detect_encoding(body)) not in ("utf-8", "utf-8-sig"):
            try:
                body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
            except ValueError:
                return None  # MLflow says what is wrong with it
        if body.count(b"[") + body.count(b"{") > self.depth and is_deeper(body, self.depth):
            return error_reply(
                400, "BAD_REQUEST", f"Invalid input. The JSON is nested deeper than {self.depth} levels."
            )
        if body.count(b"[") + body.count(b"{") > self.memory // _CONTAINER:
            return self._too_much()
        return None

    def _check_json(self, body: bytes) -> Reply | None:
        if refused := self.check_nesting(body):
            return refused
        # As many names as values, and as many rows: the table of a request of n values has at most n² cells.
        if body.count(b",") < min(self.rows, self.columns, isqrt(self.memory // _CELL)):
            return None
        try:
            request = json.loads(body)
        except RecursionError:
            return TOO_DEEP
        except ValueError:
            return None  # MLflow says what is wrong with it
        if not isinstance(request, dict):
            return None
        for name in ("dataframe_split", "dataframe_records", "inputs", "instances"):
            if refused := self.check_size(*_count_table(name, request)):
                return refused
        return None

    def check_size(self, rows: int, columns: int) -> Reply | None:
        """The refusal of a table of so many rows and columns; None where it may be made."""
        if rows > self.rows:
            return error_reply(413, "REQUEST_LIMIT_EXCEEDED", f"The request has more than {self.rows} rows.")
        if columns > self.columns:
            return error_reply(413, "REQUEST_LIMIT_EXCEEDED", f"The request has more than {self.columns} columns.")
        return self._too_much() if rows * columns * _CELL > self.memory else None

    def _check_parquet(self, body: bytes) -> Reply | None:
        try:
            return self.check_size(*parquet.measure(body, self.columns, self.memory))
        except parquet.Expanded:
            return self._too_much()
        except parquet.NoParquet:
            return error_reply(400, "BAD_REQUEST", "Invalid input. The body is not a Parquet file that can be read.")
        except ImportError:
            return None  # MLflow cannot read it either

    def _too_much(self) -> Reply:
        message = f"The request's table would take more than {self.memory} bytes of memory."
        return error_reply(413, "REQUEST_LIMIT_EXCEEDED", message)


def with_line_feeds(table: bytes) -> bytes:
    """CSV in which line feeds end the lines that lone carriage returns ended; what is in quotes stays as it is.

    Before 3.1 pandas read a line that begins with a blank after such a return again and again: 23 bytes took all
    memory there is (https://github.com/pandas-dev/pandas/issues/51141).
    """
    if table.count(b"\r") == table.count(b"\r\n"):
        return table
    return _QUOTED_OR_RETURN.sub(lambda found: b"\n" if found[0] == b"\r" else found[0], table)


def is_deeper(body: bytes, depth: int) -> bool:
    """Whether JSON is nested deeper than ``depth``, by its brackets outside texts; it need not be well-formed.

    Takes a few passes of C code over the body, however it is made.
    """
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    left = np.frombuffer(body.translate(_AS_ONE_KIND, _NOT_STRUCTURE), np.uint8)
    level = quotes = 0
    for start in range(0, len(left), _PART):
        part = left[start : start + _PART]
        seen = np.cumsum(part == _QUOTE, dtype=np.int32) + quotes
        steps = np.where(seen & 1, 0, (part == _OPEN).astype(np.int32) - (part == _CLOSE))
        levels = np.cumsum(steps, dtype=np.int32) + level
        if levels.max() > depth:
            return True
        level, quotes = int(levels[-1]), int(seen[-1]) & 1
    return False


def _count_table(name: str, request: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of one of MLflow's four fields; what is no table has the columns 0."""
    data = request.get(name)
    if name != "dataframe_split" or not isinstance(data, dict):
        return _count_rows(data, wide=False)
    # pandas makes a table of an index and columns alone, too; lists in them are levels of names.
    rows, columns = _count_rows(data.get("data"), wide=True)
    index, names = (
        max(len(each), _longest(level for level in each if isinstance(level, list))) if isinstance(each, list) else 0
        for each in (data.get("index"), data.get("columns"))
    )
    return max(rows, index), max(columns, names)


def _count_rows(data: Any, *, wide: bool) -> tuple[int, int]:
    """Rows and columns of what a table is made of: rows that name their values, or list them (``wide``); columns."""
    if isinstance(data, dict):
        named = {key for each in data.values() if isinstance(each, dict) for key in each}
        return max(len(named), _longest(each for each in data.values() if isinstance(each, list))), len(data)
    if not isinstance(data, list):
        return 0, 0
    # Records need not have the same names: each of them is a column.
    names = {key for each in data if isinstance(each, dict) for key in each}
    return len(data), max(len(names), _longest(each for each in data if isinstance(each, list)) if wide else 0)


def _longest(values: Iterable[Any]) -> int:
    return max(map(len, values), default=0)


def _names_too_long() -> Reply:
    return error_reply(
        413, "REQUEST_LIMIT_EXCEEDED", f"The names of the request's columns take more than {_NAMES} bytes."
    )


def _header(body: bytes) -> int:
    """Bytes of the first line that is not empty; counted to the field that passes the limit."""
    begin = 0
    for found in _FIELD.finditer(body):
        if found[1] != b"," and not found[0].strip():
            begin = found.end()
        elif found[1] != b"," or found.end() - begin > _NAMES:
            return found.end() - begin
    return 0


def _count_lines(body: bytes) -> int:
    """Lines after the first, as pandas ends them; a line break in quotes counts too."""
    ends = body.count(b"\n") + body.count(b"\r") - body.count(b"\r\n")
    return ends if body and not body.endswith((b"\n", b"\r")) else max(0, ends - 1)


def _count_fields(body: bytes, most: int) -> int:
    """Fields of the longer of the first two lines that are not empty; stops at more than ``most``.

    pandas takes what the first row has more than the header for an index, and refuses rows that are longer still.
    """
    fields = lines = longest = 0
    for found in _FIELD.finditer(body.removeprefix(codecs.BOM_UTF8)):
        fields += 1
        longest = max(longest, fields)
        if longest > most:
            break
        if found[1] != b",":
            lines += fields > 1 or not found[0].isspace()
            fields = 0
            if lines == 2:
                break
    return longest
