"""Which rows of an input are its example: MLflow reads the times that it writes of them."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pandas as pd
import polars as pl
import pytest
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from kbuild.recording.example import take_rows
from kbuild.recording.input.rows import tell_times
from kbuild.recording.input.signature import make_carried

WHOLE, BROKEN = pd.Timestamp("2024-01-31 12:00:01"), pd.Timestamp("2024-01-31 12:00:00.5")


def table(*times: Any) -> pd.DataFrame:
    return pd.DataFrame({"t": pd.to_datetime(pd.Series(times)), "n": range(len(times))})


@pytest.mark.parametrize(
    ("times", "taken"),
    [
        ((WHOLE, BROKEN, WHOLE, BROKEN), [0, 2]),
        ((BROKEN, WHOLE, WHOLE, BROKEN, BROKEN), [0, 3]),
        ((pd.NaT, WHOLE, BROKEN, WHOLE), [0, 1, 3]),
        ((WHOLE, WHOLE, WHOLE, BROKEN), [0, 1, 2]),
        ((pd.NaT, pd.NaT), [0, 1]),
        ((), []),
        ((BROKEN, BROKEN), [0, 1]),
    ],
)
def test_the_times_of_an_example_have_all_a_fraction_or_none(times: Any, taken: list[int]) -> None:
    data = table(*times)
    example = take_rows(data, 3 if len(times) < 5 else 2)
    assert example["n"].tolist() == taken
    assert isinstance(example.index, pd.RangeIndex)
    carried = make_carried(data, example)
    assert str(carried.schema).startswith("['t': datetime")
    pd.testing.assert_frame_equal(carried.given, example)


@pytest.mark.parametrize(
    "data",
    [
        pd.DataFrame({"a": [1, 2]}, index=pd.DatetimeIndex([WHOLE, BROKEN], name="when")),
        pd.Series([WHOLE, BROKEN], name="t"),
        pl.DataFrame({"t": [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, 0, 0, 0, 1)]}),
        pl.Series("t", [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, 0, 0, 0, 1)]),
    ],
    ids=["index", "Series", "polars", "polars Series"],
)
def test_so_have_those_of_every_kind_of_table(data: Any) -> None:
    example = take_rows(data, 5)
    assert len(example) == 1
    assert make_carried(data, example).given is not None
    assert len(tell_times(data)) == 1


def test_columns_that_agree_in_no_row_leave_the_first() -> None:
    data = pd.DataFrame({"t": [pd.NaT, WHOLE, BROKEN], "u": [WHOLE, BROKEN, BROKEN]})
    data = data[["t", "u"]]
    assert len(take_rows(data, 3)) == 1


def test_what_is_told_of_such_times_can_be_typed() -> None:
    data = table(WHOLE, BROKEN)
    (told,) = tell_times(data)
    assert "'t'" in told and "2024-01-31T12:00:01.000" in told
    schema = make_carried(data, take_rows(data, 5)).schema
    request = {"dataframe_split": {"columns": ["t", "n"], "data": [["2024-01-31T12:00:01.000", 0], [str(BROKEN), 1]]}}
    request["dataframe_split"]["data"][1][0] = BROKEN.isoformat()
    given = _enforce_schema(infer_and_parse_data(json.loads(json.dumps(request)), schema), schema)
    assert given["t"].tolist() == [WHOLE, BROKEN]
    assert tell_times(table(WHOLE, WHOLE)) == tell_times([1]) == ()
