"""Models loaded without MLflow: the same facts, the same answers, and MLflow imported no sooner than it is needed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import asgi
import models
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kedro.framework.hooks import hook_impl
from test_conformance import CASES, REFUSED, ask_both, is_refused

from kbuild.serving.answer.answer import write_predictions
from kbuild.serving.answer.columns import CSV_TYPES, Unusual
from kbuild.serving.answer.load_model import load_lean
from kbuild.serving.answer.mlflow_side import MlflowSide
from kbuild.serving.answer.model import load_model
from kbuild.serving.answer.model_facts import read_facts
from kbuild.serving.answer.params import ParamReader, find_unknown
from kbuild.serving.answer.reply import JSON
from kbuild.serving.http.asgi import ServingApp
from kbuild.serving.watch.metrics import Metrics

pytestmark = pytest.mark.filterwarnings("ignore")
TAKES_PARQUET = hasattr(models.mlflow.pyfunc.scoring_server, "CONTENT_TYPE_PARQUET")
PLAIN = ("mixed", "numbers", "one")
RARE = ("optional", "dated")
OTHER = ("tensor", "bare")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """MLflow models on disk, by the name of their signature."""
    folders = {name: tmp_path_factory.mktemp(name) / "model" for name in (*PLAIN, *RARE, *OTHER)}
    for name, folder in folders.items():
        models.save_model(name, folder)
    return folders


def serve(folder: Path) -> ServingApp:
    made = asgi.make_settings()
    metrics = Metrics(made.workers)
    app = ServingApp(load_model(folder, import_mlflow="lazy"), made, metrics)
    app.ready = True
    metrics.set_ready()
    return app


@pytest.fixture(scope="module")
def pair(saved: dict[str, Path]) -> tuple[Any, Any]:
    """MLflow's app and ours of the model of mixed columns."""
    loaded = models.mlflow.pyfunc.load_model(str(saved["mixed"]))
    return models.mlflow.pyfunc.scoring_server.init(loaded), serve(saved["mixed"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PLAIN, *RARE, *OTHER])
def test_every_case_is_answered_as_mlflow_answers(name: str, saved: dict[str, Path]) -> None:
    loaded = models.mlflow.pyfunc.load_model(str(saved[name]))
    pair = (models.mlflow.pyfunc.scoring_server.init(loaded), serve(saved[name]))
    # What only MLflow answers comes first, so that it is the first thing this server is asked.
    cases = sorted((case for case in CASES if case["model"] == name), key=lambda case: "wrong" not in case["name"])
    for case in cases:
        body = case["body"].encode("utf-8", "surrogatepass")
        theirs, ours = ask_both(pair, body, {"content-type": case["content_type"]})
        assert is_refused(case["name"], ours) if case["name"] in REFUSED else ours == theirs, case["name"]


@pytest.mark.parametrize("name", PLAIN)
def test_the_facts_are_those_that_mlflow_reads(name: str, saved: dict[str, Path]) -> None:
    lean = load_lean(saved[name], {})
    assert lean is not None
    theirs = read_facts(models.mlflow.pyfunc.load_model(str(saved[name])), saved[name])
    assert asdict(lean.facts) == asdict(theirs)


@pytest.mark.parametrize("name", OTHER)
def test_another_signature_is_left_to_mlflow(name: str, saved: dict[str, Path]) -> None:
    assert load_lean(saved[name], {}) is None
    assert load_model(saved[name], import_mlflow="lazy").app.loaded


def test_what_mlflow_may_refuse_or_nobody_knows_is_left_to_mlflow(saved: dict[str, Path], tmp_path: Path) -> None:
    assert load_lean(saved["one"], {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}) is None
    described = yaml.safe_load((saved["one"] / "MLmodel").read_text("utf-8"))
    for change in (
        {"flavors": {"python_function": {**described["flavors"]["python_function"], "model_config": {"a": 1}}}},
        {"flavors": {"python_function": {**described["flavors"]["python_function"], "loader_module": "mine"}}},
        {"type_hint_from_example": True},
        {"metadata": {"mlflow.model.isExternal": True}},
        {"signature": None},
    ):
        (tmp_path / "MLmodel").write_text(yaml.safe_dump({**described, **change}), "utf-8")
        assert load_lean(tmp_path, {}) is None
    (tmp_path / "MLmodel").write_text("]", "utf-8")
    assert load_lean(tmp_path, {}) is None


class Calls:
    """A hook that notes what Kedro loads for the node."""

    seen: ClassVar[list[str]] = []

    @hook_impl
    def before_dataset_loaded(self, dataset_name: str) -> None:
        self.seen.append(dataset_name)


def test_a_model_that_kedro_runs_is_left_to_mlflow_and_run_once_a_request(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    models.save_model("mixed", tmp_path / "model", runner="SequentialRunner", hooks=[Calls()])
    assert load_lean(tmp_path / "model", {}) is None
    app = serve(tmp_path / "model")
    assert app._model.fast is None
    # Also the one that fails: the short way would have tried it before.
    wrong = {"x": 1.5, "n": 13, "flag": True, "text": "a"}
    for count, row in enumerate(({**wrong, "n": 1}, wrong, wrong), 1):
        body = json.dumps({"dataframe_records": [row]}).encode()
        ours, theirs = [
            asyncio.run(asgi.call(each, "POST", "/invocations", body, {"content-type": "application/json"}))
            for each in (app, serve(saved["mixed"]))
        ]
        assert (ours[0], ours[2]) == (theirs[0], theirs[2]) and ours[0] == (200 if row["n"] == 1 else 400)
        assert Calls.seen.count("table") == count


# What a fresh server does: a short answer, a stray request, then one for MLflow. Prints what was imported after each.
FRESH = """
import asyncio, json, pathlib, sys
sys.path.insert(0, sys.argv[2])
from asgi_call import call
from kbuild.serving.answer.model import load_model
from kbuild.serving.answer.reply import JSON
model = load_model(pathlib.Path(sys.argv[1]), import_mlflow=sys.argv[3])
said = ["mlflow" in sys.modules]
row = json.dumps({"dataframe_records": [{"only": 1.5}]}).encode()
said += [model.answer(row, JSON)[1], "mlflow" in sys.modules]
said += [asyncio.run(call(model.app, "GET", path))[0] for path in ("/version", "/favicon.ico", "/invocations")]
said += ["mlflow" in sys.modules]
said += [model.answer(b"{}", JSON)[0].status, "mlflow" in sys.modules]
from kbuild.served.pipeline import _shared
(twin,) = _shared.values()
loaded = model.app._answer.__closure__
inner = next(cell.cell_contents for cell in loaded if type(cell.cell_contents).__name__ == "PyFuncModel")
said += [inner.unwrap_python_model().loaded_inputs is twin.loaded_inputs]
print(json.dumps(said))
"""


@pytest.mark.slow
def test_mlflow_is_imported_by_the_first_request_that_needs_it(saved: dict[str, Path], tmp_path: Path) -> None:
    helper = (Path(__file__).parent / "asgi.py").read_text("utf-8")
    # The helper without what imports MLflow or the tests' models.
    begin, end = helper.index("async def call("), helper.index("def make_settings(")
    (tmp_path / "asgi_call.py").write_text(f"import asyncio\nfrom typing import Any\nAnswer = Any\n{helper[begin:end]}")
    argv = [sys.executable, "-W", "ignore", "-c", FRESH, str(saved["one"]), str(tmp_path), "lazy"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [False, True, False, 200, 404, 405, False, 400, True, True]


@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for method in ("GET", "POST", "HEAD", "PUT", "OPTIONS") for path in
     ("/version", "/ping", "/health", "/invocations", "/invocations/", "/ping/", "/nope", "/nope/", "/docs/", "//ping",
      "/docs/oauth2-redirect", "/pingpong")],
)  # fmt: skip
def test_paths_without_mlflow_are_answered_as_mlflow_answers(method: str, path: str, saved: dict[str, Path]) -> None:
    theirs = models.mlflow.pyfunc.scoring_server.init(models.mlflow.pyfunc.load_model(str(saved["one"])))
    side = MlflowSide(saved["one"], stack_traces=False, version=models.mlflow.__version__)
    if side._known(path, method) is None:
        return  # its own app answers

    async def ask() -> None:
        (status, headers, body), other = [await asgi.call(app, method, path) for app in (theirs, side)]
        # Up to MLflow 3.10 some of its routes are Starlette's own, which take HEAD where they take GET.
        if {*headers.get("allow", "").split(", ")} == {"GET", "HEAD"}:
            headers["allow"] = "GET"
        if method == "HEAD" and status == 200:
            status, headers, body = 405, {**other[1]}, other[2]
        assert (status, headers, body) == other

    asyncio.run(ask())
    assert not side.loaded


@pytest.mark.slow
def test_a_model_that_mlflow_cannot_load_is_500_and_no_crash(tmp_path: Path) -> None:
    side = MlflowSide(tmp_path, stack_traces=False)
    assert side.answer(b"{}", "application/json").status == 500
    assert asyncio.run(asgi.call(side, "GET", "/docs/oauth2-redirect"))[0] == 500


@pytest.mark.slow
def test_who_needs_mlflow_where_it_fails_is_told_at_once_for_a_minute(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tried = 1000.0, []
    folder = tmp_path / "model"

    def load(path: str) -> Any:
        tried.append(path)
        time.sleep(0.05)
        return real(path)

    real = models.mlflow.pyfunc.load_model
    monkeypatch.setattr(models.mlflow.pyfunc, "load_model", load)
    side = MlflowSide(folder, stack_traces=False, clock=lambda: now)
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: side.answer(b"{}", JSON), range(8)))
    assert [(reply.status, json.loads(reply.body)["error_code"]) for reply in replies] == [(500, "INTERNAL_ERROR")] * 8
    assert "log" in json.loads(replies[0].body)["message"]
    shutil.copytree(saved["one"], folder)
    now += 59
    assert side.answer(b"{}", JSON).status == 500
    assert len(tried) == 1
    now += 2
    assert side.answer(b"{}", JSON).status == 400
    assert side.loaded and len(tried) == 2


SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.just([]),
    st.lists(st.integers(0, 3), max_size=2), st.lists(st.one_of(st.floats(), st.text(max_size=2)), max_size=2),
)  # fmt: skip
SCHEMA = [
    {"name": f"{kind}{'s' if shape else ''}", "default": [value] if shape else value, "shape": shape, "type": kind}
    for shape in (None, [-1])
    for kind, value in {"boolean": True, "integer": 1, "long": 2, "float": 1, "double": 2, "string": "a"}.items()
]


@given(st.dictionaries(st.sampled_from([*(spec["name"] for spec in SCHEMA), "other"]), SCALAR, max_size=3))
def test_params_are_those_that_mlflow_makes(params: dict[str, Any]) -> None:
    from mlflow.models.utils import _enforce_params_schema
    from mlflow.types import ParamSchema

    schema = ParamSchema.from_json(json.dumps(SCHEMA))
    given_params = json.loads(json.dumps(params))
    try:
        ours = ParamReader(SCHEMA).read(given_params)
    except Unusual:
        return
    theirs = _enforce_params_schema(json.loads(json.dumps(params)), schema)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ('{"thr": 1}', None),
        ('{"runner": "SequentialRunner", "thr": 1}', None),
        ("{}", None),
        ("[1]", None),
        ("{", None),
        ('{"params:thr": 1}', "no params 'params:thr'. It has model.rate, thr. Did you mean thr?"),
        ('{"thr": 1, "model": {"rate": 1}}', "no params 'model'. It has model.rate, thr."),
    ],
)
def test_params_that_a_model_does_not_have_are_named_with_those_it_has(params: str, said: str | None) -> None:
    body = f'{{"inputs": [1], "params": {params}}}'.encode()
    told = find_unknown(body, {"thr", "model.rate"})
    assert told is None if said is None else (told is not None and said in told)
    assert find_unknown(b'{"inputs": ["params:x"]}', set()) is None


@pytest.mark.slow
@pytest.mark.parametrize("params", [{f"p{each}": 1 for each in range(400_000)}, {"thr" * 1_000_000: 1}])
def test_many_unknown_params_and_long_ones_are_told_at_once(params: dict[str, int]) -> None:
    body = json.dumps({"inputs": [1], "params": params}).encode()
    begun = time.monotonic()
    told = find_unknown(body, {"thr", "model.rate"})
    assert told is not None and len(told) < 400
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("kind", CSV_TYPES)
def test_csv_types_are_mlflows(kind: str) -> None:
    from mlflow.types import DataType

    assert CSV_TYPES[kind] == DataType[kind].to_pandas()


def make_predictions() -> list[Any]:
    import datetime

    import numpy as np
    import pandas as pd

    moment = datetime.datetime(2024, 1, 2, 3, 4, 5, 6)
    table = pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": pd.to_datetime(["2024-01-01", None])})
    numbers = np.array([[1.5, float("nan")], [2, float("inf")]])
    return [
        table, table["a"], table["c"], numbers, np.float32(1.1), np.array(["a", "b"]), np.array([b"a", "b", numbers],
        dtype=object), {"x": numbers, "y": np.int64(3), "t": moment, "d": moment.date(), "b": b"abc", "n": None},
        [1, "é", True], "text", None, pd.DataFrame({"a": []}), table.set_index("a"), pd.DataFrame([[1, 2]]),
        {1: 2, 3.5: 3}, np.datetime64("2024-01-01T00:00:01"), [np.datetime64("2024-01-01", "ns")], bytearray(b"x" * 99),
        pd.DataFrame({"a": [np.array([1, 2])]}), pd.DataFrame({"a": pd.array([1, 2], dtype="int32")}),
        pd.DataFrame({"a": pd.Categorical(["x", "y"])}), pd.Timestamp(moment), [pd.NaT], (1, 2),
        pd.DataFrame({"100 %s, \"é\"": [0.1, -0.0, 1e300], "b": [1, -2, 2**62], "c": [True, False, True]}),
        pd.DataFrame(numbers, columns=["x", "y"]), pd.DataFrame(index=[0, 1]), pd.DataFrame({"a": [1], "b": [1.5]})[:0],
        pd.DataFrame({"a": np.array([0.1, 2], "f2"), "b": np.array([0.1, 2], "f4"), "c": np.array([1, 2], "u1")}),
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(len(make_predictions())))
def test_predictions_are_written_as_mlflow_writes_them(index: int) -> None:
    predictions = make_predictions()[index]
    written = StringIO()
    models.mlflow.pyfunc.scoring_server.predictions_to_json(predictions, written)
    assert write_predictions(predictions) == written.getvalue().encode()


@pytest.mark.parametrize("odd", [object(), {1, 2}, models.pd.NA, {"a": models.pd.NA}])
def test_what_nobody_can_write_is_left_to_mlflow(odd: Any) -> None:
    with pytest.raises(TypeError):
        write_predictions(odd)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
CELL = st.one_of(
    st.floats(allow_nan=False).map(str), st.integers(-3, 3).map(str), st.sampled_from(["", "NA", "x", "True"])
)


def test_csv_takes_the_short_way(pair: tuple[Any, Any]) -> None:
    way = pair[1]._model.fast
    assert way.answer(b"n,x,flag,text\n1,2.5,True,a\n", "text/csv") is not None
    assert way.answer(b"n,x,flag\n1,2.5,True\n", "text/csv") is None
    assert way.answer(b"n,x,flag,text\r1,2.5,True,a", "text/csv") is None
    # pandas makes an index of what comes first, which requests put together would lose.
    assert way.answer(b"n,x,flag,text\n7,1,2.5,True,a\n", "text/csv") is None


@pytest.mark.slow
@given(
    rows=st.lists(st.tuples(CELL, st.integers(-(2**63), 2**63 - 1).map(str), st.sampled_from(["True", "False"]), TEXT)),
    names=st.permutations(["x", "n", "flag", "text"]),
    line=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_random_csv_is_answered_as_mlflow_answers(
    rows: list[tuple[str, ...]], names: list[str], line: str, pair: tuple[Any, Any]
) -> None:
    where = {name: n for n, name in enumerate(("x", "n", "flag", "text"))}
    lines = [",".join(names), *(",".join(row[where[name]] for name in names) for row in rows)]
    theirs, ours = ask_both(pair, line.join(lines).encode(), {"content-type": "text/csv; charset=UTF-8"})
    assert ours == theirs


@pytest.mark.slow
def test_a_rehearsal_asks_every_kind_and_tells_what_was_read(saved: dict[str, Path], tmp_path: Path) -> None:
    answer, model = tmp_path / "answer.json", tmp_path / "model"
    shutil.copytree(saved["one"], model)
    described = yaml.safe_load((model / "MLmodel").read_text("utf-8"))
    described["saved_input_example_info"] = {"serving_input_path": "example.json"}
    (model / "MLmodel").write_text(yaml.safe_dump(described), "utf-8")
    (model / "example.json").write_text('{"dataframe_split": {"columns": ["only"], "data": [[1.5], [2.5]]}}', "utf-8")
    environment = {**os.environ, "KBUILD_MODEL": str(model), "PYTHONHASHSEED": "0"}
    argv = [sys.executable, "-W", "ignore", "-m", "kbuild.serving.http.rehearsal", str(answer)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(answer.read_text("utf-8"))
    assert 0 < said["seconds"] < 60
    statuses = [status for status, _, _ in said["answers"]]
    assert {200, 400, 404, 405, 415} == {*statuses}
    # Short, JSON, CSV, Parquet, and through MLflow's app.
    (predicted, *others) = [body for status, _, body in said["answers"] if status == 200 and "predictions" in body]
    # MLflow takes Parquet from 3.10 on.
    assert others == [predicted] * (3 + TAKES_PARQUET)
    for name in ("mlflow/pyfunc/scoring_server/__init__.py", "pandas/__init__.py", "uvicorn/server.py"):
        assert any(file.endswith(name) for file in said["files"])
    assert not any(file.startswith("/") for file in said["files"])
