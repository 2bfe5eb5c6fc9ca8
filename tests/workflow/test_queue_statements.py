"""What is asked of a queue's database: each statement with all that it names, and what its rows come to.

Names of tables, columns and states are looked for in procrastinate's own schema; that PostgreSQL does what the
statements say is what integration shows.
"""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("procrastinate")

import psycopg
from procrastinate import App
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job
from procrastinate.schema import SchemaManager
from procrastinate.testing import InMemoryConnector

from kbuild.errors import QueueUnavailable
from kbuild.workflow.queue import board as board_module
from kbuild.workflow.queue import ledger as ledger_module
from kbuild.workflow.queue.address import QueueAddress
from kbuild.workflow.queue.asked import Asked
from kbuild.workflow.queue.board import Board
from kbuild.workflow.queue.database import explained
from kbuild.workflow.queue.ledger import SCHEMA, PostgresLedger, Taken
from kbuild.workflow.queue.states import Figures, JobState, Put

THEIRS = SchemaManager.get_schema()
STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}{name}": text
    for module in (board_module, ledger_module)
    for name, text in vars(module).items()
    if re.fullmatch(r"_[A-Z_]+", name)
    and isinstance(text, str)
    and re.match(r"\s*(SELECT|UPDATE|INSERT|DELETE|WITH)", text)
}
COLUMNS = {
    name: set(re.findall(r"^\s+(\w+) [a-z]", body, re.MULTILINE))
    for name, body in re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) ?\((.*?)^\)", THEIRS + SCHEMA, re.M | re.S)
}


def values_of(kind: str) -> set[str]:
    [body] = re.findall(rf"CREATE TYPE {kind} AS ENUM \((.*?)^\)", THEIRS, re.M | re.S)
    return set(re.findall(r"'(\w+)'", body))


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_name_what_is_in_the_schema(name: str) -> None:
    text = STATEMENTS[name]
    named = re.findall(r"(?:FROM|JOIN|UPDATE|INTO) ((?:procrastinate|kbuild)_\w+)(?: AS (\w+))?", text)
    aliases = {alias: table for table, alias in named if alias}
    assert {table for table, _ in named} <= COLUMNS.keys()
    of_aliases = [(aliases[alias], column) for alias, column in re.findall(r"(\w+)\.(\w+)", text) if alias in aliases]
    assert [(table, column) for table, column in of_aliases if column not in COLUMNS[table]] == []
    states = re.findall(r"status(?:::text)? (?:= |IN \()((?:'\w+'(?:, )?)+)", text)
    assert {each for found in states for each in re.findall(r"\w+", found)} <= values_of("procrastinate_job_status")
    events = re.findall(r"type IN \((.*?)\)", text)
    assert {each for found in events for each in re.findall(r"\w+", found)} <= values_of("procrastinate_job_event_type")


class Database(InMemoryConnector):
    """procrastinate's in memory, and ``answers`` for the statements of our own: rows, or what is raised."""

    def __init__(self, **answers: Any) -> None:
        super().__init__()
        self.answers, self.asked = answers, list[tuple[str, dict[str, Any]]]()

    async def generic_execute(self, query: str, suffix: Any, **given: Any) -> Any:
        if query in self.reverse_queries:
            return await super().generic_execute(query, suffix, **given)
        [name] = [name for name, text in STATEMENTS.items() if text == query]
        # psycopg refuses a statement that names what it is not given.
        assert set(re.findall(r"%\((\w+)\)s", query)) == set(given), name
        self.asked.append((name, given))
        rows = self.answers.get(name, [])
        rows = rows(self, given) if callable(rows) else rows
        if isinstance(rows, Exception):
            raise rows
        return rows[0] if suffix == "one" else rows


def open_board(**answers: Any) -> tuple[Board, Database]:
    database = Database(**answers)
    return Board(App(connector=database), QueueAddress("postgresql://h/d")), database


MODELS = ("models:/a/1", "models:/b/2")
ASKED = [Asked(model=model, options={"push": "r.example/x:1"}) for model in MODELS]
A, B = (each.key for each in ASKED)


def same(database: Database, given: dict[str, Any]) -> list[dict[str, Any]]:
    live = [each for each in database.jobs.values() if each["status"] in ("todo", "doing")]
    return [each for each in live if each["queueing_lock"] in given["keys"]]


def test_a_job_is_put_there_once_with_all_that_a_worker_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    board, database = open_board(board_SAME=same)
    assert board.put([ASKED[0], ASKED[0]], priority=7) == [Put(id=1, model=MODELS[0], is_new=True)] * 2
    kept = database.jobs[1]
    told = {"format": 1, "model": MODELS[0], "options": {"push": "r.example/x:1"}}
    facts = {"queue_name": "kbuild", "task_name": "kbuild.image", "priority": 7, "lock": A, "queueing_lock": A}
    assert kept | facts | {"args": told} == kept
    again = [Put(id=2, model=MODELS[1], is_new=True), Put(id=1, model=MODELS[0], is_new=False)]
    assert board.put([ASKED[1], ASKED[0]]) == again and database.jobs[2]["priority"] == 0
    assert board.live(ASKED) == {*MODELS}
    database.jobs[2]["status"] = "succeeded"
    assert board.live(ASKED) == {MODELS[0]}
    assert database.asked[-1] == ("board_SAME", {"queue": "kbuild", "keys": [A, B]})
    # Of very many so many in a statement.
    monkeypatch.setattr(board_module, "_AT_ONCE", 2)
    database.asked.clear()
    many = [Asked(model=f"models:/c/{number}") for number in range(5)]
    assert [each.model for each in board.put(many)] == [each.model for each in many]
    assert [len(given["keys"]) for _, given in database.asked] == [2, 2, 1]


def test_of_two_that_ask_at_once_one_finds_the_others_job() -> None:
    looks = 0

    def late(database: Database, given: dict[str, Any]) -> list[dict[str, Any]]:
        nonlocal looks
        looks += 1
        return same(database, given) if looks > 2 else []  # what the other one wrote is not there yet

    board, database = open_board(board_SAME=same)
    board.put(ASKED[:1])
    database.answers["board_SAME"] = late
    assert board.put(ASKED) == [Put(id=1, model=MODELS[0], is_new=False), Put(id=2, model=MODELS[1], is_new=True)]
    assert len(database.jobs) == 2


@pytest.mark.parametrize(
    ("ask", "statement", "rows", "given", "answer"),
    [
        (lambda b: b.cancelled(ASKED), "board_CANCELLED", [{"queueing_lock": B}], {"keys": [A, B]}, {MODELS[1]}),
        (lambda b: b.gone([3, 4, 5]), "board_KNOWN", [{"id": 4}], {"ids": [3, 4, 5]}, {3, 5}),
        (lambda b: b.retry((3, 4)), "board_RETRY", [{"id": 4}], {"ids": [3, 4]}, [4]),
        (
            lambda b: b.prune(days=2, statuses=("done", "cancelled")),
            "board_PRUNE",
            [{"id": 4}, {"id": 5}],
            {"statuses": ["succeeded", "cancelled", "aborting", "aborted"], "seconds": 172800},
            2,
        ),
        (lambda b: b.jobs(), "board_JOBS", [], {"ids": None, "statuses": None, "limit": 1_000_000}, []),
        (
            lambda b: b.jobs({3}, statuses=("cancelled", "done"), limit=9),
            "board_JOBS",
            [],
            {"ids": [3], "statuses": ["succeeded", "cancelled", "aborting", "aborted"], "limit": 9},
            [],
        ),
    ],
)
def test_what_a_board_asks(
    ask: Callable[[Board], Any], statement: str, rows: Any, given: dict[str, Any], answer: Any
) -> None:
    board, database = open_board(**{statement: rows})
    assert ask(board) == answer
    assert database.asked == [(statement, {"queue": "kbuild", **given})]


NOW = datetime.datetime(2026, 11, 29, 12, 0, 30, tzinfo=datetime.UTC)
BEGUN, LATER = NOW - datetime.timedelta(seconds=90), NOW + datetime.timedelta(seconds=10)
ROW = {
    "id": 5, "status": "doing", "priority": 2, "scheduled_at": LATER, "abort_requested": True, "now": NOW,
    "args": {"model": MODELS[0], "options": {"slim": True}}, "worker": "w", "phase": "lock", "note": "resolving",
    "begun": BEGUN, "ended": None, "failures": 1, "lost": 2, "entry": {"status": "failed"},
}  # fmt: skip
STATE = {
    "id": 5, "model": MODELS[0], "status": "building", "priority": 2, "worker": "w", "phase": "lock",
    "note": "resolving", "seconds": 90.0, "failures": 1, "lost": 2, "again": None, "cancelling": True,
    "entry": {"status": "failed"}, "options": {"slim": True},
}  # fmt: skip
STILL = {"phase": None, "note": None, "cancelling": False, "seconds": None}
UNTOLD = dict.fromkeys(("worker", "phase", "note", "begun", "ended", "failures", "lost", "entry"))
NEVER = {"worker": None, "failures": 0, "lost": 0, "entry": None}


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({}, {}),
        ({"abort_requested": False, "begun": None}, {"cancelling": False, "seconds": None}),
        ({"status": "todo"}, {**STILL, "status": "waiting", "again": LATER}),
        ({"status": "todo", **UNTOLD}, {**STILL, **NEVER, "status": "waiting", "again": LATER}),
        *(
            ({"status": theirs, "ended": LATER}, {**STILL, "status": ours, "seconds": 100.0})
            for theirs, ours in {
                "succeeded": "done", "failed": "failed", "cancelled": "cancelled", "aborted": "cancelled",
            }.items()
        ),
    ],
)  # fmt: skip
def test_what_a_job_is_seen_as(row: dict[str, Any], state: dict[str, Any]) -> None:
    board, _ = open_board(board_JOBS=[ROW | row])
    assert board.jobs() == [JobState(**STATE | state)]


def test_every_state_of_procrastinate_is_one_of_ours() -> None:
    assert board_module.OURS.keys() == values_of("procrastinate_job_status")


def test_the_figures_are_of_every_status() -> None:
    counts = [{"status": "todo", "jobs": 3}, {"status": "aborted", "jobs": 1}, {"status": "cancelled", "jobs": 4}]
    row = {"workers": 2, "oldest": 7, "builds": 5, "seconds": 9, "lost": 1}
    board, database = open_board(board_COUNTS=counts, board_FIGURES=[row])
    jobs: Any = {"waiting": 3, "building": 0, "done": 0, "failed": 0, "cancelled": 5}
    assert board.figures() == Figures(jobs=jobs, workers=2, oldest=7.0, builds=5, seconds=9.0, lost=1)
    assert database.asked == [("board_COUNTS", {"queue": "kbuild"}), ("board_FIGURES", {"queue": "kbuild"})]
    row["oldest"] = None
    assert board.figures().oldest is None


def test_what_waits_is_cancelled_and_what_is_built_is_stopped() -> None:
    def live(database: Database, given: dict[str, Any]) -> list[dict[str, Any]]:
        assert (given["ids"], given["statuses"]) == ([2, 1, 9], ["todo", "doing"])
        return [ROW | {"id": each, "status": database.jobs[each]["status"]} for each in (2, 1)]

    board, database = open_board(board_SAME=same, board_JOBS=live)
    board.put(ASKED)
    database.jobs[2]["status"] = "doing"
    assert board.cancel([2, 1, 9]) == [1, 2]
    assert database.jobs[1]["status"] == "cancelled" and database.jobs[2]["abort_requested"] is True


JOB = Job(
    id=7, queue="kbuild", task_name="kbuild.image", lock="l", queueing_lock="q", attempts=2, worker_id=3,
    task_kwargs={"model": MODELS[0]},
)  # fmt: skip
ATTEMPT = {"job": 7, "worker": 3, "attempt": 2}
TWICE = UniqueViolation(constraint_name="c", queueing_lock="q")
ENDED = {
    "model": MODELS[0], "seconds": 0.0, "status": "failed",
    "error": {"message": "the same image waits as another job", "hint": None, "exit_code": 41},
}  # fmt: skip
YIELDED = ("ledger_YIELD", {**ATTEMPT, "entry": ENDED})


@pytest.mark.parametrize(
    ("ask", "rows", "given", "answer"),
    [
        (lambda x: x.begin(JOB, "w"), {"BEGIN": [{"failures": 2, "lost": 1}]}, {"job": 7, "worker": "w"}, (2, 1)),
        (lambda x: x.note(JOB, "lock", "n"), {"NOTE": []}, {"job": 7, "phase": "lock", "note": "n"}, None),
        (lambda x: x.end(JOB, ENDED, failed=True), {"END": []}, {"job": 7, "entry": ENDED, "failed": 1}, None),
        (lambda x: x.end(JOB, {}, failed=False), {"END": []}, {"job": 7, "entry": {}, "failed": 0}, None),
        (lambda x: x.owns(JOB), {"OWNS": [{"owned": 1}]}, ATTEMPT, True),
        (lambda x: x.owns(JOB), {"OWNS": [{"owned": 0}]}, ATTEMPT, False),
        (lambda x: x.claim(JOB, "plan 1"), {"CLAIM": [{"id": 7}]}, {**ATTEMPT, "lock": "plan 1"}, True),
        (lambda x: x.claim(JOB, "plan 1"), {"CLAIM": []}, {**ATTEMPT, "lock": "plan 1"}, None),
        (lambda x: x.claim(JOB, "plan 1"), {"CLAIM": TWICE}, {**ATTEMPT, "lock": "plan 1"}, False),
        (lambda x: x.give_back(JOB, at=NOW, lock="l"), {"GIVE_BACK": []}, {**ATTEMPT, "at": NOW, "lock": "l"}, True),
        (
            lambda x: x.give_back(JOB, at=None, lock=None),
            {"GIVE_BACK": TWICE, "YIELD": [{"worker": "w"}]},
            {**ATTEMPT, "at": None, "lock": None},
            False,
        ),
        (lambda x: x.take_over(JOB), {"TAKE_OVER": []}, ATTEMPT, None),
        (
            lambda x: x.take_over(JOB),
            {"TAKE_OVER": [{"worker": None, "status": "todo"}]},
            ATTEMPT,
            Taken("a worker", "todo"),
        ),
        (
            lambda x: x.take_over(JOB),
            {"TAKE_OVER": TWICE, "YIELD": [{"worker": "w2"}]},
            ATTEMPT,
            Taken("w2", "failed"),
        ),
        (lambda x: x.register(3, 30.0), {"REGISTER": []}, {"worker": 3, "lease": 30.0}, None),
        (lambda x: x.up_for(30.0), {"UP_FOR": [{"up": True}]}, {"seconds": 30.0}, True),
        (lambda x: x.knows(3), {"REGISTERED": [{"known": 0}]}, {"worker": 3}, False),
    ],
)
def test_what_a_ledger_writes(
    ask: Callable[[PostgresLedger], Awaitable[Any]], rows: dict[str, Any], given: dict[str, Any], answer: Any
) -> None:
    database = Database(**{f"ledger_{name}": each for name, each in rows.items()})

    async def run() -> Any:
        return await ask(PostgresLedger(App(connector=database)))

    assert asyncio.run(run()) == answer
    statement, *more = rows
    assert database.asked == [(f"ledger_{statement}", given), *([YIELDED] if more else [])]


class Connection:
    """psycopg's, which knows ``there``; what it is told is ``said``."""

    def __init__(self, there: Sequence[str], *, migrated: bool = True) -> None:
        self.there, self.migrated, self.said = there, migrated, list[tuple[str, Any]]()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None: ...

    def execute(self, statement: str, arguments: Any = None) -> Any:
        self.said.append((statement, arguments))
        found = self.migrated if "to_regproc" in statement else bool(arguments) and arguments[0] in self.there
        return SimpleNamespace(fetchone=lambda: (found,))


@pytest.mark.parametrize(
    ("there", "made"),
    [
        (("procrastinate_jobs", "kbuild_builds", "kbuild_workers"), []),
        (("procrastinate_jobs", "kbuild_builds"), [SCHEMA]),
        ((), [THEIRS, SCHEMA]),
    ],
)
def test_tables_are_made_where_they_are_missing(
    there: tuple[str, ...], made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kbuild.workflow.queue import database

    connection, asked = Connection(there), list[Any]()

    def connect(url: str, **options: Any) -> Connection:
        asked.append((url, options))
        return connection

    monkeypatch.setattr("psycopg.connect", connect)
    app = database.open_app(QueueAddress("postgresql://h/d"), program="kbuild queue")
    options = {"autocommit": True, "connect_timeout": 10, "application_name": "kbuild queue"}
    assert asked == [("postgresql://h/d", options)]
    assert [each for each, _ in connection.said if each in (THEIRS, SCHEMA)] == made
    locked = [index for index, (each, _) in enumerate(connection.said) if "pg_advisory_lock" in each]
    writes = [index for index, (each, _) in enumerate(connection.said) if each in (THEIRS, SCHEMA)]
    assert len(locked) == bool(made) and all(index > locked[0] for index in writes), "of two at once one makes them"
    pool: Any = app.connector
    assert pool._pool_args["conninfo"] == "postgresql://h/d" and pool._pool_args["max_size"] == 4
    connection.migrated = False
    with pytest.raises(QueueUnavailable, match=r"of a procrastinate before 3\.4"):
        database.open_app(QueueAddress("postgresql://h/d"), program="kbuild queue")


def caused(cause: Exception) -> ConnectorException:
    """As procrastinate raises it: its own words say nothing."""
    error = ConnectorException("\n    Database error.\n    ")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says", "hint"),
    [
        (psycopg.OperationalError("no\n route"), "does not answer: no route", "start it, or check host"),
        (caused(psycopg.OperationalError("gone")), "does not answer: gone", "start it, or check host"),
        (caused(psycopg.InterfaceError("closed")), "does not answer: closed", "start it, or check host"),
        (psycopg.errors.ReadOnlySqlTransaction("standby"), "does not answer: standby", "start it, or check host"),
        (psycopg.errors.UndefinedTable("no table"), "refuses: no table", "look at the database's log"),
        (caused(psycopg.errors.CheckViolation("of ann, geheim")), "refuses: of ***, ***", "look at the database's log"),
    ],
)
def test_what_went_wrong_is_told_in_the_databases_words_with_what_to_do(error: Exception, says: str, hint: str) -> None:
    address = QueueAddress("postgresql://ann:geheim@h/d")
    with pytest.raises(QueueUnavailable) as caught, explained(address):
        raise error
    assert caught.value.message == f"the queue postgresql://h/d {says}" and str(caught.value.hint).startswith(hint)
