"""procrastinate's job manager for a worker that outlives its database for a while.

As procrastinate 3 has it, a worker ends when the database is away at the wrong moment, and a job whose end could not be
written stays "doing" for as long as its worker lives. And it lets a worker that was thought dead end a job that is
another's by now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager, NotificationCallback

from kbuild.workflow.queue.ledger import Ledger

_Value = TypeVar("_Value")
_PAUSE, _LONGEST = 0.5, 5.0  # seconds between two attempts


class SteadyManager(JobManager):
    """``tell`` hears of a database that is away, and with None of one that is back. Once ``ending`` nobody waits for
    it: what could not be written is found out by the others."""

    def __init__(self, connector: BaseConnector, ledger: Ledger, tell: Callable[[str | None], None]) -> None:
        super().__init__(connector)
        self._ledger, self._tell = ledger, tell
        self.worker_id: int | None = None
        self.ending = False

    async def until_answered(
        self, ask: Callable[[], Awaitable[_Value]], *, stop: Callable[[], bool] = lambda: False
    ) -> _Value:
        """Ask until the database answers, or somebody wants it stopped; then it raises what asking did."""
        pause = _PAUSE
        while True:
            try:
                answer = await ask()
            except ConnectorException as error:
                self._tell(_reason(error))
                if self.ending or stop():
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            else:
                self._tell(None)
                return answer

    async def register_worker(self) -> int:
        """See JobManager."""
        self.worker_id = known = int(await self.until_answered(super().register_worker))
        return known

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        """See JobManager."""
        found: list[int] = await self.until_answered(lambda: super(SteadyManager, self).prune_stalled_workers(
            seconds_since_heartbeat
        ))  # fmt: skip
        return found

    async def unregister_worker(self, worker_id: int) -> None:
        """See JobManager. Where nobody answers the others find out by themselves."""
        try:
            await super().unregister_worker(worker_id)
        except ConnectorException as error:
            self._tell(_reason(error))

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """See JobManager; none while the database is away."""
        try:
            job = await super().fetch_job(queues, worker_id)
        except ConnectorException as error:
            self._tell(_reason(error))
            return None
        self._tell(None)
        return job

    async def update_heartbeat(self, worker_id: int) -> None:
        """See JobManager."""
        try:
            await super().update_heartbeat(worker_id)
        except ConnectorException as error:
            self._tell(_reason(error))

    async def listen_for_jobs(
        self, *, on_notification: NotificationCallback, queues: Iterable[str] | None = None
    ) -> None:
        """See JobManager."""
        await self.until_answered(
            lambda: super(SteadyManager, self).listen_for_jobs(on_notification=on_notification, queues=queues)
        )

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """See JobManager; of a job that is another worker's by now nothing is written."""
        await self._write(job, lambda: super(SteadyManager, self).finish_job(job, status, delete_job))

    async def retry_job(self, job: Job, *args: Any, **options: Any) -> None:
        """See JobManager; of a job that is another worker's by now nothing is written."""
        await self._write(job, lambda: super(SteadyManager, self).retry_job(job, *args, **options))

    async def _write(self, job: Job, write: Callable[[], Awaitable[None]]) -> None:
        async def once() -> None:
            if await self._ledger.owns(job):
                await write()

        await self.until_answered(once)


def _reason(error: ConnectorException) -> str:
    return " ".join(str(error.__cause__ or error).split())
