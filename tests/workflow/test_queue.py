"""Workers of a queue in memory: what is done to jobs that fail, are taken, lost, cancelled or given back."""

from __future__ import annotations

import asyncio
import datetime
import gc
import json
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("procrastinate")

import psycopg
from procrastinate import App
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.testing import InMemoryConnector

from kbuild.digest import digest_bytes
from kbuild.errors import InvalidModel, QueueUnavailable, RegistryError
from kbuild.model.model_reference import ModelReference
from kbuild.progress import Silent
from kbuild.workflow.many import Outcome
from kbuild.workflow.queue.asked import Asked, plan_lock
from kbuild.workflow.queue.database import QUEUE, TASK
from kbuild.workflow.queue.ledger import Taken, yielded
from kbuild.workflow.queue.pulse import Pulse
from kbuild.workflow.queue.retries import (
    ATTEMPTS,
    LIVES,
    Again,
    GivenBack,
    Lost,
    PlanTaken,
    TryAgain,
    pause_after,
)
from kbuild.workflow.queue.worker import Beat, Worker

MODEL = "0123456789abcdef0123456789abcdef"
DIGEST = "sha256:" + "a" * 64
REFERENCE = ModelReference.parse(MODEL)


class Memory(InMemoryConnector):
    """As PostgreSQL has it: no heartbeat registers a worker that was forgotten."""

    async def update_heartbeat_run(self, worker_id: int) -> None:
        if worker_id in self.workers:
            await super().update_heartbeat_run(worker_id)

    async def unregister_worker_run(self, worker_id: int) -> None:
        self.workers.pop(worker_id, None)


class MemoryLedger:
    """What ``PostgresLedger`` asks of its database, of procrastinate's in memory."""

    def __init__(self, connector: InMemoryConnector) -> None:
        self.connector = connector
        self.told: dict[int, dict[str, Any]] = {}
        self.leases: dict[int, float] = {}
        self.refused: set[int] = set()
        self.error: Exception | None = None
        self.up = True

    def _row(self, job: Job) -> dict[str, Any]:
        return self.told.setdefault(int(job.id or 0), {"failures": 0, "lost": 0, "worker": None, "entry": None})

    def _ask(self) -> None:
        if self.error is not None:
            raise ConnectorException from self.error

    async def begin(self, job: Job, worker: str) -> tuple[int, int]:
        self._ask()
        row = self._row(job)
        row["worker"] = worker
        return row["failures"], row["lost"]

    async def note(self, job: Job, phase: str, note: str) -> None:
        self._row(job)["phase"] = phase

    async def end(self, job: Job, entry: Mapping[str, Any], *, failed: bool) -> None:
        if re.search(r"(?<!\\)\\(u0000|ud[89a-f])", json.dumps(entry)):  # what jsonb takes (PostgreSQL's manual, 8.14)
            raise ConnectorException from psycopg.errors.UntranslatableCharacter("unsupported Unicode escape sequence")
        row = self._row(job)
        row["entry"] = entry
        row["failures"] += failed

    async def owns(self, job: Job) -> bool:
        self._ask()
        kept: Any = self.connector.jobs[int(job.id or 0)]
        now = kept["status"], kept["worker_id"], kept["attempts"]
        return bool(now == ("doing", job.worker_id, job.attempts))

    async def claim(self, job: Job, lock: str) -> bool | None:
        if not await self.owns(job):
            return None
        others: Any = [kept for id, kept in self.connector.jobs.items() if id != job.id]
        if any(kept["status"] == "doing" and kept["lock"] == lock for kept in others):
            return False
        self.connector.jobs[int(job.id or 0)]["lock"] = lock
        return True

    async def give_back(self, job: Job, *, at: Any, lock: str | None) -> bool:
        return not await self.owns(job) or self._again(job, at, lock) != "failed"

    def _again(self, job: Job, at: Any, lock: str | None) -> str:
        kept: Any = self.connector.jobs[int(job.id or 0)]
        waiting = [each["queueing_lock"] for each in self.connector.jobs.values() if each["status"] == "todo"]
        status = "aborted" if kept["abort_requested"] else "failed" if kept["queueing_lock"] in waiting else "todo"
        kept.update(status=status, attempts=kept["attempts"] + 1, scheduled_at=at, lock=lock or kept["lock"])
        kept["abort_requested"] = False
        if status == "failed":
            self._row(job)["entry"] = yielded(job)
        return status

    async def take_over(self, job: Job) -> Taken | None:
        if job.id in self.refused:
            raise ConnectorException from psycopg.errors.CheckViolation("refused")
        if not await self.owns(job):
            return None
        self._row(job)["lost"] += 1
        return Taken(str(self._row(job)["worker"]), self._again(job, None, None))

    async def register(self, worker_id: int, lease: float) -> None:
        self.leases[worker_id] = lease

    async def up_for(self, seconds: float) -> bool:
        return self.up

    async def knows(self, worker_id: int) -> bool:
        return worker_id in self.connector.workers


class Told:
    """Whoever watches a worker, and hears of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: list[Outcome] = []

    def say(self, text: str, *, style: str | None = None) -> None:
        self.lines.append(text)

    complain = say

    def begin(self, model: str) -> Any:
        return lambda phase: nullcontext(Silent())

    def end(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


def built(model: str) -> Any:
    return SimpleNamespace(
        reference=f"x@{DIGEST}", digest=DIGEST, pushed=f"registry.example/x@{DIGEST}", reused=False, verified=None,
        untagged=None,
    )  # fmt: skip


class Fleet:
    """A queue, and workers that build as ``build`` does."""

    def __init__(self) -> None:
        self.connector = Memory()
        self.ledger = MemoryLedger(self.connector)
        self.told = Told()
        self.pushed: list[str] = []
        self.plans: dict[str, str] = {}
        self.broken: dict[str, list[Exception]] = {}
        self.held: dict[str, threading.Event] = {}
        self.begun: list[str] = []
        self.watched: list[Outcome] = []

    def build(self, asked: Asked, *, run: Any, phases: Any, gates: Any) -> Any:
        name = asked.options["tag"]
        self.begun.append(name)
        if self.broken.get(name):
            raise self.broken[name].pop(0)
        gates.planned(digest_bytes(self.plans.get(name, name).encode()))
        with phases("build") as progress:
            while name in self.held and not self.held[name].wait(0.01):
                progress.note("building")
        gates.built(REFERENCE, {})
        self.pushed.append(name)
        return built(asked.model)

    def worker(self, name: str = "w", *, once: bool = True, **more: Any) -> Worker:
        return Worker(
            app=App(connector=self.connector), ledger=self.ledger, build=self.build, watcher=self.told,
            teller=self.told, name=name, once=once, conceal=str,
            end_watched=lambda stated, outcome: self.watched.append(outcome),
            **{"beat": Beat(every=0.02, lease=30.0), "jobs": 1, **more},
        )  # fmt: skip

    async def put(self, *names: str, watched: bool = False, **more: Any) -> None:
        app = App(connector=self.connector)
        for name in names:
            asked = Asked(model=MODEL, options={"tag": name}, watched=watched)
            await app.configure_task(
                TASK, queue=QUEUE, lock=asked.key, queueing_lock=asked.key, **more
            ).defer_async(**asked.to_json())  # fmt: skip

    async def leave(self, number: int) -> int:
        """A worker takes the next job and dies; says which worker."""
        dead = int((await self.connector.register_worker_one())["worker_id"])
        assert (await self.connector.fetch_job_one(queues=[QUEUE], worker_id=dead))["id"] == number
        del self.connector.workers[dead]
        return dead

    def cut(self, error: Exception | None) -> None:
        """What is asked of the database from here on fails; with None it answers again."""
        self.ledger.error = error
        ask = type(self.connector).generic_execute

        async def execute(query: str, suffix: Any, **arguments: Any) -> Any:
            if self.ledger.error is not None:
                raise ConnectorException from self.ledger.error
            return await ask(self.connector, query, suffix, **arguments)

        self.connector.generic_execute = execute  # type: ignore[method-assign]

    def hold(self, name: str) -> threading.Event:
        return self.held.setdefault(name, threading.Event())

    def due(self) -> None:
        """Time passes until everything is tried again."""
        for job in self.connector.jobs.values():
            job["scheduled_at"] = None

    def status(self, number: int) -> str:
        return str(self.connector.jobs[number]["status"])


def run(work: Callable[[Fleet], Awaitable[None]]) -> Fleet:
    fleet = Fleet()
    asyncio.run(asyncio.wait_for(work(fleet), 20))  # type: ignore[arg-type]
    return fleet


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """A worker that is told to end after the block."""
    task = asyncio.create_task(worker.run())
    yield worker
    worker.end()
    await task


@asynccontextmanager
async def building(fleet: Fleet, *others: str, **more: Any) -> AsyncIterator[tuple[Worker, threading.Event]]:
    """A worker at the job "a", which is built once the event is set, with others after it; it ends after the block."""
    held = fleet.hold("a")
    await fleet.put("a", *others)
    async with working(fleet.worker(once=False, **more)) as worker:
        await until(lambda: fleet.begun)
        yield worker, held


def test_a_job_ends_with_its_entry_of_a_report() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a")
        await fleet.worker().run()

    fleet = run(work)
    assert fleet.pushed == ["a"] and fleet.status(1) == "succeeded"
    assert fleet.told.lines == [], "nothing is told of a database that was never away"
    entry = fleet.ledger.told[1]["entry"]
    assert (entry["status"], entry["image"], entry["model"]) == ("built", f"x@{DIGEST}", MODEL)


def test_what_was_said_while_it_was_built_is_in_its_entry_too() -> None:
    """As the verdict of an audit is."""

    async def work(fleet: Fleet) -> None:
        def build(asked: Asked, *, gates: Any, **_: Any) -> Any:
            gates.told.update({"audit": "findings", "findings": ["CVE-1"]})
            return built(asked.model)

        fleet.build = build  # type: ignore[method-assign]
        await fleet.put("a")
        await fleet.worker().run()

    entry = run(work).ledger.told[1]["entry"]
    assert (entry["audit"], entry["findings"], entry["status"]) == ("findings", ["CVE-1"], "built")


@pytest.mark.parametrize(
    ("exception", "waits", "lock"),
    [
        (GivenBack(), 0.0, None),
        (PlanTaken("plan:1"), 0.0, "plan:1"),
        (TryAgain(90.0), 90.0, None),
        (Lost(), None, None),
        (InvalidModel("no model"), None, None),
    ],
)
def test_what_ended_an_attempt_says_when_the_next_one_is(
    exception: Exception, waits: float | None, lock: str | None
) -> None:
    job: Any = None
    before = datetime.datetime.now(datetime.UTC)
    decision = Again().get_retry_decision(exception=exception, job=job)
    after = datetime.datetime.now(datetime.UTC)
    if waits is None:
        assert decision is None
        return
    assert decision is not None and decision.retry_at is not None
    assert before <= decision.retry_at - datetime.timedelta(seconds=waits) <= after and decision.lock == lock


@pytest.mark.parametrize(("failures", "pause"), [(1, 10.0), (2, 30.0), (3, 90.0), (4, 270.0), (5, None), (6, None)])
def test_each_pause_is_three_times_the_one_before_and_the_fifth_failure_is_the_last(
    failures: int, pause: float | None
) -> None:
    assert pause_after(RegistryError("away"), failures) == pause


def test_the_higher_priority_is_built_first() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("later")
        await fleet.put("first", priority=5)
        await fleet.worker().run()

    assert run(work).pushed == ["first", "later"]


def test_what_may_pass_is_tried_again_later_and_what_stays_is_not() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.broken = {"passes": [RegistryError("away")], "stays": [InvalidModel("no model")]}
        await fleet.put("passes", "stays")
        await fleet.worker().run()
        assert [fleet.status(1), fleet.status(2)] == ["todo", "failed"]
        assert fleet.connector.jobs[1]["scheduled_at"] is not None and fleet.pushed == []
        fleet.due()
        await fleet.worker().run()

    fleet = run(work)
    assert [line for line in fleet.told.lines if "again" in line] == ["job 1 is tried again in 10 s"]
    assert fleet.pushed == ["passes"] and fleet.status(1) == "succeeded"
    assert fleet.ledger.told[2]["entry"]["error"]["message"] == "no model"
    assert fleet.begun.count("stays") == 1


def test_a_poison_job_ends_with_its_error() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.broken = {"a": [RegistryError(f"attempt {number}") for number in range(1, 20)]}
        await fleet.put("a")
        for _ in range(ATTEMPTS + 2):
            await fleet.worker().run()
            fleet.due()

    fleet = run(work)
    assert len(fleet.begun) == ATTEMPTS and fleet.status(1) == "failed"
    assert fleet.ledger.told[1]["entry"]["error"]["message"] == f"attempt {ATTEMPTS}"


def test_two_jobs_of_one_plan_are_not_built_at_once() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.plans = {"a": "same", "b": "same"}
        held = fleet.hold("a")
        await fleet.put("a", "b", "c")
        async with working(fleet.worker(jobs=3, once=False)):
            await until(
                lambda: "c" in fleet.pushed and fleet.connector.jobs[2]["lock"] == plan_lock(digest_bytes(b"same"))
            )
            await asyncio.sleep(0.1)
            assert "b" not in fleet.pushed and fleet.status(2) == "todo"
            held.set()
            await until(lambda: "b" in fleet.pushed)
            await until(lambda: fleet.status(2) == "succeeded")

    assert run(work).pushed == ["c", "a", "b"]


def test_what_a_dead_worker_left_goes_to_another_until_it_has_cost_too_many() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a")
        for life in range(LIVES):
            dead = await fleet.connector.register_worker_one()
            await fleet.connector.fetch_job_one(queues=[QUEUE], worker_id=dead["worker_id"])
            del fleet.connector.workers[dead["worker_id"]]
            worker = fleet.worker()
            await worker.take_over()
            await worker.take_over()  # somebody else finds nothing more
            assert fleet.status(1) == "todo" and fleet.ledger.told[1]["lost"] == life + 1
        await fleet.worker().run()

    fleet = run(work)
    assert fleet.pushed == [] and fleet.status(1) == "failed"
    assert f"{LIVES} workers ended while they built it" in fleet.ledger.told[1]["entry"]["error"]["message"]


def test_a_worker_that_was_thought_dead_pushes_nothing_and_ends_nothing() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet, name="slow") as (slow, held):
            other = await fleet.connector.register_worker_one()
            fleet.connector.jobs[1]["worker_id"] = other["worker_id"]  # taken over, and being built elsewhere
            held.set()
            await until(lambda: not slow._running)
            await asyncio.sleep(0.05)
            assert fleet.status(1) == "doing" and fleet.pushed == []

    assert "entry" in run(work).ledger.told[1]


def test_an_error_of_a_job_that_was_lost_is_not_written_over_what_another_tells() -> None:
    async def work(fleet: Fleet) -> None:
        def build(asked: Asked, **_: Any) -> Any:
            fleet.connector.jobs[1]["worker_id"] = 99
            raise InvalidModel("no model")

        fleet.build = build  # type: ignore[method-assign]
        await fleet.put("a")
        with suppress(TimeoutError):  # the job stays the other's
            await asyncio.wait_for(fleet.worker().run(), 1)

    assert run(work).ledger.told[1]["entry"] is None


def test_what_a_program_that_was_killed_says_is_no_fault_of_the_model() -> None:
    async def work(fleet: Fleet) -> None:
        begun = threading.Event()

        def build(asked: Asked, *, phases: Any, **_: Any) -> Any:
            begun.set()
            try:
                with phases("build") as progress:
                    while True:
                        progress.note("building")
                        time.sleep(0.005)
            except KeyboardInterrupt:
                raise InvalidModel("killed") from None

        fleet.build = build  # type: ignore[method-assign]
        await fleet.put("a")
        async with working(fleet.worker(once=False)):
            await until(begun.is_set)
        assert fleet.status(1) == "todo" and fleet.ledger.told[1]["entry"] is None

    run(work)


def test_what_a_watch_wants_is_left_to_it_when_it_fails() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.broken = {"a": [RegistryError("away")]}
        await fleet.put("a", watched=True)
        await fleet.worker().run()
        assert fleet.status(1) == "failed"

    fleet = run(work)
    assert [str(each.error) for each in fleet.watched] == ["away"]
    assert not [line for line in fleet.told.lines if "tried again" in line]


def test_a_worker_that_the_others_forgot_begins_anew() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet) as (worker, held):
            fleet.connector.workers.clear()
            await until(lambda: any("silent for too long" in line for line in fleet.told.lines))
            held.set()
            await worker.take_over()
            await until(lambda: fleet.pushed)
            await until(lambda: fleet.status(1) == "succeeded")

    fleet = run(work)
    assert fleet.pushed == ["a"]


def test_a_worker_that_ends_gives_back_what_it_builds() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet) as (_, held):
            begin = time.monotonic()
        assert time.monotonic() - begin < 2 and fleet.status(1) == "todo"
        held.set()
        fleet.due()
        await fleet.worker().run()

    fleet = run(work)
    assert fleet.pushed == ["a"] and fleet.ledger.told[1]["failures"] == 0


def test_a_running_job_is_cancelled() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet, "b") as (worker, _):
            await worker.app.job_manager.cancel_job_by_id_async(1, abort=True)
            await until(lambda: fleet.pushed == ["b"])

    fleet = run(work)
    assert fleet.status(1) == "aborted" and fleet.ledger.told[1]["entry"]["status"] == "stopped"


def test_a_database_that_is_away_costs_no_job() -> None:
    async def work(fleet: Fleet) -> None:
        away = {"left": 0}
        ask = fleet.connector.generic_execute

        async def execute(query: str, suffix: Any, **arguments: Any) -> Any:
            if away["left"] > 0:
                away["left"] -= 1
                raise ConnectorException from psycopg.OperationalError("away")
            return await ask(query, suffix, **arguments)

        fleet.connector.generic_execute = execute  # type: ignore[method-assign]
        async with building(fleet, "b") as (_, held):
            away["left"] = 8
            held.set()
            await until(lambda: fleet.status(1) == "succeeded" and "b" in fleet.pushed)
            await until(lambda: fleet.status(2) == "succeeded")

    fleet = run(work)
    assert fleet.pushed == ["a", "b"]
    assert any("does not answer" in line for line in fleet.told.lines)
    assert any("answers again" in line for line in fleet.told.lines)


def test_what_another_release_put_there_is_refused_once() -> None:
    async def work(fleet: Fleet) -> None:
        app = App(connector=fleet.connector)
        await app.configure_task(TASK, queue=QUEUE).defer_async(format=2, model=MODEL)
        await fleet.worker().run()

    fleet = run(work)
    assert fleet.status(1) == "failed" and "another release" in fleet.ledger.told[1]["entry"]["error"]["message"]


def test_what_a_job_tells_of_its_phases() -> None:
    async def work(fleet: Fleet) -> None:
        held = fleet.hold("a")
        await fleet.put("a")
        async with working(fleet.worker(once=False)):
            await until(lambda: fleet.ledger.told.get(1, {}).get("phase") == "build")
            held.set()
            await until(lambda: fleet.status(1) == "succeeded")

    run(work)


def test_all_that_a_build_tells_is_shown_where_the_worker_runs() -> None:
    shown: list[tuple[Any, ...]] = []

    class Shown:
        def __getattr__(self, name: str) -> Any:
            return lambda *told: shown.append((name, *told))

    def build(asked: Asked, *, run: Any, phases: Any, gates: Any) -> Any:
        with phases("build") as progress:
            progress.note("a note")
            progress.tell("a word")
            progress.count(1, 2, "files")
            progress.made("2 files")
        return built(asked.model)

    async def work(fleet: Fleet) -> None:
        fleet.told.begin = lambda model: lambda phase: nullcontext(Shown())  # type: ignore[method-assign]
        fleet.build = build  # type: ignore[method-assign]
        await fleet.put("a")
        await fleet.worker().run()

    run(work)
    assert shown == [("note", "a note"), ("tell", "a word"), ("count", 1, 2, "files"), ("made", "2 files")]


def test_a_worker_hears_of_new_jobs_of_its_own_queue_alone() -> None:
    async def work(fleet: Fleet) -> None:
        async with working(fleet.worker(once=False)):
            await until(lambda: fleet.connector.notify_channels)

    # As procrastinate's trigger names them, in its schema.sql.
    assert run(work).connector.notify_channels == [f"procrastinate_queue_v1#{QUEUE}"]


def test_where_the_same_image_waits_already_a_job_ends_and_the_others_go_on() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a", "b")
        for number in (1, 2):
            await fleet.leave(number)
        await fleet.put("a")  # as a retry of an older job of it does
        await fleet.worker().take_over()
        assert [fleet.status(number) for number in (1, 2, 3)] == ["failed", "todo", "todo"]
        await fleet.worker().run()

    fleet = run(work)
    assert sorted(fleet.pushed) == ["a", "b"]
    assert fleet.ledger.told[1]["entry"]["error"]["message"] == "the same image waits as another job"


def test_a_job_that_is_to_be_tried_again_ends_where_the_same_image_waits() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet) as (_, held):
            await fleet.put("a")
        assert [fleet.status(1), fleet.status(2)] == ["failed", "todo"]
        held.set()

    assert any("the same image waits as another job" in line for line in run(work).told.lines)


def test_one_job_that_the_database_refuses_to_move_keeps_no_other_waiting() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a", "b")
        for number in (1, 2):
            await fleet.leave(number)
        fleet.ledger.refused = {1}
        await fleet.worker().take_over()
        assert [fleet.status(1), fleet.status(2)] == ["doing", "todo"]

    assert any("job 1 is not taken over: refused" in line for line in run(work).told.lines)


def test_words_that_no_database_takes_are_written_out(caplog: pytest.LogCaptureFixture) -> None:
    """As a broken model's error has them."""
    # procrastinate logs the error, and what a test logs has to be UTF-8 for a report to be sent.
    caplog.set_level(logging.CRITICAL, logger="procrastinate")

    async def work(fleet: Fleet) -> None:
        fleet.broken = {"a": [InvalidModel("NUL \0, lone \ud800, bell \a")]}
        await fleet.put("a")
        await fleet.worker().run()

    fleet = run(work)
    assert fleet.status(1) == "failed"
    assert fleet.ledger.told[1]["entry"]["error"]["message"] == r"NUL \x00, lone \ud800, bell \x07"


def test_each_thing_that_the_database_refuses_is_named() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a")
        manager = fleet.worker()._manager
        number = await manager.register_worker()
        job = await manager.fetch_job([QUEUE], number)
        assert job is not None and fleet.told.lines == []
        fleet.cut(psycopg.errors.CheckViolation("odd"))
        with pytest.raises(QueueUnavailable) as caught:
            await manager.fetch_job([QUEUE], number)
        assert caught.value.message == "the queue gives no job: odd"
        await manager.finish_job(job, Status.SUCCEEDED, delete_job=False)
        fleet.cut(psycopg.OperationalError("gone"))
        assert await manager.fetch_job([QUEUE], number) is None
        assert fleet.told.lines == [
            f"the end of job {job.id} is not written: the queue refuses: odd", "the queue does not answer: gone",
        ]  # fmt: skip

    run(work)


def test_what_the_database_refuses_is_said_and_not_asked_for_ever() -> None:
    async def work(fleet: Fleet) -> None:
        held = fleet.hold("a")
        await fleet.put("a")
        task = asyncio.create_task(fleet.worker(once=False).run())
        await until(lambda: fleet.begun)
        fleet.cut(psycopg.errors.InsufficientPrivilege("permission denied for bob"))
        held.set()
        with pytest.raises(QueueUnavailable, match="permission denied for bob"):
            await task

    assert not any("does not answer" in line for line in run(work).told.lines)


def test_a_database_that_was_away_for_long_costs_no_worker_its_job() -> None:
    """Whoever is back first finds all others silent for longer than their lease, and itself."""

    async def work(fleet: Fleet) -> None:
        beat = Beat(every=0.05, lease=0.3)
        async with building(fleet, name="slow", beat=beat) as (_, held):
            fleet.cut(psycopg.OperationalError("away"))
            await asyncio.sleep(0.5)
            fleet.cut(None)
            async with working(fleet.worker("early", once=False, beat=beat)):
                await asyncio.sleep(0.5)
                assert fleet.begun == ["a"]
                held.set()
                await until(lambda: fleet.status(1) == "succeeded")

    fleet = run(work)
    assert fleet.pushed == ["a"] and fleet.ledger.told[1]["lost"] == 0


def test_a_worker_takes_over_no_job_of_its_own() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet) as (worker, held):
            (own,) = fleet.connector.jobs.values()

            async def stalled(**_: Any) -> list[Any]:
                return [own]  # its heartbeats came late

            fleet.connector.select_stalled_jobs_by_heartbeat_all = stalled  # type: ignore[method-assign, assignment]
            await worker.take_over()
            assert fleet.status(1) == "doing"
            held.set()
            await until(lambda: fleet.status(1) == "succeeded")

    assert run(work).pushed == ["a"]


def test_an_attempt_that_was_lost_is_not_ended_by_who_has_the_next_one() -> None:
    async def work(fleet: Fleet) -> None:
        async with building(fleet) as (worker, held):
            fleet.connector.jobs[1]["attempts"] += 1  # lost, and fetched again by the same worker
            held.set()
            await until(lambda: not worker._running)
            await asyncio.sleep(0.05)
            assert fleet.status(1) == "doing" and fleet.pushed == []

    run(work)


def test_only_who_heard_the_database_for_a_lease_judges_the_others() -> None:
    now = [0.0]
    pulse = Pulse(lease=30.0, clock=lambda: now[0])
    steady = []
    for second in range(0, 200, 5):
        now[0] = float(second)
        if second == 60:
            pulse.miss()
        elif second < 100 or second >= 120:  # nobody is told of the silence in between
            pulse.beat()
        steady.append(pulse.is_steady())
    turns = [5 * at for at, value in enumerate(steady) if at and value != steady[at - 1]]
    assert turns == [30, 60, 95, 115, 150]


@pytest.mark.parametrize(("silence", "steady"), [(14.0, True), (15.0, True), (16.0, False)])
def test_a_silence_of_more_than_half_a_lease_is_a_break(silence: float, steady: bool) -> None:
    now = [0.0]
    pulse = Pulse(lease=30.0, clock=lambda: now[0])
    for now[0] in (0.0, 10.0, 20.0, 20.0 + silence):
        pulse.beat()
    assert pulse.is_steady() is steady
    now[0] += silence
    assert pulse.is_steady() is steady


def test_who_just_came_back_judges_nobody() -> None:
    """It heard nothing of the others while it was away, and they may have been silent for the same reason."""

    async def work(fleet: Fleet) -> None:
        now = [0.0]
        manager = fleet.worker(once=False)._manager
        manager.pulse = pulse = Pulse(lease=30.0, clock=lambda: now[0])
        for second in range(0, 60, 5):
            now[0] = float(second)
            pulse.beat()
        assert pulse.is_steady()
        await manager.register_worker()
        assert not pulse.is_steady()

    run(work)


def test_the_others_are_told_for_how_long_a_worker_may_be_silent() -> None:
    async def work(fleet: Fleet) -> None:
        manager = fleet.worker(beat=Beat(every=0.02, lease=12.5))._manager
        assert fleet.ledger.leases == {await manager.register_worker(): 12.5}

    run(work)


def test_each_heartbeat_that_is_answered_counts_and_one_that_is_not_ends_the_row() -> None:
    async def work(fleet: Fleet) -> None:
        now = [0.0]
        manager = fleet.worker(once=False)._manager
        worker = await manager.register_worker()
        manager.pulse = Pulse(lease=30.0, clock=lambda: now[0])
        for second in range(0, 65, 5):
            now[0] = float(second)
            await manager.update_heartbeat(worker)
        assert manager.pulse.is_steady()
        with pytest.MonkeyPatch.context() as patch:

            async def away(worker_id: int) -> None:
                raise ConnectorException from psycopg.OperationalError("gone")

            patch.setattr(fleet.connector, "update_heartbeat_run", away)
            await manager.update_heartbeat(worker)
        assert not manager.pulse.is_steady()

    run(work)


def test_who_builds_but_what_waits_takes_over_at_once_where_the_database_was_there() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a")
        await fleet.leave(1)
        fleet.ledger.up = False
        await fleet.worker().run()
        assert fleet.status(1) == "doing"
        fleet.ledger.up = True
        await fleet.worker().run()

    assert run(work).pushed == ["a"]


def test_a_watch_hears_of_every_end() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.hold("cancelled")
        fleet.broken = {"defect": [KeyError("x")], "stays": [InvalidModel("no model")]}
        await fleet.put("done", "defect", "stays", watched=True)
        app = App(connector=fleet.connector)
        await app.configure_task(TASK, queue=QUEUE).defer_async(format=2, model=MODEL, watched=True)
        await fleet.put("cancelled", "given back", watched=True)
        await fleet.put("not watched")
        async with working(fleet.worker(once=False)) as worker:
            await until(lambda: "cancelled" in fleet.begun)
            await worker.app.job_manager.cancel_job_by_id_async(5, abort=True)
            await until(lambda: fleet.status(5) == "aborted" and fleet.status(7) == "succeeded")
        for _ in range(LIVES):
            await fleet.put("poison", watched=True) if 8 not in fleet.connector.jobs else None
            await fleet.leave(8)
            await fleet.worker().take_over()
        await fleet.worker().run()

    fleet = run(work)
    ends = [each.error.message if each.error else "built" if each.result else "cancelled" for each in fleet.watched]
    told = ["built", "KeyError: 'x'", "no model", "another release", "cancelled", "built", "workers ended"]
    assert len(ends) == len(told) and all(word in end for word, end in zip(told, ends, strict=True)), ends


@pytest.mark.slow
def test_who_is_told_to_end_while_the_database_is_away_ends(caplog: pytest.LogCaptureFixture) -> None:
    """And asyncio has nothing to say of it."""

    async def work(fleet: Fleet) -> None:
        async with building(fleet):
            fleet.cut(psycopg.OperationalError("away"))
            await asyncio.sleep(0.05)
        assert fleet.status(1) == "doing"

    fleet = run(work)
    gc.collect()
    assert [each for each in caplog.records if each.name == "asyncio"] == []
    assert any("does not answer" in line for line in fleet.told.lines)


def test_a_cancelled_job_whose_worker_died_is_cancelled() -> None:
    async def work(fleet: Fleet) -> None:
        await fleet.put("a")
        await fleet.leave(1)
        app = App(connector=fleet.connector)
        await app.job_manager.cancel_job_by_id_async(1, abort=True)
        await fleet.worker().take_over()
        assert fleet.status(1) == "aborted"

    run(work)


def test_a_job_that_the_database_does_not_take_back_stays_as_one_that_failed() -> None:
    async def refuse(job: Job, **_: Any) -> bool:
        raise ConnectorException from psycopg.errors.CheckViolation("no such state")

    async def work(fleet: Fleet) -> None:
        fleet.broken = {"a": [RegistryError("away")]}
        fleet.ledger.give_back = refuse  # type: ignore[method-assign]
        await fleet.put("a")
        await fleet.worker().run()

    fleet = run(work)
    assert fleet.status(1) == "failed", "whoever asks what became of it finds it"
    assert any(line.startswith("job 1 is not tried again: ") for line in fleet.told.lines), fleet.told.lines


def test_others_are_judged_by_the_lease_and_not_by_one_heartbeat() -> None:
    worker = Fleet().worker(beat=Beat(every=5.0, lease=30.0))
    assert worker._manager.pulse.lease == 30.0
