"""The part of ``kbuild image`` that leaves the work to a queue: what is put there, what is shown until it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbuild.api.fleet.queueing import ask_for, open_queue
from kbuild.api.request import ImageOptions
from kbuild.api.session import Session
from kbuild.cli.extras import check_extra
from kbuild.cli.many import write_report
from kbuild.cli.show import Show
from kbuild.errors import QueueUnavailable, SomeFailed
from kbuild.process import run
from kbuild.workflow.queue.states import ENDED, JobState, Status

if TYPE_CHECKING:
    from kbuild.workflow.queue.board import Board

_MOVED: tuple[Status, ...] = ("building", "done", "failed", "cancelled")
_EVERY = 1.0  # seconds between two looks
_SILENCE = 10.0  # seconds after which is said what is being built


def image_queued(
    models: Sequence[str],
    options: ImageOptions,
    session: Session,
    show: Show,
    *,
    queue: str | None,
    priority: int,
    wait: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Put a job for each model into the queue and print its number; or wait and print its image, write the report.

    Raises SomeFailed when any failed that was waited for.
    """
    check_extra("queue", run=run)
    with open_queue(queue) as board:
        put = board.put(ask_for(models, options, session), priority=priority)
        new = sum(each.is_new for each in put)
        show.say(f"{new} jobs put into the queue" + (f", {len(put) - new} are there already" if new < len(put) else ""))
        if not wait:
            for each in put:
                click.echo(json.dumps({"job": each.id, "model": each.model}) if as_json else f"{each.id}\t{each.model}")
            return
        ended = _wait(board, [each.id for each in put], show, as_json)
    entries = [entry_of(ended[each.id]) for each in put]
    if report is not None:
        write_report(entries, report, {})
    failed = [entry for entry in entries if entry["status"] in ("failed", "stopped")]
    for entry in failed:
        show.complain(f"{entry['model']}: {entry.get('error', {}).get('message', 'it was cancelled')}")
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {len(entries)} models have no image",
            hint="kbuild queue retry --failed has them tried again",
        )


def entry_of(job: JobState) -> dict[str, Any]:
    """What a report says of a job: that of its last attempt, unless it was cancelled since."""
    nothing = {"model": job.model, "seconds": 0.0, "status": "stopped"}
    if job.status == "cancelled":
        return nothing
    return {**(job.entry or nothing), "model": job.model, "job": job.id, "worker": job.worker}


def _wait(board: Board, ids: list[int], show: Show, as_json: bool) -> dict[int, JobState]:
    ended: dict[int, JobState] = {}
    spoke = time.monotonic()
    with show("queue") as progress:
        left = set(ids)
        for jobs in _looks(board, left, show):
            for job in sorted(jobs, key=lambda each: each.id):
                if job.status in ENDED and job.id not in ended:
                    ended[job.id] = job
                    left.discard(job.id)
                    spoke = time.monotonic()
                    _tell(job, len(ended), len(ids), show, as_json)
            live = [each for each in jobs if each.status == "building"]
            progress.note(_doing(live))
            progress.count(len(ended), len(ids), "models")
            if time.monotonic() - spoke >= _SILENCE and live:
                spoke = time.monotonic()
                progress.tell(f"{len(ended)}/{len(ids)} models; {_doing(live)}")
            if len(ended) == len(ids):
                progress.made(f"{len(ended)} models")
                break
    return ended


def _looks(board: Board, ids: Collection[int], show: Show) -> Iterator[list[JobState]]:
    """Of the jobs those that do not wait, once a second; a database that is away is waited for."""
    away = False
    while True:
        try:
            jobs = board.jobs(ids, statuses=_MOVED)
        except QueueUnavailable as error:
            if not away:
                show.complain(f"{error.message}; asking on", style="yellow")
            away = True
        else:
            away = False
            yield jobs
        time.sleep(_EVERY)


def _tell(job: JobState, number: int, total: int, show: Show, as_json: bool) -> None:
    entry = entry_of(job)
    worker = f" by {job.worker}" if job.worker else ""
    show.say(f"[{number}/{total}] {job.model} {entry['status']} ({entry['seconds']:.1f} s{worker})")
    if job.status == "done":
        click.echo(json.dumps(entry) if as_json else f"{job.model}\t{entry.get('image')}")


def _doing(live: Sequence[JobState]) -> str:
    shown = [f"{each.model} {each.phase or 'begins'}" for each in sorted(live, key=lambda each: each.id)[:4]]
    more = f" and {len(live) - 4} more" if len(live) > 4 else ""
    return f"building {', '.join(shown)}{more}" if shown else "no worker builds anything of it"
