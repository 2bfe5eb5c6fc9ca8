"""How much one request may hold, seen before any table is made of it.

What is above a limit is answered here, everything else by MLflow's rules. The counts are those of what was sent: a
table's rows and columns, an array's first dimension, the deepest nesting of the JSON.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kbuild.serving.answer.reply import TOO_DEEP, Reply, error_reply

_CSV, _JSON, _PARQUET = "text/csv", "application/json", "application/vnd.apache.parquet"
_NOT_STRUCTURE = bytes(sorted({*range(256)} - {*b'"[]{}'}))
_AS_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_QUOTE, _OPEN, _CLOSE = b'"[]'
_PART = 2**20
# A field of CSV as pandas reads it, and what ends it: quotes count at its start only.
_FIELD = re.compile(rb'(?:"[^"]*(?:""[^"]*)*(?:"[^,\r\n]*)?|[^,\r\n]*)(,|\r\n?|\n|\Z)')


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The most that one request may hold: ``depth`` of nested JSON, ``rows`` and ``columns`` of its table."""

    depth: int = 100
    rows: int = 1_000_000
    columns: int = 10_000

    def is_large(self, body: bytes, content_type: str) -> bool:
        """Whether there could be too many rows; without parsing, since each but the first follows a comma or line.

        Of CSV also whether there could be too many columns, which pandas reads before it is seen which they are.
        """
        most = self.rows if content_type.startswith(_JSON) else min(self.rows, self.columns)
        return body.count(b",") >= most or body.count(b"\n") > self.rows

    def check(self, body: bytes, content_type: str) -> Reply | None:
        """The refusal of a body that is above a limit; None for one that is not, or cannot be read at all."""
        kind = content_type.partition(";")[0].strip()
        if kind == _JSON:
            return self._check_json(body)
        if kind == _CSV:
            return self._check_size(_count_lines(body), 0) or self._check_size(0, _count_fields(body, self.columns))
        if kind == _PARQUET:
            return self._check_size(*_read_parquet_size(body))
        return None

    def guard(self, answer: Callable[[bytes, str], Reply]) -> Callable[[bytes, str], Reply]:
        """``answer`` behind the limits."""
        return lambda body, content_type: self.check(body, content_type) or answer(body, content_type)

    def _check_json(self, body: bytes) -> Reply | None:
        if (encoding := json.detect_encoding(body)) not in ("utf-8", "utf-8-sig"):
            try:
                body = body.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
            except ValueError:
                return None  # MLflow says what is wrong with it
        if body.count(b"[") + body.count(b"{") > self.depth and is_deeper(body, self.depth):
            return error_reply(
                400, "BAD_REQUEST", f"Invalid input. The JSON is nested deeper than {self.depth} levels."
            )
        if body.count(b",") < min(self.rows, self.columns):
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
            if refused := self._check_size(*_count_table(name, request)):
                return refused
        return None

    def _check_size(self, rows: int, columns: int) -> Reply | None:
        if rows > self.rows:
            return error_reply(413, "REQUEST_LIMIT_EXCEEDED", f"The request has more than {self.rows} rows.")
        if columns > self.columns:
            return error_reply(413, "REQUEST_LIMIT_EXCEEDED", f"The request has more than {self.columns} columns.")
        return None


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
    if isinstance(data, list):
        return len(data), _longest(each for each in data if isinstance(each, dict))
    if not isinstance(data, dict):
        return 0, 0
    names, rows = data.get("columns"), data.get("data")
    if name == "dataframe_split" and isinstance(rows, list):
        width = len(names) if isinstance(names, list) else 0
        return len(rows), max(width, _longest(each for each in rows if isinstance(each, list)))
    return _longest(each for each in data.values() if isinstance(each, list)), len(data)


def _longest(values: Iterable[Any]) -> int:
    return max(map(len, values), default=0)


def _count_lines(body: bytes) -> int:
    """Lines after the first, as pandas ends them; a line break in quotes counts too."""
    ends = body.count(b"\n") + body.count(b"\r") - body.count(b"\r\n")
    return ends if body and not body.endswith((b"\n", b"\r")) else max(0, ends - 1)


def _count_fields(body: bytes, most: int) -> int:
    """Fields of the longer of the first two lines that are not empty; stops at more than ``most``.

    pandas takes what the first row has more than the header for an index, and refuses rows that are longer still.
    Which lines are the first two is its own affair where lone carriage returns end them: then the longest of all.
    """
    look_at = 2 if body.count(b"\r") == body.count(b"\r\n") else len(body)
    fields = lines = longest = 0
    for found in _FIELD.finditer(body.removeprefix(codecs.BOM_UTF8)):
        fields += 1
        longest = max(longest, fields)
        if longest > most:
            break
        if found[1] != b",":
            lines += fields > 1 or not found[0].isspace()
            fields = 0
            if lines == look_at:
                break
    return longest


def _read_parquet_size(body: bytes) -> tuple[int, int]:
    """Rows and columns by the file's footer; zeros where MLflow could not read it either."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_metadata
    except ImportError:
        return 0, 0
    try:
        told = read_metadata(io.BytesIO(body))
    except (ArrowException, OSError):
        return 0, 0
    # The file's own sum counts for nothing when it is read.
    return sum(told.row_group(number).num_rows for number in range(told.num_row_groups)), told.num_columns
