from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.answers import DEFAULT, EXACT, Tolerance
from kbuild.errors import RecordingError
from kbuild.recording.changes import Change, Found, check_changes, find_changes
from kbuild.served.calls import make_steps
from kbuild.training.pyfunc import KedroPipelineModel


def add_column(table: Any, mapping: Any) -> Any:
    table["seen"] = mapping["a"]
    return table.assign(done=1)


def remember(table: Any, mapping: Any) -> Any:
    mapping["count"] = mapping.get("count", 0) + 1
    return table.assign(count=mapping["count"])


def fill(table: Any, mapping: Any) -> Any:
    mapping.setdefault("filled", True)
    return table.copy()


def read(table: Any, mapping: Any) -> Any:
    return table.assign(total=mapping["a"])


def in_place(table: Any, mapping: Any) -> Any:
    mapping["array"][0] += 1
    return table.copy()


def find(func: Callable[..., Any], *more: Any, copy_mode: Any = "assign", mapping: Any = None) -> Found:
    pipeline = Pipeline([node(func, ["table", "mapping"], "first", name="changer"), *more])
    values = {"table": pd.DataFrame({"x": [1.0, 2.0]}), "mapping": mapping or {"a": 3, "array": np.zeros(1000)}}
    return find_changes(
        make_steps(pipeline), values, input_name="table", outputs=sorted(pipeline.outputs()), copy_mode=copy_mode
    )


def shared(name: str = "mapping") -> Change:
    return Change(node="changer", dataset=name, shared=True)


@pytest.mark.parametrize(
    ("func", "same_answer"), [(remember, False), (fill, True), (in_place, True)], ids=["counts", "fills", "in place"]
)
def test_a_changed_artifact_is_found(func: Callable[..., Any], same_answer: bool) -> None:
    assert find(func) == Found(changes=(shared(),), same_answer=same_answer)
    assert find(func, copy_mode={"mapping": "deepcopy"}) == Found(changes=(), same_answer=True)
    # One level of copying is not enough for what lies in the mapping.
    assert bool(find(func, copy_mode={"mapping": "copy"}).changes) == (func is in_place)


def drift(table: Any, mapping: Any) -> Any:
    mapping["step"] = mapping.get("step", 1.0) * (1 + 1e-8)
    return table * mapping["step"]


def test_the_next_answer_is_compared_as_answers_are_everywhere() -> None:
    pipeline = Pipeline([node(drift, ["table", "mapping"], "first", name="changer")])

    def same(tolerance: Tolerance) -> bool:
        values = {"table": pd.DataFrame({"x": [1.1, 2.7]}), "mapping": {"a": 3}}
        found = find_changes(make_steps(pipeline), values, input_name="table", outputs=["first"], tolerance=tolerance)
        assert found.changes == (shared(),)
        return found.same_answer

    assert same(DEFAULT)
    assert not same(EXACT)
    assert not same(DEFAULT.limited(rtol=1e-9, atol=0))


def test_reading_is_no_change() -> None:
    assert find(read) == Found(changes=(), same_answer=True)


def test_a_requests_own_input_may_be_changed_unless_it_is_read_again() -> None:
    assert find(add_column).changes == ()
    again = node(lambda table, first: len(table.columns), ["table", "first"], "width", name="again")
    assert find(add_column, again).changes == (Change(node="changer", dataset="table", shared=False),)
    assert find(add_column, again, copy_mode={"table": "deepcopy"}).changes == ()


def test_what_is_handed_on_is_watched_while_others_read_it() -> None:
    def spoil(first: Any) -> Any:
        first["x"] = 0.0
        return first.sum()

    spoiler = node(spoil, "first", "sums", name="spoiler")
    reader = node(lambda first, sums: first, ["first", "sums"], "last", name="reader")
    assert find(read, spoiler, reader).changes == (Change(node="spoiler", dataset="first", shared=False),)
    assert find(read, spoiler).changes == ()


def test_what_has_no_pickle_is_not_watched() -> None:
    assert find(remember, mapping={"a": 3, "lock": threading.Lock()}).changes == ()


@pytest.mark.parametrize("mode", ["assign", "deepcopy"])
def test_a_prediction_that_changes_the_next_one_needs_a_copy(
    mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = DataCatalog({"mapping": MemoryDataset({"a": 3})})
    pipeline = Pipeline([node(remember, ["table", "mapping"], "counted", name="counter")])
    model = KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="table", copy_mode={"mapping": mode})
    artifacts = model.extract_pipeline_artifacts(tmp_path)
    table = pd.DataFrame({"x": [1.0]})
    if mode == "deepcopy":
        check_changes(model, artifacts, (table, {}))
        assert not caplog.records
        return
    with pytest.raises(RecordingError, match="changes the next one: the inference pipeline changes mapping") as caught:
        check_changes(model, artifacts, table)
    assert "{'copy_mode': {'mapping': 'deepcopy'}}" in (caught.value.hint or "")
    assert "The inference node 'counter' changes 'mapping', which all requests share." in caplog.text


def test_an_example_that_only_mlflow_can_hand_on_is_left_to_it(tmp_path: Path) -> None:
    model = KedroPipelineModel(
        pipeline=Pipeline([node(read, ["table", "mapping"], "told", name="reader")]),
        catalog=DataCatalog({"mapping": MemoryDataset({"a": 3})}),
        input_name="table",
    )
    check_changes(model, model.extract_pipeline_artifacts(tmp_path), {"x": 1.0})
    check_changes(model, {}, None)
