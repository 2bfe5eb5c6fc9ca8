"""Our /invocations against MLflow's own app of the same model: status, content type and body, byte for byte.

Two differences are meant: MLflow's error bodies carry ``stack_trace``, ours log it; and params that the model does not
have, which MLflow leaves out, are refused.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
from pathlib import Path
from typing import Any

import asgi
import models
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES = json.loads((Path(__file__).parent / "conformance.json").read_text("utf-8"))
REFUSED = {
    "params unknown": "The model has no params 'zzz'. It has scale, times, word.",
    "params known and unknown": "The model has no params 'zzz'. It has scale, times, word.",
    "params without schema": "The model has no params 'scale'. It has none.",
}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """MLflow's app and ours, by the name of the model."""
    made = {}
    for name in models.SIGNATURES:
        folder = tmp_path_factory.mktemp(name)
        loaded = models.make_model(name, folder)
        made[name] = (models.mlflow.pyfunc.scoring_server.init(loaded), asgi.serve(loaded, folder))
    return made


def ask_both(pair: tuple[Any, Any], body: bytes, headers: dict[str, str]) -> tuple[Any, Any]:
    async def ask() -> tuple[Any, Any]:
        try:
            status, theirs, text = await asgi.call(pair[0], "POST", "/invocations", body, headers)
        except Exception:  # noqa: BLE001  what escapes the app is 500 under any server
            status, theirs, text = 500, {"content-type": "text/plain; charset=utf-8"}, b"Internal Server Error"
        if status >= 400 and b'"stack_trace"' in text:
            told = json.loads(text)
            told.pop("stack_trace", None)
            text = json.dumps(told).encode()
        ours = await asgi.call(pair[1], "POST", "/invocations", body, headers)
        return (status, theirs["content-type"], text), (ours[0], ours[1]["content-type"], ours[2])

    return asyncio.run(ask())


def is_refused(name: str, ours: Any) -> bool:
    """Whether a case is one of those that MLflow answers and this server is to refuse, and it did."""
    return name in REFUSED and (ours[0], json.loads(ours[2])) == (
        400,
        {"error_code": "BAD_REQUEST", "message": REFUSED[name]},
    )


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 150
    assert len({(case["model"], case["name"]) for case in CASES}) == len(CASES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", models.SIGNATURES)
def test_every_case_is_answered_as_mlflow_answers(model: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    different = []
    for case in (case for case in CASES if case["model"] == model):
        body = case["body"].encode("utf-8", "surrogatepass")
        theirs, ours = ask_both(pairs[model], body, {"content-type": case["content_type"]})
        if not is_refused(case["name"], ours) if case["name"] in REFUSED else theirs != ours:
            different.append((case["name"], theirs, ours))
    assert different == []


@pytest.mark.slow
def test_the_short_way_is_taken_where_it_is_meant(pairs: dict[str, tuple[Any, Any]]) -> None:
    fast = [
        case["name"]
        for case in CASES
        if (way := pairs[case["model"]][1]._model.fast) is not None
        and way.answer(case["body"].encode("utf-8", "surrogatepass")) is not None
    ]
    assert len(fast) >= 80
    assert {"split one row", "records two", "inputs rows", "instances rows", "params one", "split unicode"} <= {*fast}


NUMBER = st.one_of(
    st.floats(), st.integers(-(2**64), 2**64), st.booleans(), st.none(), st.sampled_from(["1", "a", [], {}])
)
WELL = {
    "x": st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.none()),
    "n": st.integers(-(2**63), 2**63 - 1),
    "flag": st.booleans(),
    "text": st.text(),
}
ANY = {name: st.one_of(good, good, good, NUMBER) for name, good in WELL.items()}


def make_request(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    if kind == "dataframe_split":
        return {kind: {"columns": list(WELL), "data": [[row[name] for name in WELL] for row in rows]}}
    return {kind: {name: [row[name] for row in rows] for name in WELL} if kind == "inputs" else rows}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(st.lists(st.fixed_dictionaries(WELL), max_size=4), st.lists(st.fixed_dictionaries(ANY), max_size=3)),
    kind=st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]),
)
def test_random_tables_are_answered_as_mlflow_answers(
    rows: list[dict[str, Any]], kind: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    theirs, ours = ask_both(pairs["mixed"], json.dumps(make_request(kind, rows)).encode(), JSON)
    assert ours == theirs


MOMENT = st.one_of(
    st.datetimes(min_value=datetime.datetime(1677, 9, 23), max_value=datetime.datetime(2262, 4, 10)).flatmap(
        lambda moment: st.sampled_from([moment.isoformat(), moment.isoformat(" "), str(moment.date())])
    ),
    st.sampled_from(
        ["2024-01-01T00:00:00Z", "2024-13-01", "", "NaT", "nan", "9999-01-01", "1/2/2024", "noon", "20240101"]
    ),
)
DATED = {
    "x": st.one_of(st.floats(), st.none()),
    "when": st.one_of(MOMENT, MOMENT, MOMENT, st.none(), st.integers(0, 2**40)),
    "blob": st.one_of(st.binary().map(lambda data: base64.b64encode(data).decode()), st.text(max_size=9), st.none()),
    "small": st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**40), 2**40), st.booleans(), st.floats()),
}
WELL_DATED = {
    "x": st.floats(),
    "when": st.datetimes(min_value=datetime.datetime(1700, 1, 1), max_value=datetime.datetime(2200, 1, 1)).map(str),
    "blob": st.binary().map(lambda data: base64.b64encode(data).decode()),
    "small": st.integers(-(2**31), 2**31 - 1),
}


def make_table(kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [*rows[0]] if rows else []
    if kind == "dataframe_split":
        return {kind: {"columns": names, "data": [[*row.values()] for row in rows]}}
    return {kind: {name: [row.get(name) for row in rows] for name in names} if kind == "inputs" else rows}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.one_of(
        st.lists(st.fixed_dictionaries(WELL_DATED), max_size=3), st.lists(st.fixed_dictionaries(DATED), max_size=3)
    ),
    kind=st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]),
)
def test_dates_bytes_and_short_integers_are_answered_as_mlflow_answers(
    rows: list[dict[str, Any]], kind: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    theirs, ours = ask_both(pairs["dated"], json.dumps(make_table(kind, rows)).encode(), JSON)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.fixed_dictionaries({"x": st.floats()}, optional={"maybe": NUMBER, "other": NUMBER}), min_size=1, max_size=3
    ),
    alike=st.booleans(),
    kind=st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]),
)
def test_columns_that_may_be_left_out_are_answered_as_mlflow_answers(
    rows: list[dict[str, Any]], alike: bool, kind: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    rows = [rows[0]] * len(rows) if alike else rows
    theirs, ours = ask_both(pairs["optional"], json.dumps(make_table(kind, rows)).encode(), JSON)
    assert ours == theirs


@pytest.mark.parametrize(
    ("model", "table"),
    [
        ("optional", {"x": 1.5}),
        ("optional", {"x": 1.5, "maybe": 2.5}),
        ("dated", {"x": 1.5, "when": "2024-01-01 10:00:00.5", "blob": "aGk=", "small": 7}),
    ],
)
@pytest.mark.parametrize("kind", ["dataframe_split", "dataframe_records"])
def test_these_take_the_short_way(
    model: str, table: dict[str, Any], kind: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    way = pairs[model][1]._model.fast
    assert way is not None and way.answer(json.dumps(make_table(kind, [table, table])).encode()) is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.binary(max_size=60), st.recursive(NUMBER, st.lists, max_leaves=8).map(json.dumps)))
def test_random_bodies_are_answered_as_mlflow_answers(body: bytes | str, pairs: dict[str, tuple[Any, Any]]) -> None:
    theirs, ours = ask_both(pairs["mixed"], body if isinstance(body, bytes) else body.encode(), JSON)
    assert ours == theirs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@given(rows=st.lists(st.fixed_dictionaries(WELL), min_size=1, max_size=5))
def test_the_table_itself_is_the_one_mlflow_makes(rows: list[dict[str, Any]]) -> None:
    from mlflow.models.utils import _enforce_schema
    from mlflow.utils.proto_json_utils import dataframe_from_parsed_json

    from kbuild.serving.answer.columns import TableReader, Unusual

    schema = models.make_signature("mixed").inputs
    for kind in ("dataframe_split", "dataframe_records"):
        data = make_request(kind, rows)[kind]
        try:
            ours = TableReader(models.MIXED).read(kind, data)
        except Unusual:
            continue
        theirs = _enforce_schema(dataframe_from_parsed_json(data, kind.removeprefix("dataframe_"), schema), schema)
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        assert [block.dtype for block in ours._mgr.blocks] == [block.dtype for block in theirs._mgr.blocks]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/ping"), ("GET", "/health"), ("GET", "/version"), ("GET", "/nope"), ("GET", "/invocations"),
     ("POST", "/ping"), ("PUT", "/invocations"), ("DELETE", "/version"), ("POST", "/invocations/")],
)  # fmt: skip
def test_other_paths_are_answered_as_mlflow_answers(method: str, path: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    async def ask() -> None:
        theirs, ours = [await asgi.call(app, method, path) for app in pairs["mixed"]]
        assert (ours[0], ours[2]) == (theirs[0], theirs[2])
        for header in ("content-type", "allow", "location", "content-length"):
            assert ours[1].get(header) == theirs[1].get(header)

    asyncio.run(ask())
