from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asgi
import models
import numpy as np
import pandas as pd
import pytest

from kbuild.serving.answer.model import ServedModel
from kbuild.serving.http.asgi import ServingApp

JSON = {"content-type": "application/json"}
ROWS = [{"a": 1.5 * n, "b": 2.5 - n, "c": 3 + n} for n in range(5)]


def by_row(table: Any, scale: float, times: int, word: str) -> Any:
    if (table["c"] == 13).any():
        raise ValueError("13 is not served")
    return table.assign(total=table["a"] * scale + times, word=word)


def centred(table: Any, scale: float, times: int, word: str) -> Any:
    return table.assign(total=table["a"] - table["a"].mean())


def last_bit(table: Any, scale: float, times: int, word: str) -> Any:
    """As kernels of numeric libraries do, which sum many rows in another order than one."""
    return table.assign(sum=table["a"] * (1 + 2**-50 * (len(table) > 1)))


def off(table: Any, scale: float, times: int, word: str) -> Any:
    return table.assign(sum=table["a"] * (1 + 1e-3 * (len(table) > 1)))


def numbered(table: Any, scale: float, times: int, word: str) -> Any:
    return table.assign(number=table.index)


def shorter(table: Any, scale: float, times: int, word: str) -> Any:
    return table[table["c"] > 4]


def whole_or_not(table: Any, scale: float, times: int, word: str) -> Any:
    return table.assign(total=table["c"].where(table["c"] != 4))


def late_gap(table: Any, scale: float, times: int, word: str) -> Any:
    return table.assign(total=table["c"].where(table["c"] < 100))


def as_series(table: Any, scale: float, times: int, word: str) -> Any:
    return (table["a"] * scale).rename("total")


def as_array(table: Any, scale: float, times: int, word: str) -> Any:
    return table[["a", "b"]].to_numpy() * scale


def as_list(table: Any, scale: float, times: int, word: str) -> Any:
    return [f"{word}{value * scale}" for value in table["a"]]


def as_dict(table: Any, scale: float, times: int, word: str) -> Any:
    return {"sum": float(table["a"].sum())}


def body_of(*rows: dict[str, Any], **params: Any) -> bytes:
    return json.dumps({"dataframe_records": rows, **({"params": params} if params else {})}).encode()


def make_app(folder: Path, func: Callable[..., Any], *, warm: bool = True, **changes: Any) -> ServingApp:
    app = asgi.serve(models.make_model("scored", folder, func), folder, **{"queue": 500, "max_batch": 8, **changes})
    old = app._model
    app._model = ServedModel(
        facts=replace(old.facts, example=body_of(*ROWS)), app=old.app, fast=old.fast, slow=old.slow
    )
    if warm:
        asyncio.run(app._warm())
    return app


async def ask_all(app: ServingApp, bodies: list[bytes]) -> list[tuple[int, bytes]]:
    answers = await asyncio.gather(*(asgi.call(app, "POST", "/invocations", body, JSON) for body in bodies))
    return [(status, text) for status, _, text in answers]


def lines(app: ServingApp) -> list[str]:
    return asyncio.run(asgi.call(app, "GET", "/metrics"))[2].decode().splitlines()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("func", [by_row, as_series, as_array, as_list, late_gap])
def test_answers_are_the_same_with_and_without(func: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bodies = []
    for number in range(150):
        rows = [
            {"a": float(rng.normal()), "b": 0.5, "c": int(rng.integers(10, 120))} for _ in range(rng.integers(1, 4))
        ]
        params = [{}, {"scale": 1.5}, {"scale": 1.5, "times": 7}, {"times": number}][number % 4]
        bodies.append(body_of(*rows, **params))
    # What fails, what is no JSON, what goes MLflow's own way.
    bodies[7::30] = [body_of({"a": 1.5, "b": 2.5, "c": 13})] * 5
    bodies[9::30] = [b"{", body_of({"a": 1.5}), b"[]", body_of({**ROWS[0], "b": 2}), b'{"inputs": 1}']
    together = make_app(tmp_path / "one", func)
    apart = make_app(tmp_path / "two", func, max_batch=1)
    assert together._batcher is not None and apart._batcher is None
    assert asyncio.run(ask_all(together, bodies)) == asyncio.run(ask_all(apart, bodies))
    told = dict(line.split() for line in lines(together) if line.startswith("kbuild_batch"))
    assert float(told["kbuild_batch_requests_sum"]) == 150
    assert float(told["kbuild_batch_requests_count"]) < 140
    assert together._gate.taken == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (centred, "depends on the rows beside it"),
        (numbered, "depends on the rows beside it"),
        (off, "(0.000999 relative)"),
        (shorter, "does not answer with one row for each row"),
        (whole_or_not, "type of its answer depends on the rows"),
        (as_dict, "does not answer with one row for each row"),
    ],
)
def test_a_model_whose_rows_are_not_by_themselves_is_refused(
    func: Callable[..., Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(tmp_path, func)
    assert app._batcher is None and app.ready
    assert reason in caplog.text
    assert asyncio.run(ask_all(app, [body_of(ROWS[0])] * 3))[0][0] == 200


@pytest.mark.filterwarnings("ignore")
def test_the_last_bits_of_a_sum_are_no_company(tmp_path: Path) -> None:
    assert make_app(tmp_path, last_bit)._batcher is not None


def test_an_example_of_one_row_shows_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(tmp_path, by_row, warm=False)
    model = app._model
    facts = replace(model.facts, example=body_of(ROWS[0]))
    app._model = ServedModel(facts=facts, app=model.app, fast=model.fast, slow=model.slow)
    asyncio.run(app._warm())
    assert app._batcher is None and "fewer than two rows" in caplog.text


@pytest.mark.slow
def test_a_batch_waits_for_company_only_so_long(tmp_path: Path) -> None:
    app = make_app(tmp_path, by_row, max_delay=0.05)

    async def crowd() -> None:
        async def late() -> Any:
            await asyncio.sleep(0.02)
            return await asgi.call(app, "POST", "/invocations", body_of(ROWS[1]), JSON)

        first = asgi.call(app, "POST", "/invocations", body_of(ROWS[0]), JSON)
        assert [answer[0] for answer in await asyncio.gather(first, late())] == [200, 200]
        # Nobody else comes.
        assert (await asgi.call(app, "POST", "/invocations", body_of(ROWS[0]), JSON))[0] == 200

    asyncio.run(crowd())
    assert "kbuild_batch_requests_count 2" in lines(app)


@pytest.mark.slow
def test_what_timed_out_in_a_batch_gives_its_place_back(tmp_path: Path) -> None:
    free = threading.Event()

    def slow(table: Any, scale: float, times: int, word: str) -> Any:
        if (table["c"] == 50).any():
            free.wait(10)
        return by_row(table, scale, times, word)

    app = make_app(tmp_path, slow, timeout=0.3)

    async def hang() -> None:
        bodies = [body_of({**ROWS[0], "c": 50}), *[body_of(ROWS[0])] * 9]
        assert {status for status, _ in await ask_all(app, bodies)} == {504}
        assert app._gate.taken == 8  # the batch that runs; the two that waited never will
        free.set()
        await asyncio.sleep(0.3)
        assert app._gate.taken == 0
        for _ in range(20):  # beside other work an answer may take longer than the limit
            if (await ask_all(app, bodies[1:]))[0][0] == 200:
                return
        raise AssertionError("it no longer answers")

    asyncio.run(hang())


@pytest.mark.slow
def test_tables_above_the_limit_together_are_asked_apart(tmp_path: Path) -> None:
    sizes: list[int] = []

    def measured(table: pd.DataFrame, scale: float, times: int, word: str) -> Any:
        sizes.append(len(table))
        return by_row(table, scale, times, word)

    app = make_app(tmp_path, measured, max_rows=6)
    sizes.clear()
    assert {status for status, _ in asyncio.run(ask_all(app, [body_of(*ROWS)] * 4))} == {200}
    assert sizes == [5, 5, 5, 5]
