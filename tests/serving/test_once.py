"""A request runs the nodes once, also one that fails: they may send or write something."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import asgi
import models
import pandas as pd
import pytest

from kbuild.errors import PredictionError
from kbuild.serving.answer.model import ServedModel
from kbuild.serving.watch.effects import EFFECTS

JSON = {"content-type": "application/json"}
ROW = {"a": 1.5, "b": 0.5, "c": 3}
ran: list[int] = []


def do(table: Any, scale: float, times: int, word: str) -> Any:
    ran.append(len(table))
    kind = int(table["c"].iloc[0])
    if kind == 13:
        raise ValueError("13 is not served")
    if kind == 14:
        return pd.DataFrame({"a": [object()]})  # no JSON
    if kind == 15:
        raise PredictionError("15 is none of the rows of training")
    if kind == 16:
        return [1, 2, 3] if len(table) == 1 else None
    if kind == 17:
        raise RecursionError("deep in the node")
    return [float(each) for each in table["a"]]


def body_of(*kinds: int) -> bytes:
    return json.dumps({"dataframe_records": [{**ROW, "c": kind} for kind in kinds]}).encode()


def ask(app: Any, body: bytes) -> tuple[int, bytes]:
    status, _, text = asyncio.run(asgi.call(app, "POST", "/invocations", body, JSON))
    return status, text


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("once")
    return asgi.serve(models.make_model("scored", folder, do), folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [3, 13, 14, 15, 16, 17])
def test_the_nodes_run_once_and_the_answer_is_mlflows(app: Any, kind: int) -> None:
    ran.clear()
    found = ask(app, body_of(kind))
    assert ran == [1]
    reply = app._model.slow(body_of(kind), "application/json")
    assert ran == [1, 1]
    assert found == (reply.status, reply.body)
    assert (found[0] == 200) == (kind in (3, 16))
    assert kind != 15 or b"15 is none of the rows" in found[1]


def test_what_is_wrong_with_a_request_is_told_without_a_run(app: Any) -> None:
    ran.clear()
    for body in (b"{", b"{}", json.dumps({"dataframe_records": [{"a": 1.5}]}).encode()):
        assert ask(app, body)[0] == 400
    assert ran == []


def ask_together(app: Any, *bodies: bytes) -> list[int]:
    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(asgi.call(app, "POST", "/invocations", body, JSON) for body in bodies))

    return [answer[0] for answer in asyncio.run(ask_all())]


def make_batching(folder: Path, func: Any) -> Any:
    app = asgi.serve(models.make_model("scored", folder, func), folder, queue=50, max_batch=8)
    old = app._model
    facts = replace(old.facts, example=body_of(1, 2))
    app._model = ServedModel(facts=facts, app=old.app, fast=old.fast, slow=old.slow)
    asyncio.run(app._warm())
    return app


@pytest.mark.filterwarnings("ignore")
def test_of_several_asked_together_only_who_may_be_at_fault_is_asked_again(tmp_path: Path) -> None:
    app = make_batching(tmp_path, do)
    assert app._batcher is not None
    ran.clear()
    assert ask_together(app, body_of(1), body_of(2), body_of(3)) == [200, 200, 200]
    assert ran == [3]
    ran.clear()
    # The first row is that of the table that fails: whose error it is, only asking each tells.
    assert ask_together(app, body_of(13), body_of(2)) == [400, 200]
    assert ran == [2, 1, 1]
    ran.clear()
    # Of other columns' types: no company, so each runs once.
    other = json.dumps({"dataframe_records": [{**ROW, "c": 13}], "params": {"scale": 3.5}}).encode()
    assert sorted(ask_together(app, other, body_of(2))) == [200, 400]
    assert sorted(ran) == [1, 1]


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_does_more_than_answer_is_not_asked_for_several(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"

    def note(table: Any, scale: float, times: int, word: str) -> Any:
        with log.open("a") as file:
            file.write("asked\n")
        return do(table, scale, times, word)

    app = make_batching(tmp_path / "model", note)
    assert app._batcher is None
    assert "it does more than answer" in caplog.text
    log.write_text("")
    assert ask_together(app, body_of(13), body_of(2)) == [400, 200]
    assert log.read_text().count("asked") == 2


@pytest.mark.filterwarnings("ignore")
def test_what_stays_open_after_the_first_prediction_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "log"
    opened: list[Any] = []

    def note(table: Any, scale: float, times: int, word: str) -> Any:
        if not opened:
            opened.append(log.open("a"))
        opened[0].write("asked\n")
        return do(table, scale, times, word)

    def in_a_thread(table: Any, scale: float, times: int, word: str) -> Any:
        thread = threading.Thread(target=log.write_text, args=("asked",))
        thread.start()
        thread.join()
        return do(table, scale, times, word)

    assert make_batching(tmp_path / "model", note)._batcher is None
    opened[0].close()
    assert make_batching(tmp_path / "other", in_a_thread)._batcher is None
    assert caplog.text.count(f"it does more than answer, and would do it again for others: it writes {log}") == 2


def test_what_is_done_meanwhile_is_told(tmp_path: Path) -> None:
    import socket

    with EFFECTS.watch() as seen:
        (tmp_path / "a").write_text("x")
        (tmp_path / "a").read_text()
        (tmp_path / "a").rename(tmp_path / "b")
        with socket.socket() as made, pytest.raises(OSError):
            made.connect(("127.0.0.1", 1))
    assert seen == [f"it writes {tmp_path / 'a'}", "os.rename", "socket.connect"]
    (tmp_path / "c").write_text("x")
    assert len(seen) == 3


def test_what_libraries_do_once_for_themselves_is_no_effect(tmp_path: Path) -> None:
    """As scikit-learn's HistGradientBoosting does by joblib at its first prediction, be there an lscpu or not."""
    with EFFECTS.watch() as seen:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["lscpu", "--parse=core"], capture_output=True, check=False)
        (tmp_path / "__pycache__").mkdir()
    assert seen == []
