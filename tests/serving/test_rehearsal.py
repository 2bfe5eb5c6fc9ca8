from __future__ import annotations

import json

import pytest

from kbuild.serving.http.rehearsal import _make_requests

PARQUET = "application/vnd.apache.parquet"
TABLE = json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1.5], [2.5]]}}).encode()


@pytest.mark.parametrize("example", [TABLE, b"{}", b'{"inputs": [[1.0]]}', b'{"dataframe_split": {"data": [[1]]}}'])
def test_whatever_the_example_is_tables_are_asked_too(example: bytes) -> None:
    asked = {kind: body for body, kind in reversed(_make_requests(example))}
    assert asked["application/json"] == example
    assert asked["text/csv"].count(b"\n") == (3 if example == TABLE else 2)
    assert asked[PARQUET][:4] == b"PAR1"
