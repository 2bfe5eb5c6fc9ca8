"""What of a pipeline's answer JSON cannot carry is refused, with what to write; nothing of it is left out."""

from __future__ import annotations

import datetime
import enum
import json
import re
import uuid
from decimal import Decimal
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.errors import PredictionError, RecordingError
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.output.answer import tell_index, write_answer
from kbuild.recording.record import record_model
from kbuild.training.pipeline_ml import pipeline_ml_factory

ROUND: list[Any] = []
ROUND.append(ROUND)
TWICE = pd.DataFrame([[1, 2, 3]], columns=["price", "price", "other"])


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (TWICE, "several columns named 'price'"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), "JSON cannot tell apart: '1'"),
        ({1: "a", "1": "b"}, "JSON cannot tell apart: '1'"),
        ([{"of": {None: 1, "null": 2}}], "JSON cannot tell apart: 'null'"),
    ],
    ids=["twice", "int and text", "keys", "nested"],
)
def test_an_answer_of_which_json_holds_a_part_is_refused(answer: Any, named: str) -> None:
    with pytest.raises(RecordingError, match=named):
        write_answer(answer)


def test_a_table_among_several_outputs_loses_no_column(store: mlflow.MlflowClient) -> None:
    training = Pipeline([node(lambda rows: 1.0, "rows", "weight", name="fit")])
    inference = Pipeline(
        [node(lambda rows, weight: (TWICE, weight), ["rows", "weight"], ["table", "used"], name="ask")]
    )
    catalog = DataCatalog({"rows": MemoryDataset([1]), "weight": MemoryDataset(1.0)})
    run_id = store.create_run("0").info.run_id
    with pytest.raises(PredictionError, match="several columns named 'price'"):
        record_model(
            pipeline_ml_factory(training, inference, "rows"),
            catalog,
            run_id=run_id,
            settings=TrainingSettings(check=False),
        )


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("answer", "told", "hint"),
    [
        ({"a": pl.DataFrame({"a": [1]})}, "its ['a'] is a DataFrame of polars", "to_dicts()"),
        ({"t": pd.DataFrame({"a": [1]}), "n": 1}, "its ['t'] is a DataFrame", "to_dict('records')"),
        (
            pd.DataFrame({"good": [1], "price": [Decimal("1.10")]}),
            "its column 'price' holds a Decimal",
            "['price'].astype(float)",
        ),
        (pd.DataFrame({"id": [uuid.UUID(int=1)]}), "its column 'id' holds a UUID", "['id'].astype(str)"),
        (
            pd.DataFrame({"d": pd.to_timedelta([None, "1h"])}),
            "its column 'd' holds a Timedelta",
            "['d'].dt.total_seconds()",
        ),
        (
            pd.DataFrame({"p": pd.PeriodIndex(["2024-01"], freq="M")}),
            "its column 'p' holds a Period",
            "['p'].astype(str)",
        ),
        (pd.DataFrame({"x": np.array([1], np.longdouble)}), "its column 'x' holds a longdouble", "['x'].astype(float)"),
        (pd.Series([Decimal("1")], name="s"), "it holds a Decimal", "astype(float)"),
        (np.array([1], np.longdouble), "it holds a longdouble", "astype(float)"),
        (np.longdouble(1), "it is a longdouble", "float(answer)"),
        (np.array([1j]), "it holds a complex", "real"),
        (np.array([1], "m8[s]"), "it holds a timedelta", "astype(float)"),
        ([1, {"a": [0, Decimal("1")]}], "its [1]['a'][1] is a Decimal", "float(…)"),
        ({"a": 1, "c": Colour.RED}, "its ['c'] is a Colour", ".value"),
        ({"a": {2}}, "its ['a'] is a set", "sorted(…)"),
        ((each for each in [1]), "it is a generator", "list(answer)"),
        ({"a": {(1, 2): 3}}, "its ['a'] has the key (1, 2)", "texts"),
        (datetime.timedelta(1), "it is a timedelta", ".total_seconds()"),
        (ROUND, "its [0] holds itself", "plain values"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_cannot_be_written_is_told_with_what_can(answer: Any, told: str, hint: str) -> None:
    with pytest.raises(RecordingError, match=re.escape(told)) as caught:
        write_answer(answer)
    assert hint in str(caught.value.hint)


@pytest.mark.slow
def test_a_drawing_is_none_of_what_can_be_written() -> None:
    from matplotlib.figure import Figure  # takes long, and other workers have no use for it

    test_what_cannot_be_written_is_told_with_what_can(Figure(), "it is a Figure", "plain values")


@pytest.mark.parametrize("answer", [{"a": 1}, [1.5], pd.DataFrame({"a": [1], 1: [2]}), "text", 3])
def test_what_json_has_is_written(answer: Any) -> None:
    assert "predictions" in json.loads(write_answer(answer))


@pytest.mark.parametrize(
    ("index", "told"),
    [
        (pd.Index(["a", "b"], name="id"), "index 'id' is not served"),
        (pd.Index([7, 9], name="id"), "index 'id' is not served"),
        (pd.date_range("2024-01-31", periods=2), "index is not served"),
        (pd.Index([7, 9]), None),
        (pd.RangeIndex(2), None),
    ],
    ids=["texts", "named", "times", "rows that were chosen", "rows"],
)
def test_an_index_that_no_server_sends_is_told(index: pd.Index, told: str | None) -> None:
    for answer in (pd.DataFrame({"price": [1.0, 2.0]}, index=index), pd.Series([1.0, 2.0], index=index)):
        notes = tell_index(answer)
        assert (len(notes) == 1 and told in notes[0]) if told else notes == ()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (np.array(["a"], np.dtypes.StringDType()), "answer.astype(str)"),
        (np.array([(1, 2.0)], [("a", int), ("b", float)]), "pandas.DataFrame(answer)"),
    ],
    ids=["texts of any length", "structured"],
)
def test_an_array_whose_type_no_model_can_state_is_told_with_what_to_give(
    store: mlflow.MlflowClient, answer: Any, hint: str
) -> None:
    training = Pipeline([node(lambda rows: 1.0, "rows", "weight", name="fit")])
    inference = Pipeline([node(lambda rows, weight: answer, ["rows", "weight"], "out", name="ask")])
    catalog = DataCatalog({"rows": MemoryDataset([1]), "weight": MemoryDataset(1.0)})
    bound = pipeline_ml_factory(training, inference, "rows")
    run_id = store.create_run("0").info.run_id
    with pytest.raises(RecordingError, match="signature of the answer, a ndarray") as caught:
        record_model(bound, catalog, run_id=run_id, settings=TrainingSettings(check=False))
    assert hint in str(caught.value.hint)
