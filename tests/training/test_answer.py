"""What of a pipeline's answer JSON cannot carry is refused, with what to write; nothing of it is left out."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import mlflow
import pandas as pd
import polars as pl
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.errors import PredictionError, RecordingError
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.answer import tell_index, write_answer
from kbuild.recording.record import record_model
from kbuild.training.pipeline_ml import pipeline_ml_factory

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


@pytest.mark.parametrize(
    ("answer", "told", "hint"),
    [
        ({"a": pl.DataFrame({"a": [1]})}, "a dict, cannot be written", "a dict of plain values"),
        (pd.DataFrame({"good": [1], "price": [Decimal("1.10")]}), r"\(column 'price'\)", "astype(float)"),
    ],
    ids=["within", "Decimal"],
)
def test_what_cannot_be_written_is_told_with_what_can(answer: Any, told: str, hint: str) -> None:
    with pytest.raises(RecordingError, match=told) as caught:
        write_answer(answer)
    assert hint in str(caught.value.hint)


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
