"""What procrastinate does not keep of a job: who builds it, how far that is, and what came of it.

A table of our own beside procrastinate's, one row a job; a job that is deleted takes its row along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from procrastinate import App
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import Job

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
)
"""
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
_OWNS = """
SELECT count(*) AS owned FROM procrastinate_jobs
WHERE id = %(job)s AND status = 'doing' AND worker_id = %(worker)s
"""
_CLAIM = """
UPDATE procrastinate_jobs SET lock = %(lock)s WHERE id = %(job)s AND status = 'doing' AND worker_id = %(worker)s
RETURNING id
"""
# In one statement: of several that find it stalled, one takes it over, and none when it has a new worker already.
_TAKE_OVER = """
WITH mine AS (
    SELECT id FROM procrastinate_jobs
    WHERE id = %(job)s AND status = 'doing' AND worker_id IS NOT DISTINCT FROM %(worker)s
    FOR UPDATE SKIP LOCKED
), told AS (
    INSERT INTO kbuild_builds AS told (job_id, lost) SELECT id, 1 FROM mine
    ON CONFLICT (job_id) DO UPDATE SET lost = told.lost + 1
    RETURNING job_id, worker
)
SELECT worker, procrastinate_retry_job_v2(job_id, now(), NULL, NULL, NULL) FROM told
"""
_REGISTERED = "SELECT count(*) AS known FROM procrastinate_workers WHERE id = %(worker)s"


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

    async def take_over(self, job: Job) -> str | None:
        """Have a stalled job done by another; the name of the worker that was lost, None where somebody else did it."""

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
        row = await self._connector.execute_query_one_async(_OWNS, job=job.id, worker=job.worker_id)
        return bool(row["owned"])

    async def claim(self, job: Job, lock: str) -> bool | None:
        """See Ledger."""
        try:
            rows = await self._connector.execute_query_all_async(_CLAIM, job=job.id, worker=job.worker_id, lock=lock)
        except UniqueViolation:  # procrastinate's index of the locks of running jobs
            return False
        return True if rows else None

    async def take_over(self, job: Job) -> str | None:
        """See Ledger."""
        rows = await self._connector.execute_query_all_async(_TAKE_OVER, job=job.id, worker=job.worker_id)
        return (rows[0]["worker"] or "a worker") if rows else None

    async def knows(self, worker_id: int) -> bool:
        """See Ledger."""
        row = await self._connector.execute_query_one_async(_REGISTERED, worker=worker_id)
        return bool(row["known"])
