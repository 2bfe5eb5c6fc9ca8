from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import asgi
import models
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.serving.limits import Limits, is_deeper

SMALL = Limits(depth=5, rows=4, columns=3)
JSON, CSV = "application/json", "text/csv"


def status(body: Any, content_type: str = JSON, limits: Limits = SMALL) -> int | None:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused = limits.check(text, content_type)
    assert refused is None or set(json.loads(refused.body)) == {"error_code", "message"}
    return None if refused is None else refused.status


def nested(depth: int) -> Any:
    value: Any = 1
    for number in range(depth):
        value = [value] if number % 2 else {']}[{\\"': value}
    return value


def find_depth(value: Any) -> int:
    if isinstance(value, dict):
        value = [*value.values()]
    return 1 + max(map(find_depth, value), default=0) if isinstance(value, list) else 0


@given(
    st.recursive(
        st.text('a"[]{}\\,:') | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('"[]{}\\', max_size=3), inner, max_size=3),
        max_leaves=20,
    ),
    st.booleans(),
)
def test_depth_is_counted_as_the_json_has_it(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    depth = find_depth(value)
    assert not is_deeper(body, depth)
    assert depth == 0 or is_deeper(body, depth - 1)


@given(st.binary(max_size=200), st.integers(1, 20))
def test_depth_of_anything_is_answered(body: bytes, depth: int) -> None:
    assert is_deeper(body, depth) in (True, False)


def test_depth_is_counted_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kbuild.serving.limits._PART", 3)
    body = json.dumps(nested(40)).encode()
    assert is_deeper(body, 39) and not is_deeper(body, 40)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": nested(4)}, None),
        ({"inputs": nested(5)}, 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]] * 4}}, None),
        ({"dataframe_split": {"columns": ["a"], "data": [[1]] * 5}}, 413),
        ({"dataframe_split": {"columns": ["a"] * 4, "data": []}}, 413),
        ({"dataframe_split": {"columns": ["a"], "data": [[1], [1] * 4]}}, 413),
        ({"dataframe_split": {"columns": ["a"] * 3, "data": [[1] * 3] * 4}}, None),
        ({"dataframe_records": [{"a": 1}] * 5}, 413),
        ({"dataframe_records": [{"a": 1}, dict.fromkeys("abcd", 1)]}, 413),
        ({"inputs": {"a": [1] * 5}}, 413),
        ({"inputs": dict.fromkeys("abcd", 1)}, 413),
        ({"inputs": [[1] * 9] * 4}, None),
        ({"instances": [1] * 5}, 413),
        ({"instances": [1] * 4, "params": {"a": [1] * 9}}, None),
        ({"other": [1] * 9}, None),
        ([1] * 9, None),
        (b'{"inputs": [1,1,1,1,1,1', None),
    ],
)
def test_a_table_above_a_limit_is_refused(body: Any, expected: int | None) -> None:
    assert status(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"a,b,c\n1,2,3\n", None),
        (b"a,b,c,d\n1,2,3,4\n", 413),
        (b'"a,x","b,x",c\n1,2,3', None),
        (b"a\n" + b"1\n" * 4, None),
        (b"a\n" + b"1\n" * 5, 413),
        (b"a\r" + b"1\r" * 5, 413),
        (b"a\n1\n1\n1\n1\n1", 413),
        (b"", None),
        (b'"' + b"x" * 200_000, None),
        (b"\xff,\xff", None),
    ],
)
def test_a_csv_above_a_limit_is_refused(body: bytes, expected: int | None) -> None:
    assert status(body, "text/csv; charset=utf-8") == expected


def test_a_parquet_file_is_measured_by_its_footer() -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    for rows, columns, expected in ((4, 3, None), (5, 1, 413), (1, 4, 413)):
        file = io.BytesIO()
        write_table(arrow.table({str(n): [1] * rows for n in range(columns)}), file)
        assert status(file.getvalue(), "application/vnd.apache.parquet") == expected
    assert status(b"PAR1 no parquet", "application/vnd.apache.parquet") is None


@pytest.mark.parametrize("path", ["short", "long"])
def test_the_server_refuses_before_the_model_is_asked(tmp_path: Path, path: str) -> None:
    app = asgi.serve(models.make_model("numbers", tmp_path), tmp_path, max_rows=3, max_depth=10)
    row: dict[str, Any] = {"a": 1.5, "b": 2.5, "c": 3}
    # A long is no float for the short way.
    body = {"dataframe_records": [row if path == "short" else {**row, "b": 2}] * 3}

    async def ask(request: Any) -> asgi.Answer:
        return await asgi.call(
            app, "POST", "/invocations", json.dumps(request).encode(), {"content-type": "application/json"}
        )

    fits, above = (asyncio.run(ask(each)) for each in (body, {"dataframe_records": body["dataframe_records"] * 2}))
    assert (fits[0], above[0]) == (200, 413)
    assert json.loads(above[2]) == {
        "error_code": "REQUEST_LIMIT_EXCEEDED",
        "message": "The request has more than 3 rows.",
    }
    assert asyncio.run(ask({"inputs": nested(10)}))[0] == 400
