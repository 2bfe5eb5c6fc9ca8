"""A worker: takes jobs from a queue and builds their images, until it is told to end.

procrastinate gives out the jobs and hears their ends. What is built runs in threads, so that the worker's heart beats
meanwhile: who is silent for long loses its jobs to others, and finds that out before it pushes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from procrastinate import App, JobContext
from procrastinate.exceptions import ConnectorException, JobAborted
from procrastinate.job_context import AbortReason

from kbuild.errors import BuildFailed, KbuildError
from kbuild.progress import Teller
from kbuild.workflow.fleet.report import make_entry
from kbuild.workflow.many import Outcome, Watcher
from kbuild.workflow.queue.asked import Asked, printable
from kbuild.workflow.queue.database import QUEUE, TASK, is_away
from kbuild.workflow.queue.ledger import Ledger
from kbuild.workflow.queue.manager import SteadyManager
from kbuild.workflow.queue.pulse import Pulse
from kbuild.workflow.queue.retries import LIVES, Again, GivenBack, Lost, PlanTaken, TryAgain, pause_after
from kbuild.workflow.queue.running import Build, Running

# What becomes of a job whose worker is gone, by procrastinate's word for it.
_THEN = {
    "todo": "goes to another worker",
    "aborted": "was being cancelled, and is",
    "failed": "ends: the same image waits as another job",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """Seconds: a worker says so often that it lives, and one that was silent for its lease is taken for dead."""

    every: float
    lease: float


@dataclass(kw_only=True)
class Worker:
    """``jobs`` at a time; ``name`` is shown to others. With ``once`` it ends when no job waits.

    ``end_watched`` hears, in a thread, of a watched job's end whatever it is; neither result nor error is a cancelled
    one's. ``conceal`` takes user and password out of the database's words.
    """

    app: App
    ledger: Ledger
    build: Build
    watcher: Watcher
    teller: Teller
    name: str
    jobs: int
    once: bool
    beat: Beat
    end_watched: Callable[[Mapping[str, Any], Outcome], None]
    conceal: Callable[[str], str]
    _running: dict[int, Running] = field(default_factory=dict)
    _working: asyncio.Task[None] | None = None
    _ending: bool = False
    _problem: str | None = None

    def __post_init__(self) -> None:
        self._manager = SteadyManager(
            self.app.connector, self.ledger, self._tell,
            complain=self.teller.complain, conceal=self.conceal, pulse=Pulse(lease=self.beat.lease),
        )  # fmt: skip
        self.app.job_manager = self._manager
        self._pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="job")
        self.app.task(name=TASK, queue=QUEUE, pass_context=True, retry=Again())(self._do)

    async def run(self) -> None:
        """Work until told to end by a signal or ``end``; what is being built then goes to another worker at once."""
        async with self.app.open_async():
            if self.once and await self._manager.until_answered(lambda: self.ledger.up_for(self.beat.lease)):
                # It may not live long enough to know whether the others are silent by themselves.
                await self.take_over()
            while not self._ending:
                self._working = working = asyncio.create_task(self._work(), name="worker")
                keeping = asyncio.create_task(self._keep(), name="keeper")
                with self._ending_at_signals():
                    await asyncio.wait([working, keeping], return_when=asyncio.FIRST_COMPLETED)
                    if working.done():
                        await _cancel(keeping)
                        if not working.cancelled():
                            # While it ends nobody waits for a database that is away.
                            with contextlib.suppress(*((ConnectorException,) if self._ending else ())):
                                working.result()
                        return
                    # Forgotten by the others while the database or this machine was away: everything anew.
                    self._stop_running()
                    await _cancel(working)
                    keeping.result()

    def end(self) -> None:
        """Give back what is being built, and take nothing more."""
        self._ending = self._manager.ending = True
        self._stop_running()
        if self._working is not None:
            self._working.cancel()

    async def _work(self) -> None:
        await self.app.run_worker_async(
            queues=[QUEUE],
            name=self.name,
            concurrency=self.jobs,
            wait=not self.once,
            install_signal_handlers=False,
            update_heartbeat_interval=self.beat.every,
            stalled_worker_timeout=self.beat.lease,
            fetch_job_polling_interval=self.beat.every,
            abort_job_polling_interval=self.beat.every,
        )

    async def _keep(self) -> None:
        """Take over what workers have left that died; returns where this one is taken for dead itself."""
        while True:
            with contextlib.suppress(ConnectorException):  # told by who asks for jobs
                worker_id = self._manager.worker_id
                if worker_id is not None and not await self.ledger.knows(worker_id):
                    self.teller.complain("this worker was silent for too long; what it was building is another's now")
                    self._manager.worker_id = None
                    return
                if self._manager.pulse.is_steady():
                    await self.take_over()
            await asyncio.sleep(self.beat.every)

    async def take_over(self) -> None:
        """Have others do what lost its worker, and forget that one. Raises ConnectorException."""
        stalled = await self._manager.get_stalled_jobs(
            queue=QUEUE, task_name=TASK, seconds_since_heartbeat=self.beat.lease
        )
        for job in stalled:
            if job.worker_id is not None and job.worker_id == self._manager.worker_id:
                continue  # this worker lives
            try:
                taken = await self.ledger.take_over(job)
            except ConnectorException as error:
                if is_away(error):
                    raise
                self.teller.complain(f"job {job.id} is not taken over: {self._manager.reason(error)}")
                continue
            if taken is not None:
                self.teller.say(f"{taken.worker} is gone: job {job.id} {_THEN[taken.status]}", style="yellow")
        await self._manager.forget_stalled_workers()

    async def _do(self, context: JobContext, /, **stated: Any) -> None:
        try:
            await self._attempt(context, stated)
        except ConnectorException as error:  # the database is away, and this worker ends
            raise GivenBack from error

    async def _attempt(self, context: JobContext, stated: Mapping[str, Any]) -> None:
        job = context.job
        failures, lost = await self._manager.until_answered(lambda: self.ledger.begin(job, printable(self.name)))
        try:
            asked = Asked.from_json(stated)
            if lost >= LIVES:
                raise BuildFailed(
                    f"{lost} workers ended while they built it", hint="it may need more memory than they have"
                )
        except KbuildError as error:
            outcome = Outcome(model=str(stated.get("model")), error=error)
            await self._end(context, stated, outcome)
            raise
        running = Running(
            job=job,
            asked=asked,
            loop=asyncio.get_running_loop(),
            ledger=self.ledger,
            manager=self._manager,
            shown=self.watcher.begin(asked.model),
        )
        found = await self._build(running)
        if not isinstance(found, Outcome):
            raise found
        if found.error is None and found.result is None and context.abort_reason() is not AbortReason.USER_REQUEST:
            raise GivenBack
        await self._end(context, stated, found, running.told)
        if found.error is not None:
            # Who watches a registry tries its versions again itself, and tells when.
            pause = None if asked.watched else pause_after(found.error, failures + 1)
            if pause is None:
                raise found.error
            self.teller.say(f"job {job.id} is tried again in {pause:g} s")
            raise TryAgain(pause) from found.error
        if found.result is None:
            raise JobAborted

    async def _build(self, running: Running) -> Outcome | PlanTaken | Lost:
        key = id(running)
        self._running[key] = running
        noting = asyncio.create_task(self._note(running))
        if self._ending:
            running.stop()
        built = asyncio.get_running_loop().run_in_executor(self._pool, running.build, self.build)
        try:
            while True:
                try:
                    return await asyncio.shield(built)
                except asyncio.CancelledError:
                    running.stop()  # cancelled by somebody; the thread ends at its next word
        finally:
            del self._running[key]
            await _cancel(noting)

    async def _note(self, running: Running) -> None:
        told = ("", "")
        while True:
            await asyncio.sleep(1)
            if running.latest != told:
                told = running.latest
                with contextlib.suppress(ConnectorException):
                    await self.ledger.note(running.job, *map(printable, told))

    async def _end(
        self,
        context: JobContext,
        stated: Mapping[str, Any],
        outcome: Outcome,
        told: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if stated.get("watched") is True:
            await asyncio.get_running_loop().run_in_executor(self._pool, self.end_watched, stated, outcome)
        entry = printable({**make_entry(outcome), **told})
        failed = outcome.error is not None

        async def write() -> None:
            if await self.ledger.owns(context.job):
                await self.ledger.end(context.job, entry, failed=failed)

        await self._manager.until_answered(write)
        self.watcher.end(outcome)

    def _stop_running(self) -> None:
        for each in list(self._running.values()):
            each.stop()

    @contextmanager
    def _ending_at_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def end() -> None:
            self.teller.say("ending; what is being built goes to another worker" if self._running else "ending")
            self.end()

        try:
            for number in _SIGNALS:
                loop.add_signal_handler(number, end)
        except (ValueError, RuntimeError):
            pass  # not in the main thread: whoever started it ends it
        try:
            yield
        finally:
            for number in _SIGNALS:
                with contextlib.suppress(ValueError, RuntimeError):
                    loop.remove_signal_handler(number)

    def _tell(self, problem: str | None) -> None:
        """Say that the database is away, or is back, once."""
        if problem is not None and self._problem is None:
            self.teller.complain(f"the queue {problem}")
        if problem is None and self._problem is not None:
            self.teller.say("the queue answers again")
        self._problem = problem


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
