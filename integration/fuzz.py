"""Hostile requests for ``/invocations``, made from a seed, so that a failure can be had again."""

from __future__ import annotations

import json
import random
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
FORM = "application/x-www-form-urlencoded"
TYPES = (
    JSON, JSON, CSV, PARQUET, FORM, "application/json; charset=utf-8", "application/json; charset=latin-1",
    "application/json;charset=UTF-8", "application/json; a=b", "application/json;", ";", "text/plain", "*/*",
    "application/json; charset", "application/json;;;=", "multipart/form-data; boundary=x", "TEXT/CSV",
    "text/csv; header", "a" * 2000,
)  # fmt: skip
NUMBERS = (
    "9" * 400, "9" * 5000, "1e999", "-1e999", "1e-999", "NaN", "Infinity", "-Infinity", "-0", "-0.0", "00", "1.", ".5",
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "0x10", "1_000",
    "1" + "0" * 308, "0." + "0" * 400 + "1", "1e+", "true", "null", '"9"', '"NaN"',
)  # fmt: skip
TEXTS = (
    "", "\0", "\ud800", "\udfff\ud800", "\U0001f9ea" * 9, "a" * 70_000, "‮", "﻿", "$(id)", "{{7*7}}", "../../etc/passwd",
    "<script>alert(1)</script>", "' OR 1=1 --", "2024-13-45", "2024-01-01T00:00:00Z", "99999-01-01", "====", "/w==",
    "__class__", "index", "columns", "\x85\u2028", "NaT", "1e5", "True",
)  # fmt: skip
KEYS = ("dataframe_split", "dataframe_records", "inputs", "instances", "params", "data", "columns", "index", "messages")


class Fuzzer:
    """Requests by kind; ``valid`` are bodies and content types that a server answers or refuses properly."""

    def __init__(self, seed: int, valid: Sequence[tuple[bytes, str]], params: Sequence[str]) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - a seed, so that a failure can be had again
        self._valid = valid
        self._json = [json.loads(body) for body, kind in valid if kind == JSON and _is_json(body)]
        self._params = params

    def requests(self, count: int) -> Iterator[tuple[str, str, bytes]]:
        """So many of path, content type and body."""
        kinds = (
            self._mutated, self._mutated, self._restructured, self._restructured, self._restructured, self._cut,
            self._bytes, self._deep, self._numbers, self._csv, self._with_params, self._mistyped, self._form,
            self._doubled,
        )  # fmt: skip
        for number in range(count):
            kind = kinds[number % len(kinds)]
            content_type, body = kind()
            yield "/invocations", content_type, body

    def _mutated(self) -> tuple[str, bytes]:
        text, kind = self._rng.choice(self._valid)
        body = bytearray(text)
        for _ in range(self._rng.randint(1, 5)):
            if body:
                place = self._rng.randrange(len(body))
                body[place : place + self._rng.randint(0, 3)] = self._rng.randbytes(self._rng.randint(0, 3))
        return kind, bytes(body)

    def _restructured(self) -> tuple[str, bytes]:
        value = _replaced(self._rng.choice(self._json), self._rng, self._value)
        return JSON, _dump(value)

    def _cut(self) -> tuple[str, bytes]:
        body, kind = self._rng.choice(self._valid)
        start = self._rng.choice((0, 0, 0, self._rng.randint(0, len(body))))
        return kind, body[start : self._rng.randint(start, len(body))]

    def _bytes(self) -> tuple[str, bytes]:
        return self._rng.choice((JSON, CSV, PARQUET)), self._rng.randbytes(self._rng.choice((0, 1, 4, 60, 4000)))

    def _deep(self) -> tuple[str, bytes]:
        depth = self._rng.choice((20, 60, 99, 100, 101, 500, 990, 1100, 5000, 30_000))
        opened, closed = self._rng.choice((("[", "]"), ('{"a":', "}"), ('[{"inputs":', "}]"), ("[1,", "]")))
        body = opened * depth + "1" + closed * self._rng.choice((depth, depth, 0, depth - 1))
        return JSON, f'{{"{self._rng.choice(KEYS)}":{body}}}'.encode()

    def _numbers(self) -> tuple[str, bytes]:
        text = json.dumps(self._rng.choice(self._json))
        digits = [place for place, char in enumerate(text) if char.isdigit()] or [0]
        place = self._rng.choice(digits)
        end = place
        while end < len(text) and text[end] in "0123456789.eE+-":
            end += 1
        return JSON, (text[:place] + self._rng.choice(NUMBERS) + text[end:]).encode()

    def _csv(self) -> tuple[str, bytes]:
        cells = ["x", "n", "flag", "text", "1.5", "20", "true", "é", '"', '""', ",", "\r", "\0", "", '"a\nb"', *NUMBERS]
        rows = [
            [self._rng.choice(cells) for _ in range(self._rng.randint(0, 6))] for _ in range(self._rng.randint(0, 5))
        ]
        if self._rng.random() < 0.6:
            rows.insert(0, ["x", "n", "flag", "text"])
        end = self._rng.choice(("\n", "\r\n", "\r"))
        return CSV, end.join(self._rng.choice((",", ",", ";", "\t")).join(row) for row in rows).encode()

    def _with_params(self) -> tuple[str, bytes]:
        value = self._rng.choice([each for each in self._json if isinstance(each, dict)])
        names = [*self._params, "runner", "unknown", "", "__class__"]
        params: Any = {self._rng.choice(names): self._value() for _ in range(self._rng.randint(0, 4))}
        if self._rng.random() < 0.2:
            params = self._value()
        return JSON, _dump({**value, "params": params})

    def _mistyped(self) -> tuple[str, bytes]:
        return self._rng.choice(TYPES), self._rng.choice(self._valid)[0]

    def _form(self) -> tuple[str, bytes]:
        names = ["json", "input.x", "input.n", "input.flag", "input.text", "param.scale", "param.times", "", "a.b.c"]
        fields = [(self._rng.choice(names), str(self._value())) for _ in range(self._rng.randint(0, 6))]
        body = urllib.parse.urlencode(fields, errors="replace").encode()
        return self._rng.choice((FORM, FORM, JSON)), self._rng.choice((body, body, self._rng.randbytes(40)))

    def _doubled(self) -> tuple[str, bytes]:
        one, other = (json.dumps(self._rng.choice(self._json))[1:-1] for _ in range(2))
        return JSON, f"{{{one},{other}}}".encode()

    def _value(self) -> Any:
        rng = self._rng
        makers = (
            lambda: rng.choice(TEXTS),
            lambda: rng.choice((None, True, False, {}, [], [[]], [[[]]], {"a": {}}, [None], [{}], 0, -1, 1.5, 10**30)),
            lambda: rng.choice((float("nan"), float("inf"), -0.0, 5e-324, 1.7976931348623157e308)),
            lambda: rng.randint(-(2**70), 2**70),
            lambda: [rng.choice((1, "a", None, 1.5, [1], {"b": 1})) for _ in range(rng.randint(0, 5))],
            lambda: {rng.choice(KEYS): rng.choice((1, None, [], {}, "x")) for _ in range(rng.randint(1, 3))},
            lambda: rng.choice(self._json),
        )
        return rng.choice(makers)()


def _replaced(value: Any, rng: random.Random, make: Any) -> Any:
    """The same with one part replaced, left out, or named otherwise."""
    if rng.random() < 0.25 or not isinstance(value, list | dict) or not value:
        return make()
    if isinstance(value, list):
        place = rng.randrange(len(value))
        middle = [] if rng.random() < 0.1 else [_replaced(value[place], rng, make)]
        return [*value[:place], *middle, *value[place + 1 :]]
    name = rng.choice([*value])
    kept = {key: each for key, each in value.items() if key != name}
    if rng.random() < 0.1:
        return kept
    return {**kept, name if rng.random() < 0.9 else rng.choice((*KEYS, *TEXTS)): _replaced(value[name], rng, make)}


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False
