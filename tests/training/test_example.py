from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.errors import RecordingError
from kbuild.project.model_settings import default_artifact_uri, default_tracking_uri
from kbuild.recording.example import Example, _infer, make_example, take_rows
from kbuild.recording.input.signature import infer
from kbuild.training.pyfunc import KedroPipelineModel

PARAMETERS = {
    "scalar": 2,
    "share": 0.5,
    "word": "a",
    "yes": True,
    "many": [1, 2],
    "mixed": [1, "a"],
    "none": None,
    "table": {"a": 1},
    "empty": [],
}
TABLE = pd.DataFrame({"a": range(10), "b": [0.5] * 10})


def work(x: Any, *parameters: Any) -> Any:
    if isinstance(x, str):
        raise ValueError("no words")
    return x * parameters[0]


def make_model() -> KedroPipelineModel:
    names = [f"params:{name}" for name in PARAMETERS]
    catalog = DataCatalog({name: MemoryDataset(PARAMETERS[name.removeprefix("params:")]) for name in names})
    model = KedroPipelineModel(
        pipeline=Pipeline([node(work, ["x", *names], "y", name="work")]), catalog=catalog, input_name="x"
    )
    model.load_artifacts(model.extract_pipeline_artifacts())
    return model


def make(data: Any = TABLE, *, has_data: bool = True, rows: int = 5, **kwargs: Any) -> Example:
    return make_example(make_model(), data, has_data=has_data, log_model_kwargs=kwargs, rows=rows)


def test_everything_is_inferred() -> None:
    made = make()
    assert made.signature is not None
    assert made.signature.inputs.input_names() == ["a", "b"]
    assert made.signature.outputs.input_names() == ["a", "b"]
    parameters = {each.name: each.default for each in made.signature.params.params}
    assert parameters == {"scalar": 2, "share": 0.5, "word": "a", "yes": True, "many": [1, 2]}
    assert len(made.input_example) == 5


def test_what_the_user_gives_is_kept() -> None:
    signature = make().signature
    example = TABLE.tail(1)
    made = make(signature=signature, input_example=example)
    assert made.signature is signature
    assert made.input_example is example
    assert make(signature=None, input_example=None) == Example(signature=None, input_example=None)
    assert make(signature=False, input_example=False) == Example(signature=None, input_example=None)
    assert make(rows=0).input_example is None


def test_without_data_an_example_is_enough() -> None:
    made = make(None, has_data=False, input_example=(TABLE.head(2), {"scalar": 3}))
    assert made.signature is not None
    assert made.signature.inputs.input_names() == ["a", "b"]


def test_without_either_it_says_what_to_do() -> None:
    with pytest.raises(RecordingError, match="no data of the inference input 'x'") as caught:
        make(None, has_data=False)
    assert "signature and input_example" in (caught.value.hint or "")
    assert make(None, has_data=False, signature=None).signature is None


def test_a_pipeline_that_fails_on_its_training_data_is_told() -> None:
    with pytest.raises(RecordingError, match="ValueError: no words in the inference node 'work'"):
        make("words")


def test_what_mlflow_refuses_to_describe_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise mlflow.exceptions.MlflowException("strange type")

    monkeypatch.setattr(mlflow.models, "infer_signature", refuse)
    with pytest.raises(RecordingError, match=r"cannot infer a signature of a int: MlflowException: strange type"):
        make(1)
    with pytest.raises(RecordingError, match=r"a value of the type complex"):
        make(1j)


@pytest.fixture
def ending_pyspark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyspark 4 without grpc in a program from standard input: sql/connect/utils.py there ends it with status 0."""
    sql = tmp_path / "pyspark/sql"
    (sql / "connect").mkdir(parents=True)
    (tmp_path / "pyspark/__init__.py").touch()
    (sql / "__init__.py").touch()
    (sql / "dataframe.py").write_text("class DataFrame: pass\n")
    (sql / "connect/__init__.py").write_text("import sys\nsys.exit(0)\n")
    (sql / "connect/dataframe.py").write_text("class DataFrame: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    # Where a run was begun before, MLflow's own hook looks at each pyspark that is imported, and hides what it ends in.
    finders = [each for each in sys.meta_path if not type(each).__module__.startswith("mlflow")]
    monkeypatch.setattr(sys, "meta_path", finders)
    for name in [each for each in sys.modules if each.split(".")[0] == "pyspark"]:
        monkeypatch.delitem(sys.modules, name)
    # What is imported of the stand-in goes with it.
    for name in ("pyspark", "pyspark.sql", "pyspark.sql.dataframe", "pyspark.sql.connect"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]


@pytest.mark.usefixtures("ending_pyspark")
def test_a_pyspark_that_ends_programs_is_not_asked() -> None:
    with pytest.raises(SystemExit):
        mlflow.models.infer_signature(object())
    assert str(infer(object())) == "[string (required)]"
    model = make_model()
    assert str(_infer(model, infer(TABLE), object()).outputs) == "[string (required)]"
    assert "pyspark.sql.connect" not in sys.modules


@pytest.mark.parametrize(
    ("data", "taken"),
    [([1, 2, 3], [1, 2]), ({"a": 1}, {"a": 1}), ("word", "word"), (object, object)],
)
def test_rows_of_other_types(data: Any, taken: Any) -> None:
    assert take_rows(data, 2) == taken


def test_rows_of_tables_and_arrays() -> None:
    assert take_rows(np.arange(6).reshape(3, 2), 2).tolist() == [[0, 1], [2, 3]]
    taken = take_rows(TABLE.iloc[3:], 2)
    assert taken.index.tolist() == [3, 4]
    assert take_rows(pd.Series([1, 2]), 1).tolist() == [1]
    assert taken["a"].tolist() == [3, 4]


def test_the_default_store_is_in_the_project(tmp_path: Path) -> None:
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert default_artifact_uri(tmp_path) == f"file://{tmp_path}/mlartifacts"


def make_looking_back(history: Any, look: Any, **options: Any) -> Example:
    model = KedroPipelineModel(
        pipeline=Pipeline([node(look, ["x"], "y", name="look")]), catalog=DataCatalog({}), input_name="x"
    )
    model.load_artifacts({})
    return make_example(model, history, has_data=True, **{"log_model_kwargs": {}, "rows": 5, **options})


DAYS = pd.DataFrame(
    {"load": [float(day) for day in range(100)]}, index=pd.date_range("2024-01-01", periods=100, name="day")
)


def look_back(history: pd.DataFrame) -> pd.Series:
    rows = history.assign(lag=history["load"].shift(7)).dropna()
    if rows.empty:
        raise ValueError("0 samples")
    return rows["lag"] + 1


def test_the_example_of_a_pipeline_that_looks_back_has_rows_enough() -> None:
    made = make_looking_back(DAYS, look_back)
    assert len(made.input_example) == 15
    assert made.own is not None
    assert json.loads(made.own)["predictions"] == [{"lag": float(day) + 1} for day in range(8)]
    assert "fails on the first 5 rows of its input, or answers them with nothing, so the model's example has 15" in str(
        made.notes
    )
    assert len(make_looking_back(DAYS.head(9), look_back).input_example) == 9
    kept = make_looking_back(DAYS, look_back, rows=0)
    assert kept.signature is not None
    assert kept.input_example is None
    assert len(make_looking_back(DAYS, lambda history: history["load"]).input_example) == 5


def test_an_answer_without_rows_compares_nothing() -> None:
    made = make_looking_back(DAYS, lambda history: history["load"].shift(7).dropna().to_numpy())
    assert json.loads(made.own or "")["predictions"] == [float(day) for day in range(8)]

    made = make_looking_back(DAYS, lambda history: history[history["load"] < 0])
    assert len(made.input_example) == 5
    assert "answers the example with nothing, so nothing of its answers was compared" in str(made.notes)


def test_a_pipeline_that_fails_on_few_rows_and_finds_nothing_in_more_has_an_example() -> None:
    def find(history: pd.DataFrame) -> pd.DataFrame:
        if len(history) < 20:
            raise ValueError("too few")
        return history[history["load"] < 0]

    made = make_looking_back(DAYS, find)
    assert len(made.input_example) == 45
    assert "nothing of its answers was compared" in str(made.notes)


def test_a_pipeline_that_fails_on_all_rows_is_told_after_a_few_tries() -> None:
    tried: list[int] = []

    def fail(history: pd.DataFrame) -> None:
        tried.append(len(history))
        raise ValueError("never")

    with pytest.raises(RecordingError, match="ValueError: never in the inference node 'look'"):
        make_looking_back(pd.concat([DAYS] * 100, ignore_index=True), fail)
    assert tried == [5, 15, 45, 135, 405, 1215, 3645]
