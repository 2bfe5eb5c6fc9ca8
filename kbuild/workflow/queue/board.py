"""What is in a queue: putting jobs there, looking at them, trying them again, cancelling them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from procrastinate import App
from procrastinate.exceptions import AlreadyEnqueued
from procrastinate.jobs import Job

from kbuild.workflow.queue.address import QueueAddress
from kbuild.workflow.queue.asked import Asked
from kbuild.workflow.queue.database import QUEUE, TASK, explained, open_app
from kbuild.workflow.queue.states import ENDED, OURS, STATUSES, Figures, JobState, Put, Status

_AT_ONCE = 500  # jobs of one statement
_JOBS = """
SELECT job.id, job.status::text AS status, job.priority, job.scheduled_at, job.abort_requested, job.args,
       told.worker, told.phase, told.note, told.begun, told.ended, told.failures, told.lost, told.entry,
       now() AS now
FROM procrastinate_jobs AS job
LEFT JOIN kbuild_builds AS told ON told.job_id = job.id
WHERE job.queue_name = %(queue)s
  AND (%(ids)s::bigint[] IS NULL OR job.id = ANY (%(ids)s))
  AND (%(statuses)s::text[] IS NULL OR job.status::text = ANY (%(statuses)s))
ORDER BY job.id DESC LIMIT %(limit)s
"""
_COUNTS = (
    "SELECT status::text AS status, count(*) AS jobs FROM procrastinate_jobs WHERE queue_name = %(queue)s GROUP BY 1"
)
_SAME = """
SELECT id, queueing_lock FROM procrastinate_jobs
WHERE queue_name = %(queue)s AND status IN ('todo', 'doing') AND queueing_lock = ANY (%(keys)s)
"""
# Of each image the newest job.
_CANCELLED = """
SELECT queueing_lock FROM (
    SELECT DISTINCT ON (queueing_lock) queueing_lock, status FROM procrastinate_jobs
    WHERE queue_name = %(queue)s AND queueing_lock = ANY (%(keys)s) ORDER BY queueing_lock, id DESC
) AS newest WHERE status IN ('cancelled', 'aborted')
"""
_KNOWN = "SELECT id FROM procrastinate_jobs WHERE queue_name = %(queue)s AND id = ANY (%(ids)s)"
# procrastinate's own function takes none that was cancelled. Of several for the same image one is enough, and none is
# where one is being built: that one may have to wait again. procrastinate notes that a job waits again, unless it was
# cancelled.
_RETRY = """
WITH chosen AS (
    SELECT DISTINCT ON (queueing_lock) id, status FROM procrastinate_jobs AS asked
    WHERE queue_name = %(queue)s AND id = ANY (%(ids)s)
      AND (status = 'todo' AND scheduled_at > now() OR status IN ('failed', 'cancelled', 'aborted') AND NOT EXISTS (
          SELECT FROM procrastinate_jobs AS twin
          WHERE twin.status IN ('todo', 'doing') AND twin.queueing_lock = asked.queueing_lock
      ))
    ORDER BY queueing_lock, id DESC
), job AS (
    UPDATE procrastinate_jobs SET status = 'todo', scheduled_at = NULL, abort_requested = false
    WHERE id IN (SELECT id FROM chosen)
    RETURNING id
), told AS (
    UPDATE kbuild_builds SET failures = 0, lost = 0 WHERE job_id IN (SELECT id FROM job)
), noted AS (
    INSERT INTO procrastinate_events (job_id, type)
    SELECT id, 'retried' FROM chosen WHERE status IN ('cancelled', 'aborted')
)
SELECT id FROM job ORDER BY id
"""
# One that was cancelled tells a watch not to ask again, until its image has a newer job.
_PRUNE = """
DELETE FROM procrastinate_jobs AS job
WHERE job.queue_name = %(queue)s
  AND (job.status::text = ANY (%(statuses)s::text[]) OR job.status IN ('cancelled', 'aborted') AND EXISTS (
      SELECT FROM procrastinate_jobs AS newer
      WHERE newer.queue_name = job.queue_name AND newer.queueing_lock = job.queueing_lock AND newer.id > job.id
  ))
  AND (SELECT max(event.at) FROM procrastinate_events AS event WHERE event.job_id = job.id)
      < now() - make_interval(secs => %(seconds)s)
RETURNING job.id
"""
_FIGURES = """
SELECT (SELECT count(*) FROM procrastinate_workers AS worker
        LEFT JOIN kbuild_workers AS told ON told.worker_id = worker.id
        WHERE last_heartbeat > now() - make_interval(secs => coalesce(told.lease, 30))) AS workers,
       (SELECT extract(epoch FROM now() - min(since)) FROM (
            SELECT max(event.at) AS since FROM procrastinate_jobs AS job
            JOIN procrastinate_events AS event ON event.job_id = job.id
                AND event.type IN ('deferred', 'deferred_for_retry', 'retried')
            WHERE job.queue_name = %(queue)s AND job.status = 'todo' GROUP BY job.id
        ) AS waiting) AS oldest,
       (SELECT count(*) FROM kbuild_builds WHERE entry IS NOT NULL AND ended IS NOT NULL) AS builds,
       (SELECT coalesce(sum((entry->>'seconds')::float), 0) FROM kbuild_builds
        WHERE entry IS NOT NULL AND ended IS NOT NULL) AS seconds,
       (SELECT coalesce(sum(lost), 0) FROM kbuild_builds) AS lost
"""


class Board:
    """A queue from outside. Every method raises QueueUnavailable where the database does not answer."""

    def __init__(self, app: App, address: QueueAddress) -> None:
        self._app, self._address = app, address
        self._connector = app.connector.get_sync_connector()

    def put(self, jobs: Sequence[Asked], *, priority: int = 0) -> list[Put]:
        """One job for each, in that order; what is waiting or being built already is not put there twice."""
        by_key = {each.key: each for each in jobs}
        values = {key: each.to_json() for key, each in by_key.items()}
        done: dict[str, Put] = {}
        keys = list(by_key)
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            with explained(self._address):
                self._put_some(some, by_key, values, priority, done)
        return [done[each.key] for each in jobs]

    def _put_some(
        self,
        keys: list[str],
        by_key: Mapping[str, Asked],
        values: Mapping[str, dict[str, Any]],
        priority: int,
        done: dict[str, Put],
    ) -> None:
        for row in self._connector.execute_query_all(_SAME, queue=QUEUE, keys=keys):
            done[row["queueing_lock"]] = Put(id=row["id"], model=by_key[row["queueing_lock"]].model, is_new=False)
        new = [key for key in keys if key not in done]
        made = [
            Job(queue=QUEUE, task_name=TASK, priority=priority, lock=key, queueing_lock=key, task_kwargs=values[key])
            for key in new
        ]
        try:
            put = self._app.job_manager.batch_defer_jobs(made) if made else []
        except AlreadyEnqueued:
            if len(keys) == 1:
                self._put_some(keys, by_key, values, priority, done)  # somebody else was first
                return
            for key in new:
                self._put_some([key], by_key, values, priority, done)
            return
        for key, job in zip(new, put, strict=True):
            done[key] = Put(id=int(job.id or 0), model=by_key[key].model, is_new=True)

    def live(self, jobs: Sequence[Asked]) -> set[str]:
        """The models of those that wait or are being built."""
        by_key = {each.key: each.model for each in jobs}
        with explained(self._address):
            rows = self._connector.execute_query_all(_SAME, queue=QUEUE, keys=list(by_key))
        return {by_key[row["queueing_lock"]] for row in rows}

    def cancelled(self, jobs: Sequence[Asked]) -> set[str]:
        """The models of those that somebody cancelled and nobody asked for since."""
        by_key = {each.key: each.model for each in jobs}
        with explained(self._address):
            rows = self._connector.execute_query_all(_CANCELLED, queue=QUEUE, keys=list(by_key))
        return {by_key[row["queueing_lock"]] for row in rows}

    def gone(self, ids: Collection[int]) -> set[int]:
        """Those that somebody deleted."""
        with explained(self._address):
            rows = self._connector.execute_query_all(_KNOWN, queue=QUEUE, ids=list(ids))
        return set(ids) - {row["id"] for row in rows}

    def jobs(
        self, ids: Collection[int] | None = None, *, statuses: Collection[Status] | None = None, limit: int = 1_000_000
    ) -> list[JobState]:
        """The newest first."""
        theirs = None if statuses is None else [name for name, ours in OURS.items() if ours in statuses]
        with explained(self._address):
            rows = self._connector.execute_query_all(
                _JOBS, queue=QUEUE, ids=None if ids is None else list(ids), statuses=theirs, limit=limit
            )
        return [_state(row) for row in rows]

    def retry(self, ids: Collection[int]) -> list[int]:
        """Have those tried again at once that failed, were cancelled or wait for their next attempt; says which."""
        with explained(self._address):
            return [row["id"] for row in self._connector.execute_query_all(_RETRY, queue=QUEUE, ids=list(ids))]

    def cancel(self, ids: Collection[int]) -> list[int]:
        """Cancel those that wait, and have those stopped that are being built; says which."""
        manager = self._app.job_manager
        live = [each.id for each in self.jobs(ids, statuses=("waiting", "building"))]
        with explained(self._address):
            return [each for each in sorted(live) if manager.cancel_job_by_id(each, abort=True)]

    def prune(self, *, days: float, statuses: Collection[Status]) -> int:
        """Delete the jobs that ended so many days ago with one of these statuses; says how many.

        Of images that were asked for again later the cancelled ones go along. Raises ValueError for a status of jobs
        that have not ended.
        """
        if not ENDED.issuperset(statuses):
            raise ValueError(f"these have not ended: {sorted({*statuses} - ENDED)}")
        theirs = [name for name, ours in OURS.items() if ours in statuses]
        with explained(self._address):
            rows = self._connector.execute_query_all(_PRUNE, queue=QUEUE, statuses=theirs, seconds=days * 86400)
        return len(rows)

    def figures(self) -> Figures:
        """How it is as a whole."""
        with explained(self._address):
            counted = self._connector.execute_query_all(_COUNTS, queue=QUEUE)
            row = self._connector.execute_query_one(_FIGURES, queue=QUEUE)
        jobs = dict.fromkeys(STATUSES, 0)
        for each in counted:
            jobs[OURS[each["status"]]] += each["jobs"]
        oldest = None if row["oldest"] is None else float(row["oldest"])
        return Figures(
            jobs=jobs,
            workers=row["workers"],
            oldest=oldest,
            builds=row["builds"],
            seconds=float(row["seconds"]),
            lost=int(row["lost"]),
        )


@contextmanager
def open_board(address: QueueAddress) -> Iterator[Board]:
    """The board of a queue, while the block runs. Raises QueueUnavailable."""
    app = open_app(address, program="kbuild queue")
    with explained(address):
        app.open()
    try:
        yield Board(app, address)
    finally:
        app.close()


def _state(row: Mapping[str, Any]) -> JobState:
    status = OURS[row["status"]]
    again = row["scheduled_at"] if status == "waiting" else None
    is_live = status == "building"
    end = row["now"] if is_live else row["ended"]
    seconds = (end - row["begun"]).total_seconds() if row["begun"] is not None and end is not None else None
    args = row["args"]
    return JobState(
        id=row["id"],
        model=str(args.get("model")),
        status=status,
        priority=row["priority"],
        worker=row["worker"],
        phase=row["phase"] if is_live else None,
        note=row["note"] if is_live else None,
        seconds=seconds,
        failures=row["failures"] or 0,
        lost=row["lost"] or 0,
        again=again,
        cancelling=is_live and row["abort_requested"],
        entry=row["entry"],
        options=args.get("options"),
    )
