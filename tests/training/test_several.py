"""Several inputs of one pipeline, brought by one request."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.audit.checks.pickles import PickleCheck
from kbuild.audit.subject import Subject
from kbuild.errors import PipelineMLError, RecordingError
from kbuild.model.bundle import read_bundle
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.preflight.inputs import check_inputs, find_datasets
from kbuild.recording.record import record_model
from kbuild.serving.answer.model import load_model
from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory
from kbuild.training.pyfunc import KedroPipelineModel

pytestmark = pytest.mark.filterwarnings("ignore")
ORDERS = pd.DataFrame({"kind": pd.Categorical(["b", "a", "b"]), "count": [1, 2, 3]})
RATES = pd.DataFrame({"rate": [1.5, 2.0]}, index=pd.Index(["a", "b"], name="kind"))


def fit(orders: Any, rates: Any) -> float:
    return 2.0


def price(orders: Any, rates: Any, factor: float, weights: Any = None) -> Any:
    assert isinstance(orders["kind"].dtype, pd.CategoricalDtype)
    rate = rates.loc[orders["kind"].astype(str), "rate"].to_numpy()
    total = orders["count"] * rate * factor
    return pd.DataFrame({"price": total if weights is None else total + weights.sum()})


def bind(*names: str, inputs: tuple[str, ...] = ()) -> PipelineML:
    return pipeline_ml_factory(
        Pipeline([node(fit, ["orders", "rates"], "factor", name="fit")]),
        Pipeline([node(price, ["orders", "rates", "factor", *inputs], "prices", name="price")]),
        list(names),
    )


def record(bound: PipelineML, data: dict[str, Any], tmp_path: Path) -> Path:
    catalog = DataCatalog({**{name: MemoryDataset(each) for name, each in data.items()}, "factor": MemoryDataset(2.0)})
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    recorded = record_model(bound, catalog, run_id=run_id, settings=TrainingSettings(check=False))
    return Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path)))


@pytest.mark.slow
def test_tables_are_served_as_the_pipeline_knows_them(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    bound = bind("orders", "rates")
    assert (bound.input_names, bound.input_name) == (("orders", "rates"), "orders+rates")
    folder = record(bound, {"orders": ORDERS, "rates": RATES}, tmp_path)
    own = {"predictions": [{"price": 4.0}, {"price": 6.0}, {"price": 12.0}]}
    assert json.loads((folder / "recorded_prediction.json").read_text("utf-8")) == own
    # As a client writes it: a table is a list of its rows.
    rows = {"orders": [{"kind": "a", "count": 5}], "rates": [{"kind": "a", "rate": 3.0}]}
    expected = [{"price": 30.0}]
    server = load_model(folder)
    split = {"columns": list(rows), "data": [list(rows.values())]}
    for request in ({"inputs": rows}, {"dataframe_records": [rows]}, {"dataframe_split": split}):
        reply, _ = server.answer(json.dumps(request).encode(), "application/json")
        assert (reply.status, json.loads(reply.body)) == (200, {"predictions": expected}), reply.body
    answer = mlflow.pyfunc.load_model(str(folder)).predict(copy.deepcopy(rows))
    assert answer.to_dict("records") == expected
    for wrong in ({"orders": rows["orders"]}, {**rows, "orders": [{"kind": "a"}]}, {**rows, "rates": 3}):
        reply, _ = server.answer(json.dumps({"inputs": wrong}).encode(), "application/json")
        assert reply.status == 400, reply.body


@pytest.mark.slow
def test_an_audit_finds_nothing_in_what_takes_them_apart(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    """It is kbuild's own node: whoever is asked to allow it wrote nothing of it."""
    bundle = read_bundle(record(bind("orders", "rates"), {"orders": ORDERS, "rates": RATES}, tmp_path))
    # Not the code that travels: here that are these tests.
    bundle = replace(bundle, files=tuple(file for file in bundle.files if file.path == "python_model.pkl"))
    result = PickleCheck(allowed=(f"{__name__}.*",)).run(Subject(reference="x", kind="model", bundle=bundle))
    assert (result.findings, result.unchecked, result.looked_at) == ((), (), 1)


@pytest.mark.slow
def test_an_array_goes_beside_tables(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    bound = bind("orders", "rates", "weights", inputs=("weights",))
    data = {"orders": ORDERS, "rates": RATES, "weights": np.array([0.5, 0.25], dtype="float32")}
    folder = record(bound, data, tmp_path)
    request = json.loads((folder / "serving_input_example.json").read_text("utf-8"))
    assert request["inputs"]["weights"] == [0.5, 0.25]
    prices = json.loads((folder / "recorded_prediction.json").read_text("utf-8"))["predictions"]
    assert prices == [{"price": 4.75}, {"price": 6.75}, {"price": 12.75}]


def test_the_preflight_looks_at_each_of_them() -> None:
    bound = bind("orders", "rates")
    options: dict[str, Any] = {}
    good = {"orders": MemoryDataset(ORDERS), "rates": MemoryDataset(RATES)}

    def check(datasets: dict[str, Any]) -> list[str]:
        catalog = DataCatalog(datasets)
        asked = bound.by_default(**options)
        found, _ = find_datasets(asked, catalog)
        return [f"{each.about}: {each.error.message}" for each in check_inputs(asked, found, catalog)]

    assert check(good) == []
    mixed = MemoryDataset(pd.DataFrame({"mixed": pd.Series([1, "a"], dtype=object)}))
    (told,) = check({**good, "rates": mixed})
    assert told.startswith("input_name: no request can bring the input's column 'mixed'")
    (told,) = check({"orders": good["orders"]})
    assert "'rates'" in told
    # An image alone is served, beside others it is not.
    (told,) = check({**good, "rates": MemoryDataset(b"\x89PNG")})
    assert "a dict whose 'rates' is of the type bytes" in told
    # What nobody reads may be what no request brings; which columns that are only the nodes can tell.
    options["signature"] = "used"
    assert check({**good, "rates": mixed}) == []
    (told,) = check({**good, "rates": MemoryDataset((1, 2))})
    assert "a value of the type tuple" in told


@pytest.mark.slow
def test_the_columns_that_nobody_reads_are_left_out_of_each(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    bound = bind("orders", "rates", "weights", inputs=("weights",)).by_default(signature="used")
    weights = np.array([0.5, 0.25])
    orders = ORDERS.assign(sold=[1.0, 2.0, 3.0], note=pd.Series([1, "a", None], dtype=object))
    data = {"orders": orders, "rates": RATES.assign(until="2030"), "weights": weights}
    folder = record(bound, data, tmp_path)
    asked = json.loads((folder / "serving_input_example.json").read_text("utf-8"))["inputs"]
    assert {name: list(asked[name][0]) for name in ("orders", "rates")} == {
        "orders": ["kind", "count"],
        "rates": ["kind", "rate"],
    }
    assert asked["weights"] == [0.5, 0.25]
    request = {"orders": [{"kind": "a", "count": 5}], "rates": [{"kind": "a", "rate": 3.0}], "weights": [1.0]}
    reply, _ = load_model(folder).answer(json.dumps({"inputs": request}).encode(), "application/json")
    assert (reply.status, json.loads(reply.body)) == (200, {"predictions": [{"price": 31.0}]}), reply.body


@pytest.mark.slow
def test_a_table_that_is_taken_whole_stays_whole(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    def by_row(orders: Any, rates: Any, factor: float) -> Any:
        return [float(row.sum()) * factor * len(orders["count"]) for row in rates.to_numpy()]

    def learn(func: Any) -> PipelineML:
        return pipeline_ml_factory(
            Pipeline([node(fit, ["orders", "rates"], "factor", name="fit")]),
            Pipeline([node(func, ["orders", "rates", "factor"], "prices")]),
            ["orders", "rates"],
            log_model_kwargs={"signature": "used"},
        )

    rates = RATES.reset_index(drop=True).assign(more=1.0)
    folder = record(learn(by_row), {"orders": ORDERS, "rates": rates}, tmp_path)
    asked = json.loads((folder / "serving_input_example.json").read_text("utf-8"))["inputs"]
    assert [list(asked[name][0]) for name in ("orders", "rates")] == [["count"], ["rate", "more"]]

    def both(orders: Any, rates: Any, factor: float) -> Any:
        return [len(orders.to_numpy()) + len(rates.to_numpy())]

    with pytest.raises(RecordingError, match="which columns of 'orders', 'rates' the inference pipeline reads"):
        record(learn(both), {"orders": ORDERS, "rates": rates}, tmp_path)


def test_names_that_do_not_fit_are_told() -> None:
    for names, told in (
        ((), "not one or several"),
        (("orders", "orders"), "not one or several"),
        (("a",), "'a' is not an"),
    ):
        with pytest.raises(PipelineMLError, match=told):
            bind(*names)
    one = bind("orders")
    assert (one.input_names, one.input_name) == (("orders",), "orders")
    # A part of a run, and sums, keep them.
    both = bind("orders", "rates")
    assert (both + Pipeline([])).only_nodes("fit").input_names == ("orders", "rates")
    assert both == bind("orders", "rates") != one


def test_several_inputs_may_be_transcoded() -> None:
    def train(table: Any) -> float:
        return 2.0

    def answer(table: Any, rate: float, factor: float) -> float:
        return float(table * rate * factor)

    bound = pipeline_ml_factory(
        Pipeline([node(train, "table@pandas", "factor")]),
        Pipeline([node(answer, ["table@pandas", "rate", "factor"], "told")]),
        ["table@pandas", "rate"],
    )
    catalog = DataCatalog({"factor": MemoryDataset(2.0)})
    model = KedroPipelineModel(pipeline_ml=bound, catalog=catalog)
    model.load_artifacts(model.extract_pipeline_artifacts())
    assert model.predict(None, {"table@pandas": 3.0, "rate": 5.0}) == 30.0
