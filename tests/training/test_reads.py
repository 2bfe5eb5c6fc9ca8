from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro_datasets.pandas.csv_dataset import CSVDataset
from kedro_datasets.pickle.pickle_dataset import PickleDataset
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kbuild.errors import RecordingError
from kbuild.recording import record
from kbuild.recording.clean_check import RECORDED_PREDICTION, CleanAnswer
from kbuild.recording.input.reads import observe, plain
from kbuild.training.pipeline_ml import pipeline_ml_factory

TABLE = pd.DataFrame({name: [float(place), place + 1.5] for place, name in enumerate("abcdef")})


def add(table: pd.DataFrame) -> Any:
    table["made"] = table["a"] * 2
    return table["made"] + table.c


def select(table: pd.DataFrame) -> Any:
    model = make_pipeline(ColumnTransformer([("some", StandardScaler(), ["b", "e"])]), LinearRegression()).fit(
        TABLE, [1.0, 2.0]
    )
    return model.predict(table)


def clean_in_place(table: pd.DataFrame) -> Any:
    table.fillna(0.0, inplace=True)
    return table["d"]


def set_cells(table: pd.DataFrame) -> Any:
    table[table > 2] = 0.0
    return table


CASES: list[tuple[str, Callable[[pd.DataFrame], Any]]] = [
    ("a", lambda table: table["a"]),
    ("ab", lambda table: table[["b", "a"]].sum(axis=1)),
    ("ac", add),
    ("ad", lambda table: table[table["a"] > 0]["d"]),
    ("af", lambda table: table.loc[table["a"] > 0, ["f"]]),
    # What is dropped by its name has to be there.
    ("ac", lambda table: table.drop(columns=["a"]).reset_index(drop=True).copy()["c"]),
    ("abc", lambda table: table.drop(["a", "b"], axis=1)["c"]),
    ("bc", lambda table: table.drop("b", axis="columns")["c"]),
    ("c", lambda table: table.drop(columns=["a"], errors="ignore")["c"]),
    ("c", lambda table: table.drop(index=[0])["c"]),
    ("c", lambda table: table.drop([0])["c"]),
    ("c", lambda table: copy.deepcopy(table)["c"]),
    ("", lambda table: (len(table), table.shape, list(table.columns), "a" in table)),
    ("abcdef", lambda table: table * 2),
    ("abcdef", lambda table: np.asarray(table)),
    ("abcdef", lambda table: table.iloc[:, 0]),
    ("abcdef", lambda table: table.assign(x=1) * 2),
    ("c", lambda table: table.assign(x=1, y=lambda made: made["c"] + made["x"])["y"]),
    ("bc", lambda table: table.dropna(subset=["b"]).fillna({"a": 0.0})["c"]),
    ("bc", lambda table: table.dropna(subset="b").round(1)["c"]),
    ("abcdef", lambda table: table.dropna()["c"]),
    ("abcdef", lambda table: table.dropna(axis=1, subset=[0])["c"]),
    ("abcdef", lambda table: table.dropna(axis="columns")["c"]),
    ("bc", lambda table: table.sort_values("b", ascending=False).astype("float32")["c"]),
    ("ac", lambda table: table.astype({"a": "float32"})["c"]),
    ("abc", lambda table: table.drop_duplicates(["a", "b"]).ffill()["c"]),
    ("abcdef", lambda table: table.drop_duplicates()["c"]),
    ("abcdef", lambda table: table.ffill(axis=1)["c"]),
    ("abcdef", lambda table: table.sort_values(1, axis=1)["c"]),
    ("abcdef", lambda table: table.fillna(table.mean())["c"]),
    ("d", clean_in_place),
    ("abcdef", lambda table: pd.concat([table, table])),
    ("abcdef", lambda table: table.to_dict("records")),
    ("abcdef", lambda table: [each.a for each in table.itertuples()]),
    ("abcdef", lambda table: LinearRegression().fit(TABLE, [1, 2]).predict(table)),
    ("abcdef", lambda table: table.eval("a + b")),
    ("abcdef", lambda table: table[table > 0]),
    ("abcdef", lambda table: table[table.isna()]),
    ("abcdef", set_cells),
    ("abcdef", lambda table: pickle.loads(pickle.dumps(table))["a"]),
    ("ad", lambda table: table[pd.array([True, False])]["d"] + table["a"]),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_the_columns_that_are_read_are_seen(number: int) -> None:
    names, use = CASES[number]
    observed, reads = observe(TABLE.copy())
    answer = use(observed)
    assert "".join(map(str, reads.names)) == names
    # And what is done with it gives what it gives without.
    assert repr(plain(answer)) == repr(use(TABLE.copy()))
    assert isinstance(observed, pd.DataFrame)


def test_a_column_transformer_reads_what_it_names_or_all() -> None:
    observed, reads = observe(TABLE.copy())
    np.testing.assert_array_equal(select(observed), select(TABLE))
    assert {"b", "e"} <= set(reads.names)
    assert type(plain(observed)) is pd.DataFrame


def test_columns_of_one_name_are_not_told_apart() -> None:
    table = pd.DataFrame([[1, 2]], columns=["a", "a"])
    assert observe(table)[1].everything


def fit(table: Any) -> float:
    return 2.0


def score(table: Any, factor: float) -> Any:
    return table[["b", "d"]] * factor


def takes_all(table: Any, factor: float) -> Any:
    return table * factor


def cheap(table: Any) -> Any:
    return table[table["a"] < 5]


def counts(table: Any, factor: float) -> Any:
    return [factor] * len(table)


def trusts_the_type(table: Any, factor: float) -> Any:
    if type(table) is not pd.DataFrame:
        raise TypeError("that is no table")
    return table[["b"]] * factor


def keep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, func: Any, signature: str, between: Any = None
) -> tuple[Any, Path]:
    """The model of a pipeline of one node, its recorded answer standing for the clean process's.

    With a dataset ``between`` a node before that one hands on the table through it.
    """
    monkeypatch.setattr(
        record,
        "ask_in_clean_process",
        lambda saved, **_: CleanAnswer(response=(saved / RECORDED_PREDICTION).read_text()),
    )
    catalog = DataCatalog({"table": MemoryDataset(TABLE), "factor": MemoryDataset(2.0)})
    inference = Pipeline([node(func, ["table", "factor"], "told")])
    if between is not None:
        catalog["held"] = between
        inference = Pipeline([node(cheap, "table", "held"), node(func, ["held", "factor"], "told")])
    bound = pipeline_ml_factory(
        Pipeline([node(fit, "table", "factor")]),
        inference,
        "table",
        log_model_kwargs={"signature": signature},
    )
    recorded = record.record_model(bound, catalog, run_id=mlflow.MlflowClient().create_run("0").info.run_id)
    return recorded, Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_columns_are_told_and_the_signature_may_be_of_them_alone(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, _ = keep(monkeypatch, tmp_path / "all", score, "auto")
    (note,) = (each for each in recorded.notes if "columns" in each)
    assert "reads 2 of the 6 columns of 'table' (b, d)" in note
    recorded, folder = keep(monkeypatch, tmp_path / "used", score, "used")
    assert not [each for each in recorded.notes if "columns" in each]
    request = json.loads((folder / "serving_input_example.json").read_text())
    assert request["dataframe_split"] == {"columns": ["b", "d"], "data": [[1.0, 3.0], [2.5, 4.5]]}
    rows = [{"b": 2.0, "d": 6.0}, {"b": 5.0, "d": 9.0}]
    assert json.loads((folder / RECORDED_PREDICTION).read_text()) == {"predictions": rows}
    # A node that will have no other class of table is asked again with a plain one.
    recorded, _ = keep(monkeypatch, tmp_path / "typed", trusts_the_type, "auto")
    assert not [each for each in recorded.notes if "columns" in each]
    with pytest.raises(RecordingError, match="cannot be told"):
        keep(monkeypatch, tmp_path / "exact", trusts_the_type, "used")
    with pytest.raises(RecordingError, match="cannot be told: its nodes take the table whole") as caught:
        keep(monkeypatch, tmp_path / "whole", takes_all, "used")
    assert "by name" in (caught.value.hint or "")
    with pytest.raises(RecordingError, match="reads no column of 'table', so with the signature 'used'") as caught:
        keep(monkeypatch, tmp_path / "none", counts, "used")
    assert "'auto'" in (caught.value.hint or "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [CSVDataset, PickleDataset])
def test_the_columns_are_seen_through_files_between_nodes(
    kind: Any, store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = kind(filepath=str(tmp_path / "held"))
    _, folder = keep(monkeypatch, tmp_path / "used", score, "used", held)
    request = json.loads((folder / "serving_input_example.json").read_text())
    assert request["dataframe_split"]["columns"] == ["a", "b", "d"]
    with pytest.raises(RecordingError, match="cannot be told: its nodes take the table whole"):
        keep(monkeypatch, tmp_path / "whole", takes_all, "used", held)
