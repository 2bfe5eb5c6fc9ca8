"""Models that chose Kedro's runner: the same answers, with the hooks that were given."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node

from kbuild.errors import PipelineMLError, PredictionError
from kbuild.recording.shipment.tracing import find_pickled_modules
from kbuild.training.pipeline_ml import pipeline_ml_factory
from kbuild.training.pyfunc import KedroPipelineModel


class Seen:
    """Notes what Kedro's runner tells."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        self.told.append(("loaded", dataset_name))

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        self.told.append(("saved", dataset_name))

    @hook_impl
    def on_node_error(self, node: Any) -> None:
        self.told.append(("failed", node.name))


def prepare(orders: Any, factors: dict[str, float]) -> Any:
    if (orders["price"] < 0).any():
        raise ValueError("a price below 0")
    return orders.assign(price=orders["price"] * factors["factor"])


def answer(prepared: Any, bonus: float, seen: dict[str, int]) -> tuple[Any, float]:
    seen["times"] = seen.get("times", 0) + 1
    return prepared["price"] + bonus, bonus * seen["times"]


PIPELINE = Pipeline(
    [
        node(prepare, {"orders": "orders", "factors": "factors"}, "prepared", name="prepare", tags="x"),
        node(answer, ["prepared", "params:bonus", "params:seen"], ["total", "bonus"], name="answer"),
    ],
)


def make_model(hooks: Iterable[Any] = (), **kwargs: Any) -> KedroPipelineModel:
    catalog = DataCatalog(
        {
            "factors": MemoryDataset({"factor": 2.0}),
            "params:bonus": MemoryDataset(0.5),
            "params:seen": MemoryDataset({}),
        }
    )
    made = KedroPipelineModel(
        pipeline=PIPELINE, catalog=catalog, input_name="orders", runner="SequentialRunner", hooks=hooks, **kwargs
    )
    made.load_context(SimpleNamespace(artifacts=made.extract_pipeline_artifacts()))
    return made


def ask(model: KedroPipelineModel, price: float, **params: Any) -> Any:
    return model.predict(None, pd.DataFrame({"price": [price]}), params)


@pytest.mark.parametrize("copy_mode", [None, "assign", "copy", "deepcopy", {"factors": "copy", "prepared": "deepcopy"}])
def test_answers_are_those_of_the_plan(copy_mode: Any) -> None:
    model = make_model(copy_mode=copy_mode)
    plain = pickle.loads(pickle.dumps(model))
    plain.runner = None
    plain.compile()
    plain._values = model._values
    assert type(plain._plan) is not type(model._plan)
    for params in ({}, {"bonus": 1.5}, {"runner": "SequentialRunner"}):
        # Twice: the parameter that a node changes is each request's own.
        assert [ask(model, 3.0, **params) for _ in "12"] == [ask(plain, 3.0, **params)] * 2
    assert ask(model, 3.0, bonus=1.5) == {"total": [7.5], "bonus": 1.5}


def test_hooks_of_datasets_and_nodes_are_called() -> None:
    seen = Seen()
    model = make_model([seen])
    ask(model, 3.0)
    assert seen.told == [
        ("loaded", "orders"), ("loaded", "factors"), ("saved", "prepared"),
        ("loaded", "prepared"), ("loaded", "params:bonus"), ("loaded", "params:seen"),
        ("saved", "total"), ("saved", "bonus"),
    ]  # fmt: skip
    seen.told.clear()
    with pytest.raises(ValueError, match="a price below 0"):
        ask(model, -1.0)
    assert seen.told[-1] == ("failed", "prepare")
    with pytest.raises(PredictionError, match="no parameter"):
        ask(model, 3.0, bonsu=1)


@pytest.mark.slow
def test_many_at_a_time_get_each_their_own() -> None:
    model = make_model()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda price: ask(model, price, bonus=price), map(float, range(60))))
    assert answers == [{"total": [price * 3.0], "bonus": price} for price in range(60)]


def test_runner_and_hooks_are_pickled_with_the_model() -> None:
    model = make_model([Seen()])
    model._catalog = None
    loaded = pickle.loads(pickle.dumps(model))
    assert ask(loaded, 3.0) == {"total": [6.5], "bonus": 0.5}
    assert loaded.runner == "SequentialRunner" and len(loaded._hooks[0].told) == 8
    assert [each.tags for each in loaded._nodes] == [{"x"}, set()]
    # Which makes Kedro one of the model's requirements.
    assert "kedro.pipeline.node" in find_pickled_modules(make_model())


def test_hooks_that_nobody_would_call_are_refused() -> None:
    with pytest.raises(PipelineMLError, match="Kedro's runner only"):
        KedroPipelineModel(pipeline=PIPELINE, catalog=DataCatalog(), input_name="orders", hooks=[Seen()])
    with pytest.raises(PipelineMLError, match=r"give an object of it, Seen\(\)"):
        make_model([Seen])


def test_they_are_chosen_where_the_pipelines_are_bound(package: ModuleType) -> None:
    training = Pipeline([node(package.fit, "orders", "factors")])
    catalog = DataCatalog({name: MemoryDataset(1) for name in ("factors", "params:bonus", "params:seen")})
    seen = Seen()
    bound = pipeline_ml_factory(
        training, PIPELINE, "orders", kpm_kwargs={"runner": "SequentialRunner", "hooks": [seen]}
    )
    model = KedroPipelineModel(bound, catalog)
    assert (model.runner, model._hooks) == ("SequentialRunner", (seen,))


@pytest.mark.slow
def test_logging_stays_as_it_was_and_no_other_model_needs_kedro() -> None:
    code = """
        import logging, sys
        root = logging.getLogger()
        root.addHandler(handler := logging.NullHandler())
        import kbuild.served.pipeline
        assert not any(name.partition(".")[0] == "kedro" for name in sys.modules)
        from kbuild.served.runner import KedroRun
        KedroRun([], [], outputs=[], copy_mode="assign")
        assert root.handlers == [handler] and root.level == logging.WARNING, root.handlers
        assert "kedro.runner" in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
