from __future__ import annotations

import asyncio
import functools
import gc
import sys
import threading
import weakref
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner

from kbuild.errors import PipelineMLError, PredictionError
from kbuild.served.calls import Plan, make_steps


def add(one: Any, two: Any = 0) -> Any:
    return one + two


def double(value: Any) -> dict[str, Any]:
    return {"twice": value * 2, "same": value}


def split(value: Any) -> tuple[Any, Any]:
    return value, -value


def make_plan(pipeline: Pipeline, **kwargs: Any) -> Plan:
    return Plan(make_steps(pipeline), inputs=sorted(pipeline.inputs()), outputs=sorted(pipeline.outputs()), **kwargs)


PIPELINE = Pipeline(
    [
        node(add, ["x", "params:k"], "sum", name="by_position"),
        node(add, {"two": "sum", "one": "x"}, "sum2", name="by_keyword"),
        node(double, "sum2", {"twice": "t", "same": "s"}, name="to_dict"),
        node(split, "t", ["a", "b"], name="to_list"),
        node(lambda: 7, None, "seven", name="from_nothing"),
        node(lambda value: None, "seven", None, name="to_nothing"),
        node(add, ["b", "s"], "c", name="last"),
    ]
)


def test_it_answers_as_kedro_does() -> None:
    catalog = DataCatalog({"x": MemoryDataset(3), "params:k": MemoryDataset(4)})
    expected = {name: dataset.load() for name, dataset in SequentialRunner().run(PIPELINE, catalog).items()}
    assert make_plan(PIPELINE).run({"x": 3, "params:k": 4}) == expected


def test_it_keeps_nothing_between_requests_and_threads() -> None:
    plan = make_plan(PIPELINE)
    expected = {number: plan.run({"x": number, "params:k": 1}) for number in range(50)}
    wrong: list[int] = []

    def work(start: int) -> None:
        for number in range(start, 50):
            if plan.run({"x": number, "params:k": 1}) != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Big:
    """Something whose end can be seen."""


@pytest.mark.slow
def test_intermediate_data_is_freed_after_its_last_use() -> None:
    alive: list[weakref.ref[Big]] = []
    seen = []

    def make(_: Any) -> Big:
        big = Big()
        alive.append(weakref.ref(big))
        return big

    def use(big: Big) -> int:
        return 1

    def look(_: int) -> int:
        gc.collect()
        seen.append(alive[0]())
        return 2

    pipeline = Pipeline(
        [node(make, "x", "big", name="a"), node(use, "big", "y", name="b"), node(look, "y", "z", name="c")]
    )
    assert make_plan(pipeline).run({"x": 0}) == {"z": 2}
    assert seen == [None]


def test_an_input_may_be_an_output_of_nothing_and_unused_outputs_are_dropped() -> None:
    pipeline = Pipeline([node(split, "x", ["a", "b"], name="split"), node(add, "a", "c", name="add")])
    assert make_plan(pipeline).run({"x": 1}) == {"b": -1, "c": 1}


def spoil(table: Any) -> int:
    table.loc[0, "v"] = 99
    return 0


@pytest.mark.parametrize(
    ("mode", "left"), [("assign", 99), ("copy", 1), ("deepcopy", 1), ({"table": "copy"}, 1), ({"zero": "copy"}, 99)]
)
def test_copy_modes_protect_what_nodes_change(mode: Any, left: int) -> None:
    pipeline = Pipeline([node(spoil, "table", "zero", name="spoil"), node(add, "zero", "y", name="add")])
    table = pd.DataFrame({"v": [1]})
    make_plan(pipeline, copy_mode=mode).run({"table": table})
    assert table.loc[0, "v"] == left


def test_copying_values_without_a_copy_method() -> None:
    assert make_plan(PIPELINE, copy_mode="copy").run({"x": 3, "params:k": 4}) == make_plan(PIPELINE).run(
        {"x": 3, "params:k": 4}
    )


def test_unknown_copy_modes_are_refused() -> None:
    with pytest.raises(PipelineMLError, match="unknown copy_mode move"):
        make_plan(PIPELINE, copy_mode="move")
    with pytest.raises(PipelineMLError, match="copy_mode names nothing"):
        make_plan(PIPELINE, copy_mode={"nothing": "copy"})


def fail(_: Any) -> Any:
    raise ZeroDivisionError("on purpose")


def test_an_error_says_which_node() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        make_plan(Pipeline([node(fail, "x", "y", name="broken")])).run({"x": 1})
    assert caught.value.__notes__ == ["in the inference node 'broken'"]


def test_a_node_that_would_end_the_program_is_an_error_of_the_model() -> None:
    with pytest.raises(RuntimeError, match=r"'leaves' called sys\.exit\(3\)"):
        make_plan(Pipeline([node(lambda _: sys.exit(3), "x", "y", name="leaves")])).run({"x": 1})


@pytest.mark.parametrize(("outputs", "match"), [(["a", "b"], "2 values: a, b"), ({"k": "a"}, "a dict of k")])
def test_a_node_that_gives_other_outputs_is_told(outputs: Any, match: str) -> None:
    with pytest.raises(PredictionError, match=match):
        make_plan(Pipeline([node(add, "x", outputs, name="add")])).run({"x": 1})


def count() -> Any:
    yield 1


def test_coroutines_are_refused() -> None:
    async def ask(x: int) -> int:
        return x

    with pytest.raises(PipelineMLError, match="'ask' is async, and Kedro awaits no node"):
        make_steps(Pipeline([node(ask, "x", "y", name="ask")]))


def test_generators_are_refused() -> None:
    with pytest.raises(PipelineMLError, match="'count' is a generator"):
        make_steps(Pipeline([node(count, None, "n", name="count")]))


def test_transcoding_inside_is_refused() -> None:
    pipeline = Pipeline([node(add, "x", "t@csv", name="write"), node(add, "t@table", "y", name="read")])
    with pytest.raises(PipelineMLError, match="'read' reads 't@table' but it is written as 't@csv'"):
        make_steps(pipeline)


def test_a_node_is_what_kedro_calls_and_not_what_that_wraps() -> None:
    async def ask(x: int) -> int:
        return x

    @functools.wraps(ask)
    def waiting(x: int) -> int:
        return asyncio.run(ask(x))

    @functools.wraps(count)
    def listed() -> list[int]:
        return list(count())

    steps = make_steps(Pipeline([node(waiting, "x", "y", name="ask"), node(listed, None, "n", name="count")]))
    assert {step.name for step in steps} == {"ask", "count"}
