"""``kbuild queue`` as it is typed, over a board of a few lines."""

from __future__ import annotations

import datetime
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kbuild.cli import queue as queue_command
from kbuild.cli.queue import command
from kbuild.errors import JobNotFound
from kbuild.workflow.queue.states import STATUSES, Figures, JobState

URL = "postgresql://127.0.0.1:9/none"
IMAGE = f"x@sha256:{'1' * 64}"
ENTRY = {"model": "models:/a/1", "status": "built", "image": IMAGE, "seconds": 2.0}
DONE = JobState(id=3, model="models:/a/1", status="done", worker="w1", entry=ENTRY)
WAITS = JobState(id=4, model="models:/b/2", status="waiting")


class Board:
    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.found = [WAITS, DONE]

    def jobs(self, ids: Any = None, *, statuses: Any = None, limit: int | None = None) -> list[JobState]:
        self.asked.append(("jobs", (statuses, limit)))
        return self.found

    def retry(self, ids: Any) -> list[int]:
        self.asked.append(("retry", [*ids]))
        return [each for each in ids if each != 9]

    def cancel(self, ids: Any) -> list[int]:
        self.asked.append(("cancel", [*ids]))
        return [each for each in ids if each != 9]

    def prune(self, **asked: Any) -> int:
        self.asked.append(("prune", asked))
        return 12

    def figures(self) -> Figures:
        return Figures(jobs={"waiting": 1, "done": 1}, workers=2, oldest=5.0, builds=1, seconds=2.0, lost=0)


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    made = Board()

    @contextmanager
    def open_queue(url: str | None) -> Iterator[Board]:
        made.asked.append(("open", url))
        yield made

    monkeypatch.setattr(queue_command, "open_queue", open_queue)
    monkeypatch.setattr(queue_command, "check_extra", lambda *_, **__: None)
    return made


Call = Callable[..., Result]


@pytest.fixture
def call() -> Call:
    def run(*argv: str) -> Result:
        done = CliRunner().invoke(command, list(argv))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


@pytest.mark.parametrize(
    ("argv", "days", "statuses"),
    [
        ((), 30.0, ("done", "failed")),
        (("--days", "0.5", "--status", "cancelled", "--status", "done"), 0.5, ("cancelled", "done")),
    ],
)
def test_old_jobs_go_and_their_number_is_printed(
    call: Call, board: Board, argv: tuple[str, ...], days: float, statuses: tuple[str, ...]
) -> None:
    assert call("prune", "--queue", URL, *argv).stdout == "12\n"
    assert board.asked == [("open", URL), ("prune", {"days": days, "statuses": statuses})]


@pytest.mark.parametrize("argv", [("list", "--queue", URL), ("--queue", URL, "list")])
def test_jobs_are_rows_and_how_many_there_are_is_told(call: Call, board: Board, argv: tuple[str, ...]) -> None:
    done = call(*argv)
    assert board.asked == [("open", URL), ("jobs", (None, 100))]
    titles, *rows = done.stdout.splitlines()
    assert titles.split()[:4] == ["JOB", "STATUS", "MODEL", "BY"]
    assert [row.split()[:3] for row in rows] == [["4", "waiting", "models:/b/2"], ["3", "done", "models:/a/1"]]
    # Columns begin where their titles do.
    assert all(row.index("models:/") == titles.index("MODEL") for row in rows)
    assert done.stderr == "1 waiting, 1 done; 2 workers\n"


def test_on_a_terminal_a_job_is_a_line(call: Call, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = call("list", "--queue", URL).stdout.splitlines()
    width = max(map(len, whole)) - 3
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("kbuild.cli.queue.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    shown = call("list", "--queue", URL).stdout.splitlines()
    assert shown == [line if len(line) <= width else f"{line[: width - 1]}…" for line in whole] and shown != whole


def test_some_statuses_alone_and_so_many(call: Call, board: Board) -> None:
    done = call("list", "--queue", URL, "--status", "failed", "--status", "cancelled", "--limit", "7", "--json")
    assert board.asked[-1] == ("jobs", (("failed", "cancelled"), 7))
    told = json.loads(done.stdout)
    assert told["counts"] == {"waiting": 1, "done": 1} and len(told["jobs"]) == 2
    board.found = []
    assert call("list", "--queue", URL).stdout == ""


def test_one_job_is_shown_whole(call: Call, board: Board) -> None:
    again = datetime.datetime(2026, 11, 29, 7, 0, 0, 123, datetime.UTC)
    facts: dict[str, Any] = {"priority": 7, "phase": "lock", "note": "resolving", "failures": 2, "lost": 1}
    board.found = [
        JobState(id=3, model="m", status="building", worker="w", seconds=1.23456, again=again, cancelling=True,
                 options={"push": "x"}, **facts)
    ]  # fmt: skip
    told = json.loads(call("show", "3", "--queue", URL).stdout)
    assert told == {
        "job": 3, "model": "m", "status": "building", "priority": 7, "worker": "w", "phase": "lock",
        "note": "resolving", "seconds": 1.235, "failures": 2, "workers_lost": 1, "again": "2026-11-29T07:00:00+00:00",
        "cancelling": True, "result": None, "options": {"push": "x"},
    }  # fmt: skip
    board.found = [DONE]
    assert json.loads(call("show", "3", "--queue", URL).stdout)["result"]["image"] == IMAGE
    board.found = []
    with pytest.raises(JobNotFound, match="there is no job 3"):
        call("show", "3", "--queue", URL)


@pytest.mark.parametrize(
    "work",
    [["list"], ["show", "3"], ["retry", "3"], ["cancel", "3"], ["prune"]],
    ids=lambda work: work[0],
)
def test_a_queue_is_named_before_or_after_what_is_done_to_it(call: Call, board: Board, work: list[str]) -> None:
    other = f"{URL}2"
    for typed, opened in (
        (["--queue", URL, *work], URL),
        ([*work, "--queue", URL], URL),
        (["--queue", other, *work, "--queue", URL], URL),
        (work, None),
    ):
        board.asked.clear()
        call(*typed)
        assert board.asked[0] == ("open", opened), typed


@pytest.mark.parametrize(
    ("what", "option", "status", "told"),
    [
        ("retry", "--failed", "failed", "none of these ended badly or waits for its next attempt: 9"),
        ("cancel", "--waiting", "waiting", "none of these waits or is being built: 9"),
    ],
)
def test_jobs_are_tried_again_or_cancelled(
    call: Call, board: Board, what: str, option: str, status: str, told: str
) -> None:
    assert call(what, "3", "4", "--queue", URL).stdout == "3\n4\n"
    assert board.asked == [("open", URL), (what, [3, 4])]
    board.asked.clear()
    assert call(what, option, "--queue", URL).stdout == "4\n3\n", "all of that status"
    assert board.asked[1:] == [("jobs", ((status,), None)), (what, [4, 3])]
    with pytest.raises(JobNotFound, match=told):
        call(what, "3", "9", "--queue", URL)
    for wrong in ((what, "--queue", URL), (what, "3", option, "--queue", URL)):
        assert call(*wrong).exit_code == 2


def test_the_page_is_served_where_it_was_asked_to_be(call: Call, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[tuple[str, bytes]] = []

    class Pressed:
        """Ctrl-C, once the page was looked at."""

        def wait(self) -> None:
            [address] = [each for kind, each in board.asked if kind == "served"]
            for path in ("/", "/metrics"):
                with urllib.request.urlopen(f"{address}{path}") as answer:  # noqa: S310
                    pages.append((answer.headers["content-type"], answer.read()))
            raise KeyboardInterrupt

    def echo(text: str) -> None:
        board.asked.append(("served", text))

    whole = replace(board.figures(), jobs=dict.fromkeys(STATUSES, 1))
    monkeypatch.setattr(board, "figures", lambda: whole)
    monkeypatch.setattr(queue_command.click, "echo", echo)
    monkeypatch.setattr(queue_command, "threading", SimpleNamespace(Event=Pressed))
    call("--serve", "--listen", "127.0.0.1:0", "--queue", URL)
    assert board.asked[0] == ("open", URL)
    [(kind, page), (plain, metrics)] = pages
    assert kind == "text/html; charset=utf-8" and b"postgresql://127.0.0.1:9/none" in page
    # Prometheus' text format 0.0.4, "Basic info".
    assert plain == "text/plain; version=0.0.4; charset=utf-8" and b"kbuild_queue_workers 2" in metrics
