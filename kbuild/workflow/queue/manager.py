"""procrastinate's job manager for a worker that outlives its database for a while.

As procrastinate 3 has it, a worker ends when the database is away at the wrong moment, and a job whose end could not be
written stays "doing" for as long as its worker lives. And it lets a worker that was thought dead end a job that is
another's by now.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import psycopg
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, NotificationCallback

from kbuild.errors import QueueUnavailable
from kbuild.workflow.queue.database import is_away, reason_of
from kbuild.workflow.queue.ledger import Ledger
from kbuild.workflow.queue.pulse import Pulse

_Value = TypeVar("_Value")
_PAUSE, _LONGEST = 0.5, 5.0  # seconds between two attempts
_LAST = 2.0  # seconds for the database to answer a worker that ends


class SteadyManager(JobManager):
    """``tell`` hears of a database that is away, and with None of one that is back; ``complain`` of what it refuses.
    ``conceal`` takes user and password out of its words. Once ``ending`` nobody waits for it: what could not be written
    is found out by the others."""

    def __init__(
        self,
        connector: BaseConnector,
        ledger: Ledger,
        tell: Callable[[str | None], None],
        *,
        complain: Callable[[str], None],
        conceal: Callable[[str], str],
        pulse: Pulse,
    ) -> None:
        super().__init__(connector)
        self._ledger, self._tell, self._complain, self._conceal = ledger, tell, complain, conceal
        self.pulse = pulse
        self.worker_id: int | None = None
        self.ending = False

    async def until_answered(
        self, ask: Callable[[], Awaitable[_Value]], *, stop: Callable[[], bool] = lambda: False
    ) -> _Value:
        """Ask until the database answers, or somebody wants it stopped; then it raises ConnectorException.

        Raises QueueUnavailable for what the database refuses: it would refuse that again.
        """
        pause = _PAUSE
        while True:
            try:
                answer = await self._in_time(ask())
            except ConnectorException as error:
                if not is_away(error):
                    self._tell(None)
                    raise QueueUnavailable(f"the queue refuses: {self.reason(error)}") from error
                self._trouble(error)
                if self.ending or stop():
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            else:
                self._tell(None)
                return answer

    async def _in_time(self, asked: Awaitable[_Value]) -> _Value:
        """Who ends is killed by somebody soon, and the pool of connections waits for longer."""
        try:
            async with asyncio.timeout(_LAST if self.ending else None):
                return await asked
        except TimeoutError:
            raise ConnectorException from psycopg.OperationalError(f"no answer in {_LAST:g} s")

    def _trouble(self, error: ConnectorException) -> None:
        self._tell(f"{'does not answer' if is_away(error) else 'refuses'}: {self.reason(error)}")

    def reason(self, error: ConnectorException) -> str:
        """The database's words, in a line."""
        return self._conceal(reason_of(error))

    async def register_worker(self) -> int:
        """See JobManager."""
        known = int(await self.until_answered(super().register_worker))
        await self.until_answered(lambda: self._ledger.register(known, self.pulse.lease))
        self.pulse.miss()
        self.worker_id = known
        return known

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        """None: procrastinate asks for it first of all, when all may be silent because the database was away."""
        return []

    async def forget_stalled_workers(self) -> None:
        """Forget those that were silent for a lease; one that lives begins anew when it finds that out."""
        await super().prune_stalled_workers(self.pulse.lease)

    async def unregister_worker(self, worker_id: int) -> None:
        """See JobManager. Where nobody answers the others find out by themselves."""
        try:
            await self._in_time(super().unregister_worker(worker_id))
        except ConnectorException as error:
            self._trouble(error)

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """See JobManager; none while the database is away. Raises QueueUnavailable for what it refuses."""
        try:
            job = await super().fetch_job(queues, worker_id)
        except UniqueViolation:
            return None  # another has got one of the same lock at this moment
        except ConnectorException as error:
            if not is_away(error):
                raise QueueUnavailable(f"the queue gives no job: {self.reason(error)}") from error
            self._trouble(error)
            return None
        self._tell(None)
        return job

    async def update_heartbeat(self, worker_id: int) -> None:
        """See JobManager."""
        try:
            await super().update_heartbeat(worker_id)
        except ConnectorException as error:
            self.pulse.miss()
            self._trouble(error)
        else:
            self.pulse.beat()

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """See JobManager. Where that is refused jobs are looked for now and then, as they are besides."""
        try:
            await self.until_answered(
                lambda: super(SteadyManager, self).listen_for_jobs(on_notification=on_notification, queues=queues)
            )
        except QueueUnavailable as error:
            self._complain(f"new jobs are not heard of, but looked for: {error.message}")

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """See JobManager; of a job that is another worker's by now nothing is written."""

        async def finish() -> None:
            if await self._ledger.owns(job):
                await super(SteadyManager, self).finish_job(job, status, delete_job)

        try:
            await self.until_answered(finish)
        except QueueUnavailable as error:
            self._complain(f"the end of job {job.id} is not written: {error.message}")
        except ConnectorException:
            pass  # this worker ends, the others find out

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """See JobManager; of a job that is another worker's by now nothing is written, and where the same image waits
        already this one ends."""
        try:
            waits = await self.until_answered(lambda: self._ledger.give_back(job, at=retry_at, lock=lock))
        except QueueUnavailable as error:
            self._complain(f"job {job.id} is not tried again: {error.message}")
            await self.finish_job(job, Status.FAILED, delete_job=False)
        except ConnectorException:
            pass  # this worker ends, the others find out
        else:
            if not waits:
                self._complain(f"job {job.id} ends: the same image waits as another job")
