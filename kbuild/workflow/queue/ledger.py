"""What procrastinate does not keep of a job: who builds it, how far that is, and what came of it.

Tables of our own beside procrastinate's: a row for each job, and for each worker; what is deleted there takes its row
along. Statements that change a job name the attempt that they are of: a worker may get a job again that it has lost.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from procrastinate import App
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import Job

from kbuild.errors import BuildFailed

SCHEMA = """
CREATE TABLE IF NOT EXISTS kbuild_builds (
    job_id bigint PRIMARY KEY REFERENCES procrastinate_jobs (id) ON DELETE CASCADE,
    worker text,
    phase text,
    note text,
    begun timestamptz,
    ended timestamptz,
    failures integer NOT NULL DEFAULT 0,
    lost integer NOT NULL DEFAULT 0,
    entry jsonb
);
CREATE TABLE IF NOT EXISTS kbuild_workers (
    worker_id bigint PRIMARY KEY REFERENCES procrastinate_workers (id) ON DELETE CASCADE,
    lease double precision NOT NULL
)
"""
TABLES = ("kbuild_builds", "kbuild_workers")
_BEGIN = """
INSERT INTO kbuild_builds AS told (job_id, worker, begun) VALUES (%(job)s, %(worker)s, now())
ON CONFLICT (job_id) DO UPDATE
    SET worker = excluded.worker, begun = now(), ended = NULL, phase = NULL, note = NULL
RETURNING failures, lost
"""
_NOTE = "UPDATE kbuild_builds SET phase = %(phase)s, note = %(note)s WHERE job_id = %(job)s"
_END = """
UPDATE kbuild_builds
SET ended = now(), phase = NULL, note = NULL, entry = %(entry)s, failures = failures + %(failed)s
WHERE job_id = %(job)s
"""
_ATTEMPT = """
id = %(job)s AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %(worker)s AND attempts = %(attempt)s
"""
_OWNS = f"SELECT count(*) AS owned FROM procrastinate_jobs WHERE {_ATTEMPT}"  # noqa: S608  parts of our own, here and below
_CLAIM = f"UPDATE procrastinate_jobs SET lock = %(lock)s WHERE {_ATTEMPT} RETURNING id"  # noqa: S608
# procrastinate's own function has a job fail that is being cancelled.
_AGAIN = """
SET status = (CASE WHEN abort_requested THEN 'aborted' ELSE 'todo' END)::procrastinate_job_status,
    abort_requested = false, attempts = attempts + 1
"""
_GIVE_BACK = f"""
UPDATE procrastinate_jobs {_AGAIN}, scheduled_at = %(at)s::timestamptz, lock = coalesce(%(lock)s::text, lock)
WHERE {_ATTEMPT}
"""
# In one statement: of several that find it stalled, one takes it over, and none when it has a new worker already.
_TAKE_OVER = f"""
WITH mine AS (
    SELECT id FROM procrastinate_jobs WHERE {_ATTEMPT} FOR UPDATE SKIP LOCKED
), told AS (
    INSERT INTO kbuild_builds AS told (job_id, lost) SELECT id, 1 FROM mine
    ON CONFLICT (job_id) DO UPDATE SET lost = told.lost + 1
    RETURNING job_id, worker
), job AS (
    UPDATE procrastinate_jobs {_AGAIN}, scheduled_at = NULL WHERE id IN (SELECT id FROM mine)
    RETURNING id, status::text AS status
)
SELECT told.worker, job.status FROM told JOIN job ON job.id = told.job_id
"""  # noqa: S608
_YIELD = f"""
WITH job AS (
    UPDATE procrastinate_jobs SET status = 'failed', abort_requested = false, attempts = attempts + 1 WHERE {_ATTEMPT}
    RETURNING id
)
INSERT INTO kbuild_builds AS told (job_id, ended, entry) SELECT id, now(), %(entry)s FROM job
ON CONFLICT (job_id) DO UPDATE SET ended = now(), phase = NULL, note = NULL, entry = excluded.entry
RETURNING worker
"""  # noqa: S608
_REGISTER = """
INSERT INTO kbuild_workers (worker_id, lease) VALUES (%(worker)s, %(lease)s) ON CONFLICT (worker_id) DO NOTHING
"""
_REGISTERED = "SELECT count(*) AS known FROM procrastinate_workers WHERE id = %(worker)s"
_UP_FOR = "SELECT pg_postmaster_start_time() < now() - make_interval(secs => %(seconds)s) AS up"


class Taken(NamedTuple):
    """A job that lost its worker: that one's name, and what the job is now, in procrastinate's word."""

    worker: str
    status: str


class Ledger(Protocol):
    """Safe to be asked again: what has no answer because the database is away raises ConnectorException."""

    async def begin(self, job: Job, worker: str) -> tuple[int, int]:
        """A worker begins: how often the job has failed, and how often its worker was lost."""

    async def note(self, job: Job, phase: str, note: str) -> None:
        """How far it is."""

    async def end(self, job: Job, entry: Mapping[str, Any], *, failed: bool) -> None:
        """What came of it: the entry of a report."""

    async def owns(self, job: Job) -> bool:
        """Whether the job is still that worker's which fetched it."""

    async def claim(self, job: Job, lock: str) -> bool | None:
        """Take another lock in the place of the job's own; False where a running job has it, None if it is not ours."""

    async def give_back(self, job: Job, *, at: datetime.datetime | None, lock: str | None) -> bool:
        """Have a job wait for its next attempt, under another lock if one is given; one that is being cancelled ends.

        False where the same image waits as another job: this one has failed then.
        """

    async def take_over(self, job: Job) -> Taken | None:
        """Have a stalled job done by another, or end it as ``give_back`` does; None where somebody else did it."""

    async def register(self, worker_id: int, lease: float) -> None:
        """How many seconds a worker may be silent."""

    async def up_for(self, seconds: float) -> bool:
        """Whether the database was started at least so long ago."""

    async def knows(self, worker_id: int) -> bool:
        """Whether the worker is registered; who was silent for long is not."""


class PostgresLedger:
    """The ``Ledger`` in the database of the jobs."""

    def __init__(self, app: App) -> None:
        self._connector = app.connector

    async def begin(self, job: Job, worker: str) -> tuple[int, int]:
        """See Ledger."""
        row = await self._connector.execute_query_one_async(_BEGIN, job=job.id, worker=worker)
        return row["failures"], row["lost"]

    async def note(self, job: Job, phase: str, note: str) -> None:
        """See Ledger."""
        await self._connector.execute_query_async(_NOTE, job=job.id, phase=phase, note=note)

    async def end(self, job: Job, entry: Mapping[str, Any], *, failed: bool) -> None:
        """See Ledger."""
        await self._connector.execute_query_async(_END, job=job.id, entry=dict(entry), failed=int(failed))

    async def owns(self, job: Job) -> bool:
        """See Ledger."""
        row = await self._connector.execute_query_one_async(_OWNS, **_attempt(job))
        return bool(row["owned"])

    async def claim(self, job: Job, lock: str) -> bool | None:
        """See Ledger."""
        try:
            rows = await self._connector.execute_query_all_async(_CLAIM, lock=lock, **_attempt(job))
        except UniqueViolation:  # procrastinate's index of the locks of running jobs
            return False
        return True if rows else None

    async def give_back(self, job: Job, *, at: datetime.datetime | None, lock: str | None) -> bool:
        """See Ledger."""
        try:
            await self._connector.execute_query_async(_GIVE_BACK, at=at, lock=lock, **_attempt(job))
        except UniqueViolation:  # procrastinate's index of what waits
            await self._yield(job)
            return False
        return True

    async def take_over(self, job: Job) -> Taken | None:
        """See Ledger."""
        try:
            rows = await self._connector.execute_query_all_async(_TAKE_OVER, **_attempt(job))
        except UniqueViolation:
            rows = [{**row, "status": "failed"} for row in await self._yield(job)]
        return Taken(rows[0]["worker"] or "a worker", rows[0]["status"]) if rows else None

    async def register(self, worker_id: int, lease: float) -> None:
        """See Ledger."""
        await self._connector.execute_query_async(_REGISTER, worker=worker_id, lease=lease)

    async def up_for(self, seconds: float) -> bool:
        """See Ledger."""
        return bool((await self._connector.execute_query_one_async(_UP_FOR, seconds=seconds))["up"])

    async def knows(self, worker_id: int) -> bool:
        """See Ledger."""
        row = await self._connector.execute_query_one_async(_REGISTERED, worker=worker_id)
        return bool(row["known"])

    async def _yield(self, job: Job) -> list[dict[str, Any]]:
        return list(await self._connector.execute_query_all_async(_YIELD, entry=yielded(job), **_attempt(job)))


def yielded(job: Job) -> dict[str, Any]:
    """The entry of a job that ended because the same image waits as another one."""
    error = {"message": "the same image waits as another job", "hint": None, "exit_code": BuildFailed.exit_code}
    return {"model": str(job.task_kwargs.get("model")), "seconds": 0.0, "status": "failed", "error": error}


def _attempt(job: Job) -> dict[str, Any]:
    return {"job": job.id, "worker": job.worker_id, "attempt": job.attempts}
