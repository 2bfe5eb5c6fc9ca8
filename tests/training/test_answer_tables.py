"""Answers that are tables of polars or pyarrow are served with every value that they have."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.record import record_model
from kbuild.served.as_pandas import to_pandas
from kbuild.serving.answer.model import load_model
from kbuild.training.pipeline_ml import pipeline_ml_factory

pytestmark = pytest.mark.filterwarnings("ignore")
DATA = {"n": [1, None, 2**60], "p": [0.5, 1.5, None], "t": ["é", None, "b"], "yes": [True, None, False]}
# What JSON has of it, written by hand.
ROWS = [
    {"n": 1, "p": 0.5, "t": "é", "yes": True},
    {"n": None, "p": 1.5, "t": None, "yes": None},
    {"n": 2**60, "p": None, "t": "b", "yes": False},
]


def record(store: mlflow.MlflowClient, answer: Callable[[Any, Any], Any], outputs: Any, folder: Path) -> Path:
    """A model whose only inference node is ``answer``; asked of a table of one column."""
    training = Pipeline([node(lambda x: 1.0, "x", "w", name="fit")])
    inference = Pipeline([node(answer, ["x", "w"], outputs, name="ask")])
    catalog = DataCatalog({"x": MemoryDataset(pd.DataFrame({"a": [1.0, 2.0, 3.0]})), "w": MemoryDataset(1.0)})
    run_id = store.create_run("0").info.run_id
    recorded = record_model(
        pipeline_ml_factory(training, inference, "x"), catalog, run_id=run_id, settings=TrainingSettings(check=False)
    )
    return Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(folder)))


def ask(model: Path) -> Any:
    reply, _ = load_model(model).answer(b'{"dataframe_split": {"columns": ["a"], "data": [[1.0]]}}', "application/json")
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["predictions"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        lambda x, w: pl.DataFrame(DATA),
        lambda x, w: pl.LazyFrame(DATA),
        lambda x, w: pa.table(DATA),
        lambda x, w: pa.RecordBatch.from_pydict(DATA),
    ],
    ids=["polars", "lazy", "pyarrow", "batch"],
)
def test_a_table_of_polars_or_pyarrow_is_answered(
    store: mlflow.MlflowClient, tmp_path: Path, answer: Callable[[Any, Any], Any]
) -> None:
    model = record(store, answer, "y", tmp_path)
    assert ask(model) == ROWS
    # MLflow itself gives a table, and has its columns in the signature.
    loaded = mlflow.pyfunc.load_model(str(model))
    assert loaded.metadata.signature.outputs.input_names() == list(DATA)
    assert isinstance(loaded.predict(pd.DataFrame({"a": [1.0]})), pd.DataFrame)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (lambda x, w: pl.Series("n", [1, 2]), "n"),
        (lambda x, w: pl.Series([1, 2]), "0"),
        (lambda x, w: pa.array([1, 2]), "0"),
        (lambda x, w: pa.chunked_array([[1], [2]]), "0"),
        (lambda x, w: pd.Series([1, 2]), "0"),
    ],
    ids=["polars", "polars, unnamed", "pyarrow", "chunked", "pandas"],
)
def test_a_column_of_polars_or_pyarrow_is_answered_as_one_of_pandas(
    store: mlflow.MlflowClient, tmp_path: Path, answer: Callable[[Any, Any], Any], name: str
) -> None:
    assert ask(record(store, answer, "y", tmp_path)) == [{name: 1}, {name: 2}]


@pytest.mark.slow
def test_each_of_several_outputs_is_answered(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    model = record(store, lambda x, w: (pl.DataFrame(DATA), pa.array([1.5]), 3), ["rows", "column", "n"], tmp_path)
    assert ask(model) == {"rows": ROWS, "column": [1.5], "n": 3}


@pytest.mark.parametrize(
    ("values", "polars_type"),
    [
        ([1, 2], pl.Int8),
        ([2**64 - 1], pl.UInt64),
        ([0.5, None], pl.Float32),
        ([dt.date(2024, 1, 31)], pl.Date),
        ([dt.datetime(2024, 1, 31, 12)], pl.Datetime("us")),
        ([dt.timedelta(seconds=1)], pl.Duration("us")),
        ([[1, 2], [], None], pl.List(pl.Int64)),
        ([{"a": 1}, {"a": None}], pl.Struct({"a": pl.Int64})),
        ([b"\x00"], pl.Binary),
        (["x", "y"], pl.Categorical),
        ([], pl.Float64),
        ([None, None], pl.Null),
    ],
    ids=str,
)
def test_values_are_those_that_polars_gives_to_python(values: list[Any], polars_type: Any) -> None:
    frame = pl.DataFrame({"c": pl.Series("c", values, dtype=polars_type)})
    made = to_pandas(frame)
    assert [{"c": None if each is None else each} for each in made["c"].tolist()] == frame.to_dicts()
    assert to_pandas(frame["c"]).name == "c"


def test_columns_of_one_name_stay_apart() -> None:
    table = to_pandas(pa.table([[1], [2]], names=["a", "a"]))
    assert table.columns.tolist() == ["a", "a"]
    assert table.iloc[0].tolist() == [1, 2]


def test_a_table_without_columns_keeps_nothing_and_without_rows_its_columns() -> None:
    assert to_pandas(pl.DataFrame()).shape == (0, 0)
    assert to_pandas(pl.DataFrame(schema={"a": pl.Int64})).columns.tolist() == ["a"]


def test_other_values_stay_as_they_are() -> None:
    for value in ({"a": 1}, pd.DataFrame({"a": [1]}), pl.Int64, pa.int64(), "text", None):
        assert to_pandas(value) is value
