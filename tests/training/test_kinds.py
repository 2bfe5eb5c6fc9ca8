"""What an inference input may be: each kind arrives at the first node as training knows it, or is refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from input_kinds import arrow, make_polars, make_refused, make_refused_polars, make_served, table
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from kbuild.errors import PredictionError, RecordingError
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.example import take_rows
from kbuild.recording.input.delivery import find_change
from kbuild.recording.input.signature import make_carried
from kbuild.recording.record import record_model
from kbuild.served.forms import restore
from kbuild.serving.answer.model import load_model
from kbuild.training.pipeline_ml import pipeline_ml_factory

pytestmark = pytest.mark.filterwarnings("ignore")
SERVED = make_served()
REFUSED = {**make_refused(), **make_refused_polars()}


def same(one: Any, other: Any) -> bool:
    """Python's own equality, types and labels included; not the code under test."""
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_index_type=False)
        return True
    if isinstance(one, pd.Series):
        pd.testing.assert_series_equal(one, other, check_index_type=False)
        return True
    if isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other)
        return one.dtype.kind == other.dtype.kind
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", SERVED)
def test_a_served_kind_arrives_as_training_knows_it(name: str) -> None:
    value = SERVED[name]
    carried = make_carried(value, take_rows(value, 5))
    # What is stored with the model is pickled.
    assert pickle.loads(pickle.dumps(carried.form)) == carried.form
    assert same(value, carried.given)


@pytest.mark.parametrize(
    "last",
    [{"a": 2, "b": "x"}, {"a": None}, {"a": 2, "c": {"d": [1]}}, {"b": "x"}],
    ids=["another key", "None", "a nested one", "other keys"],
)
def test_a_request_may_bring_what_comes_late_in_a_list_of_dicts(last: dict[str, Any]) -> None:
    data = [{"a": 1}] * 10 + [last]
    carried = make_carried(data, take_rows(data, 5))
    request = json.loads(json.dumps({"dataframe_records": [last, {"a": 1}, last]}))
    assert carried.schema is not None and carried.form is not None
    value = _enforce_schema(infer_and_parse_data(request, carried.schema), carried.schema)
    assert restore(carried.form, value) == [last, {"a": 1}, last]


def test_a_null_is_none_or_nan_as_training_had_it() -> None:
    for last, other in (({"p": None}, {"p": 1.5}), ({"p": float("nan")}, {"p": 1.5})):
        data = [other] * 10 + [last]
        carried = make_carried(data, take_rows(data, 5))
        request = json.loads(json.dumps({"dataframe_records": [{"p": None}, {"p": 2.5}]}))
        assert carried.schema is not None and carried.form is not None
        value = _enforce_schema(infer_and_parse_data(request, carried.schema), carried.schema)
        null, number = (each["p"] for each in restore(carried.form, value))
        assert (null is None if last["p"] is None else null != null) and number == 2.5
    with pytest.raises(RecordingError, match="'p' is None in some and NaN in others"):
        make_carried([{"p": 1.5}, {"p": None}, {"p": float("nan")}], [{"p": 1.5}])


NAN = float("nan")
LATE = {
    "pyarrow": (table(a=arrow(pa.float64(), *[1.5] * 9, NAN)), table(a=arrow(pa.float64(), *[1.5] * 9, None))),
    "polars": (polars.DataFrame({"a": [1.5] * 9 + [NAN]}), polars.DataFrame({"a": [1.5] * 9 + [None]})),
}


@pytest.mark.parametrize("name", LATE)
def test_a_null_is_nan_or_missing_as_late_rows_of_training_had_it(name: str) -> None:
    for data in LATE[name]:
        carried = make_carried(data, take_rows(data, 5))
        request = json.loads(json.dumps({"dataframe_records": [{"a": None}, {"a": 1.5}]}))
        assert carried.schema is not None and carried.form is not None
        value = _enforce_schema(infer_and_parse_data(request, carried.schema), carried.schema)
        rest = data[-2:][::-1] if name == "polars" else data.iloc[[9, 0]]
        if name == "polars":
            assert restore(carried.form, value).equals(rest)
        else:
            assert pa.array(restore(carried.form, value)["a"].array) == pa.array(rest["a"].array) or (
                str(restore(carried.form, value)["a"].tolist()) == str(rest["a"].tolist())
            )
    both = [1.5] * 9 + [NAN, None]
    mixed = polars.DataFrame({"a": both}) if name == "polars" else table(a=arrow(pa.float64(), *both))
    with pytest.raises(RecordingError, match="column 'a', whose missing values are NaN and null: both come as null"):
        make_carried(mixed, take_rows(mixed, 5))


@pytest.mark.parametrize("last", [{"a": 2.5}, {"a": 1.5, "b": "x"}], ids=["a float", "and another key"])
def test_what_comes_late_in_a_list_of_dicts_is_refused_where_no_request_brings_it(last: dict[str, Any]) -> None:
    data = [{"a": 1}] * 10 + [last]
    with pytest.raises(RecordingError, match="'a'"):
        make_carried(data, take_rows(data, 5))


@pytest.mark.parametrize("name", ["read_csv", "Config", "no_such_type"])
def test_a_form_makes_columns_of_types_of_polars_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    kind = {"name": name, "arguments": {"source": str(tmp_path / "x.csv")}}
    column = {"wire": "a", "dtype": "int64", "as": "plain"}
    table = {"index": [], "columns": [column], "multi": False, "labels": ["a"], "label_names": [None]}
    with pytest.raises(PredictionError, match=f"a column of {name}, which is no type of polars"):
        restore({"kind": "polars", "schema": {"a": kind}, "table": table}, [{"a": 1}])


def test_polars_arrives_as_polars() -> None:
    for name, value in make_polars().items():
        given = make_carried(value, value).given
        assert type(given) is type(value), name
        assert given.equals(value), name
        assert str(getattr(given, "schema", "")) == str(getattr(value, "schema", ""))


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_kind_is_told_with_a_hint(name: str) -> None:
    value = REFUSED[name]
    with pytest.raises(RecordingError) as caught:
        make_carried(value, take_rows(value, 2))
    assert caught.value.hint
    if isinstance(value, pd.DataFrame) and len(value.columns):
        assert repr(value.columns[0]) in caught.value.message


@pytest.mark.parametrize("rows", [0, 2])
def test_a_table_without_columns_is_told_as_that(rows: int) -> None:
    value = pd.DataFrame(index=range(rows))
    with pytest.raises(RecordingError, match=r"a table without columns$"):
        make_carried(value, value)


def test_times_keep_the_frequency_of_training_where_they_follow_it() -> None:
    value = SERVED["a time index"]
    form = make_carried(value, value).form
    assert form is not None

    def ask(*days: str) -> Any:
        # As MLflow hands it on, by the signature.
        return restore(form, pd.DataFrame({"when": pd.to_datetime(list(days)), "a": [1] * len(days)})).index.freq

    assert value.index.freq == ask("2024-02-01") == ask("2024-02-28", "2024-02-29") == pd.offsets.Day()
    # As of pandas' own value.loc[[…]].
    assert ask("2024-02-01", "2024-02-09") is None
    lost = value.set_axis(pd.DatetimeIndex(value.index, freq=None))
    assert find_change(value, lost) == "the frequency of the index of the input is None instead of <Day>"


def test_rows_that_training_did_not_have_are_restored_or_refused() -> None:
    form = make_carried(SERVED["category"], SERVED["category"]).form
    assert form is not None
    assert restore(form, pd.DataFrame({"c": ["a"]}))["c"].cat.categories.tolist() == ["b", "a"]
    with pytest.raises(PredictionError, match="'c' has 'z', which is none of: 'b', 'a'"):
        restore(form, pd.DataFrame({"c": ["z"]}))
    zoned = make_carried(SERVED["datetime with a zone"], SERVED["datetime with a zone"]).form
    assert zoned is not None
    summer = restore(zoned, pd.DataFrame({"t": ["2024-07-01T10:00:00Z"]}))["t"].iloc[0]
    assert summer.isoformat() == "2024-07-01T12:00:00+02:00"
    with pytest.raises(PredictionError, match="without a zone"):
        restore(zoned, pd.DataFrame({"t": ["2024-07-01T10:00:00"]}))
    gaps = make_carried(SERVED["Int64 with gaps"], SERVED["Int64 with gaps"]).form
    assert gaps is not None
    for wrong in (1.5, 2.0**53):
        with pytest.raises(PredictionError, match="'n'"):
            restore(gaps, pd.DataFrame({"n": [wrong, None]}))
    small = make_carried(SERVED["int8, uint16, uint64, float16"], SERVED["int8, uint16, uint64, float16"]).form
    assert small is not None
    with pytest.raises(PredictionError, match="'a' has values that are not of type int8"):
        restore(small, pd.DataFrame({"a": [300], "b": [1], "c": [1], "d": [1.0]}))
    with pytest.raises(PredictionError, match="'d' has values too large for the type float16"):
        restore(small, pd.DataFrame({"a": [3], "b": [1], "c": [1], "d": [1e6]}))
    with pytest.raises(PredictionError, match="lacks the column"):
        restore(small, pd.DataFrame({"a": [3]}))
    decimals = make_carried(SERVED["Decimal"], SERVED["Decimal"]).form
    assert decimals is not None
    with pytest.raises(PredictionError, match="'d' is not of type object as in training"):
        restore(decimals, pd.DataFrame({"d": ["one"]}))


@pytest.mark.parametrize(
    ("known", "given", "told"),
    [
        (pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"a": [1]}), "lost the column(s) 'b'"),
        (pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"b": [2], "a": [1]}), "the order 'b', 'a' instead of"),
        (
            pd.DataFrame({"a": [1]}),
            pd.DataFrame({"a": [1.0]}),
            "'a' of the input has the type float64 instead of int64",
        ),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), "values of the column 'a'"),
        (["a"], pd.DataFrame({0: ["a"]}), "is a DataFrame instead of a list"),
        ([1], [1.0], "the input[0] is a float instead of a int"),
        ({"a": 1}, {"b": 1}, "lost the key(s) 'a' and gained the key(s) 'b'"),
        (np.zeros(2), np.zeros((2, 1)), "shape"),
        (np.zeros(2), np.zeros(2, "float32"), "float32 instead of float64"),
    ],
)
def test_what_changed_on_the_way_is_named(known: Any, given: Any, told: str) -> None:
    assert told in (find_change(known, given) or "")
    assert find_change(known, known) is None


def fit(x: Any) -> float:
    return 2.0


def tell(x: Any, factor: float) -> list[str]:
    return [f"{factor} {type(x).__name__} {x!r}"]


def see_the_index(x: pd.DataFrame, factor: float) -> list[int]:
    return [int(each) for each in x.index]


@pytest.mark.slow
def test_an_answer_other_than_the_pipelines_own_is_refused(store: mlflow.MlflowClient) -> None:
    data = pd.DataFrame({"a": [1, 2, 3]}).iloc[1:]
    catalog = DataCatalog({"x": MemoryDataset(data), "factor": MemoryDataset(2.0)})
    bound = pipeline_ml_factory(
        Pipeline([node(fit, "x", "factor")]), Pipeline([node(see_the_index, ["x", "factor"], "y")]), "x"
    )
    run_id = store.create_run("0").info.run_id
    with pytest.raises(RecordingError, match=r"otherwise than the inference pipeline itself: .*expected 1, got 0") as e:
        record_model(bound, catalog, run_id=run_id, settings=TrainingSettings(check=False))
    assert "index" in (e.value.hint or "")
    assert store.search_logged_models(["0"]) == []


@pytest.mark.slow
def test_a_request_that_is_not_of_the_form_is_told_what_is(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    catalog = DataCatalog({"x": MemoryDataset(SERVED["category"]), "factor": MemoryDataset(2.0)})
    bound = pipeline_ml_factory(Pipeline([node(fit, "x", "factor")]), Pipeline([node(tell, ["x", "factor"], "y")]), "x")
    run_id = store.create_run("0").info.run_id
    recorded = record_model(bound, catalog, run_id=run_id, settings=TrainingSettings(check=False))
    model = load_model(Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path))))
    reply, _ = model.answer(b'{"dataframe_records": [{"c": "z"}]}', "application/json")
    assert reply.status == 400
    assert "column 'c' has 'z', which is none of: 'b', 'a'" in json.loads(reply.body)["message"]
