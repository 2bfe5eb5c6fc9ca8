from __future__ import annotations

import functools
import itertools
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.answers import DEFAULT, EXACT, Tolerance, compare_texts
from kbuild.errors import RecordingError
from kbuild.recording.changes import Mutation, WatchedPlan
from kbuild.recording.record import record_model
from kbuild.served.calls import make_steps
from kbuild.training.pipeline_ml import pipeline_ml_factory


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


class Found(NamedTuple):
    changes: tuple[Mutation, ...]
    same_answer: bool


def run_twice(steps: list[Any], values: dict[str, Any], outputs: list[str], mode: Any, tolerance: Tolerance) -> Found:
    plan = WatchedPlan(steps, inputs=list(values), outputs=outputs, copy_mode=mode, given="table")
    # Each request has an input of its own, and shares the rest.
    first, second = (
        pickle.dumps(plan.run({**values, "table": values["table"].copy(deep=True)})[outputs[0]]) for _ in range(2)
    )
    one, other = (json.dumps(pickle.loads(each).to_dict()) for each in (first, second))
    return Found(plan.changes, compare_texts(one, other, tolerance).same)


def find(func: Callable[..., Any], *more: Any, copy_mode: Any = "assign", mapping: Any = None) -> Found:
    pipeline = Pipeline([node(func, ["table", "mapping"], "first", name="changer"), *more])
    values = {"table": pd.DataFrame({"x": [1.0, 2.0]}), "mapping": mapping or {"a": 3, "array": np.zeros(1000)}}
    outputs = sorted(pipeline.outputs())
    if not more:
        return run_twice(make_steps(pipeline), values, outputs, copy_mode, DEFAULT)
    plan = WatchedPlan(make_steps(pipeline), inputs=list(values), outputs=outputs, copy_mode=copy_mode, given="table")
    plan.run(values)
    return Found(plan.changes, True)


def shared(name: str = "mapping") -> Mutation:
    return Mutation(node="changer", dataset=name, shared=True)


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
        found = run_twice(make_steps(pipeline), values, ["first"], "assign", tolerance)
        assert found.changes == (shared(),)
        return found.same_answer

    assert same(DEFAULT)
    assert not same(EXACT)
    assert not same(DEFAULT.limited(rtol=1e-9, atol=0))


def test_reading_is_no_change() -> None:
    assert find(read) == Found(changes=(), same_answer=True)


class Lazy:
    def __init__(self) -> None:
        self.parts = [1, 2]

    @functools.cached_property
    def total(self) -> int:
        return sum(self.parts)


def read_lazy(table: Any, mapping: Any) -> Any:
    return table.assign(total=mapping["lazy"].total)


def grow(table: Any, mapping: Any) -> Any:
    mapping["lazy"].parts.append(1)
    return table.assign(total=mapping["lazy"].total)


def test_to_keep_a_cached_property_is_no_change() -> None:
    lazy = {"a": 3, "lazy": Lazy()}
    assert find(read_lazy, mapping=lazy) == Found(changes=(), same_answer=True)
    assert "total" in vars(lazy["lazy"])  # Python itself keeps it in the object's state
    assert find(grow, mapping={"a": 3, "lazy": Lazy()}).changes == (shared(),)


def test_a_requests_own_input_may_be_changed_unless_it_is_read_again() -> None:
    assert find(add_column).changes == ()
    again = node(lambda table, first: len(table.columns), ["table", "first"], "width", name="again")
    assert find(add_column, again).changes == (Mutation(node="changer", dataset="table", shared=False),)
    assert find(add_column, again, copy_mode={"table": "deepcopy"}).changes == ()


def test_what_is_handed_on_is_watched_while_others_read_it() -> None:
    def spoil(first: Any) -> Any:
        first["x"] = 0.0
        return first.sum()

    spoiler = node(spoil, "first", "sums", name="spoiler")
    reader = node(lambda first, sums: first, ["first", "sums"], "last", name="reader")
    assert find(read, spoiler, reader).changes == (Mutation(node="spoiler", dataset="first", shared=False),)
    assert find(read, spoiler).changes == ()


def test_what_has_no_pickle_is_not_watched() -> None:
    assert find(remember, mapping={"a": 3, "lock": threading.Lock()}).changes == ()


COUNT = itertools.count()


def count_in_module(table: Any, mapping: Any) -> Any:
    return table.assign(count=next(COUNT))


def draw(table: Any, mapping: Any) -> Any:
    return table + np.random.default_rng().random()


def fit(table: Any) -> Any:
    return {"a": 3}


def record(func: Callable[..., Any], mode: str, caplog: pytest.LogCaptureFixture, **kwargs: Any) -> None:
    """Until the saved model's answers are compared, which is what is seen here."""
    catalog = DataCatalog({"table": MemoryDataset(pd.DataFrame({"x": [1.0]})), "mapping": MemoryDataset({"a": 3})})
    bound = pipeline_ml_factory(
        Pipeline([node(fit, "table", "mapping")]),
        Pipeline([node(func, ["table", "mapping"], "told", name="teller")]),
        "table",
        kpm_kwargs={"copy_mode": {"mapping": mode}},
        **kwargs,
    )
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    record_model(bound, catalog, run_id=run_id)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_prediction_that_changes_the_next_one_needs_a_copy(
    store: mlflow.MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RecordingError, match="changes the next one: the inference pipeline changes mapping") as caught:
        record(remember, "assign", caplog)
    assert "{'copy_mode': {'mapping': 'deepcopy'}}" in (caught.value.hint or "")
    assert "The inference node 'teller' changes 'mapping', which all requests share." in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("func", [count_in_module, draw], ids=["a counter of the module", "chance without a seed"])
def test_an_answer_that_no_value_explains_is_refused(
    func: Callable[..., Any], store: mlflow.MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RecordingError, match="answers the example otherwise than the inference pipeline") as caught:
        record(func, "assign", caplog)
    assert "counter" in (caught.value.hint or "")
    # Where nothing says what the pipeline's own answer would be, the second request does.
    with pytest.raises(RecordingError, match="the second prediction for the same example is not the first"):
        record(func, "assign", caplog, log_model_kwargs={"signature": None, "input_example": [{"x": 1.0}]})
    assert store.search_logged_models(["0"]) == []
