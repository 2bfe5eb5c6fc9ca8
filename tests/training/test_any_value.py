"""Whatever the catalog gives as the inference input: it is served as it is, or one error names it and what to do."""

from __future__ import annotations

import datetime
import decimal
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.errors import PredictionError, RecordingError
from kbuild.recording.example import take_rows
from kbuild.recording.input.delivery import deliver
from kbuild.recording.input.signature import make_carried
from kbuild.recording.record import record_model
from kbuild.served.forms import restore
from kbuild.training.pipeline_ml import pipeline_ml_factory

pytestmark = pytest.mark.filterwarnings("ignore")
NAN = float("nan")
DAY = datetime.date(2024, 1, 31)
D = decimal.Decimal


def column(*cells: Any) -> pd.DataFrame:
    made = np.empty(len(cells), dtype=object)
    for place, each in enumerate(cells):
        made[place] = each
    return pd.DataFrame({"c": pd.Series(made, dtype=object)})


def tell(value: Any) -> Any:
    """What a value holds as plain texts, types included, in the words of Python and pandas alone."""
    if isinstance(value, pd.DataFrame):
        return [(str(value.iloc[:, place].dtype), [tell(each) for each in value.iloc[:, place].tolist()])
                for place in range(value.shape[1])]  # fmt: skip
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, [tell(each) for each in value.ravel().tolist()]]
    if isinstance(value, dict):
        return {key: tell(each) for key, each in value.items()}
    if isinstance(value, list):
        return [tell(each) for each in value]
    return f"{type(value).__name__} {value!r}"


def served(value: Any) -> bool:
    """Whether it arrives as it is; else the error has been seen to say what is to be done."""
    try:
        carried = make_carried(value, take_rows(value, 5))
    except RecordingError as error:
        assert error.hint
        if isinstance(value, pd.DataFrame):
            assert "'c'" in error.message, error.message
        return False
    assert tell(carried.given) == tell(value)
    return True


CELLS: list[tuple[bool, Callable[[], pd.DataFrame]]] = [
    (True, lambda: column(DAY, pd.NaT)),
    (True, lambda: column("a", pd.NaT)),
    (True, lambda: column(pd.NaT, pd.NaT)),
    (True, lambda: column(True, pd.NA)),
    (True, lambda: column(1, pd.NaT)),
    (True, lambda: column(b"a", None)),
    (True, lambda: column(b"a", NAN)),
    (True, lambda: column([1.0, NAN])),
    (True, lambda: column([[1, 2], [3, None]], [])),
    (True, lambda: column({"a": NAN}, None)),
    (True, lambda: column(np.array([1.0, NAN]), None)),
    (True, lambda: column(np.array([[1, 2], [3, 4]]))),
    (True, lambda: column(-(2**63), 2**63 - 1)),
    (True, lambda: column([2**70])),
    (False, lambda: column(DAY, pd.NaT, None)),
    (False, lambda: column("a", NAN, None)),
    (False, lambda: column(None, NAN)),
    (False, lambda: column(1, NAN, None)),
    (False, lambda: column([np.array([1.0, 2.0])])),
    (False, lambda: column({"a": np.array([1])})),
    (False, lambda: column([np.float32(1.5)])),
    (False, lambda: column({1: 2})),
    (False, lambda: column([(1, 2)])),
    (False, lambda: column([DAY])),
    (False, lambda: column(2**63)),
    (False, lambda: column(2**70)),
    (False, lambda: column(-(2**63) - 1)),
    (False, lambda: column(2**63, None)),
    (False, lambda: column(D("sNaN"))),
    (False, lambda: column(D("NaN"), D(1))),
    (True, lambda: column(datetime.time(2, 30, tzinfo=datetime.UTC))),
    (False, lambda: column(datetime.time(2, 30, fold=1))),
    (False, lambda: column(datetime.time(2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))),
    (False, lambda: column(pd.DataFrame({"a": [1]}))),
    (False, lambda: column(np.array([None, 1], dtype=object))),
    (False, lambda: pd.DataFrame({"c": np.array(["20000-01-01"], dtype="M8[s]")})),
]


@pytest.mark.parametrize("number", range(len(CELLS)))
def test_a_column_of_objects_is_served_or_refused_by_name(number: int) -> None:
    expected, make = CELLS[number]
    assert served(make()) is expected


GAPPY = pd.DataFrame(
    {
        "text": ["a", None, "b"],
        "object": pd.Series(["a", None, "b"], dtype=object),
        "string": pd.array(["a", None, "b"], dtype="string"),
        "double": [1.5, NAN, 2.5],
        "float32": np.array([1.5, NAN, 2.5], dtype="float32"),
        "day": pd.to_datetime(["2024-01-31", None, "2024-02-01"]),
        "moment": pd.to_datetime(["2024-01-31T12:00Z", None, "2024-02-01T12:00Z"]),
        "span": pd.to_timedelta(["1h", None, "2h"]),
        "Int64": pd.array([1, None, 2], dtype="Int64"),
        "boolean": pd.array([True, None, False], dtype="boolean"),
        "category": pd.Categorical(["x", None, "y"]),
        "decimal": pd.Series([D("1.5"), None, D("2")], dtype=object),
        "month": pd.PeriodIndex(["2024-01", None, "2024-02"], freq="M"),
    }
)


@pytest.mark.parametrize("columns", [[each] for each in GAPPY] + [["text", "double"], [*GAPPY]], ids=", ".join)
def test_a_row_is_given_to_the_pipeline_as_among_others(columns: list[str]) -> None:
    """What other rows a request has decides neither of which type a column is nor what stands for a missing cell."""
    table = GAPPY[columns]
    carried = make_carried(table, table)
    for place in range(len(table)):
        alone = deliver(carried.example.iloc[[place]], carried.schema, carried.form)
        assert tell(alone) == tell(table.iloc[[place]])


def test_a_row_of_one_table_among_several_too() -> None:
    data = {"orders": GAPPY[["text", "double"]], "city": "Rome"}
    form = make_carried(data, data).form
    assert form is not None
    given = restore(form, {"orders": [{"text": None, "double": None}], "city": "Rome"})
    assert tell(given["orders"]) == tell(data["orders"].iloc[[1]])


def test_half_a_character_is_told_of_or_arrives() -> None:
    """pandas 3 has no JSON for it, pandas 2 has."""
    served(column("\ud800"))


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=3), st.decimals(),
    st.dates(), st.times(), st.uuids(), st.just(pd.NaT), st.just(pd.NA), st.timedeltas(), st.complex_numbers(),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=3), st.tuples(inner)
    ),
    max_leaves=5,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(VALUES, min_size=1, max_size=3))
def test_nothing_but_one_error_escapes(cells: list[Any]) -> None:
    served(column(*cells))
    served(cells)
    served({"a": cells[0], "b": cells[-1]})


def test_other_kinds_are_refused_and_not_changed_in_silence() -> None:
    made = type("Made", (pd.DataFrame,), {})({"c": [1]})
    for value in (np.ma.array([1, 2], mask=[0, 1]), np.array([[1]]).view(np.matrix), [{}], {"a": np.ma.array([1])}):
        assert not served(value)
    with pytest.raises(RecordingError, match="Made"):
        make_carried(made, made)


def test_polars_types_without_a_like_in_pandas_are_refused() -> None:
    import polars

    if hasattr(polars, "Int128"):  # of polars 1.18
        wide = polars.DataFrame({"c": polars.Series([1], dtype=polars.Int128)})
        with pytest.raises(RecordingError, match="'c', of polars' type Int128"):
            make_carried(wide, wide)
    split = polars.DataFrame({"a": [1.0, 2.0], "c": [NAN, None]})
    with pytest.raises(RecordingError, match="the input's column 'c', whose missing values are NaN and null"):
        make_carried(split, split)
    unnamed = polars.Series("", ["a"])
    assert make_carried(unnamed, unnamed).given.equals(unnamed)


def test_a_table_among_several_that_lacks_a_column_is_told() -> None:
    data = {"orders": pd.DataFrame({"a": [1, 2], "b": ["x", None]}), "day": "2024-01-31"}
    form = make_carried(data, data).form
    assert form is not None
    rows = [{"a": 1, "b": "x"}, {"a": 2}]
    # What is missing in some rows may be left out of those.
    assert restore(form, {"orders": rows, "day": "d"})["orders"]["b"].isna().tolist() == [False, True]
    for wrong in ([{"a": 1}], [{"b": "x"}], [{"a": 1, "b": "x"}, {"b": "y"}]):
        with pytest.raises(PredictionError, match=r"lacks the column\(s\) '[ab]'"):
            restore(form, {"orders": wrong, "day": "d"})
    with pytest.raises(PredictionError, match="list of objects"):
        restore(form, {"orders": [[1, "x"]], "day": "d"})


def leave(x: Any, factor: float) -> Any:
    raise SystemExit(0)


class Odd:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise LookupError("not to be pickled")


def fit(x: Any) -> float:
    return 2.0


def score(x: Any, factor: float) -> Any:
    return x * 2.0


@pytest.mark.parametrize(("func", "factor"), [(leave, 2.0), (score, Odd())], ids=["a node that exits", "an odd input"])
def test_no_exception_while_recording_is_a_traceback(func: Any, factor: Any) -> None:
    catalog = DataCatalog({"x": MemoryDataset(pd.DataFrame({"a": [1.0]})), "factor": MemoryDataset(factor, "assign")})
    bound = pipeline_ml_factory(Pipeline([node(fit, "x", "factor")]), Pipeline([node(func, ["x", "factor"], "y")]), "x")
    with pytest.raises(RecordingError) as caught:
        record_model(bound, catalog, run_id="none")
    assert caught.value.hint
