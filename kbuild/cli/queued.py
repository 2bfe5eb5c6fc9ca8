"""The part of ``kbuild image`` that leaves the work to a queue: what is put there, what is shown until it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbuild.api.fleet.queueing import ask_for, open_queue
from kbuild.api.request import ImageOptions
from kbuild.api.session import Session
from kbuild.cli.many import write_report
from kbuild.cli.show import Show
from kbuild.errors import JobNotFound, KbuildError, QueueUnavailable, SomeFailed
from kbuild.progress import at_most, how_many
from kbuild.workflow.fleet.report import make_entry
from kbuild.workflow.many import Outcome
from kbuild.workflow.queue.states import ENDED, JobState, Put, Status

if TYPE_CHECKING:
    from kbuild.workflow.queue.board import Board

_MOVED: tuple[Status, ...] = ("building", "done", "failed", "cancelled")
_EVERY = 1.0  # seconds between two looks
_MOST_NAMED = 20  # jobs in a hint
_GONE = 10  # looks, of one of which is asked whether all are there still


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
    several: bool = False,
) -> None:
    """Put a job for each model into the queue and print its number; or wait and print its image, write the report.

    Of ``several`` those that are not there keep no other out. Raises SomeFailed when any is not there, or failed that
    was waited for.
    """
    lacking: dict[str, KbuildError] = {}
    with open_queue(queue) as board:
        asked = ask_for(models, options, session, lacking=lacking.__setitem__ if several else None)
        put = board.put(asked, priority=priority)
        new = sum(each.is_new for each in put)
        there = len(put) - new
        show.say(
            f"{how_many(new, 'job')} put into the queue"
            + (f", {there} {'is' if there == 1 else 'are'} there already" if there else "")
        )
        if not wait:
            for each in put:
                click.echo(json.dumps({"job": each.id, "model": each.model}) if as_json else f"{each.id}\t{each.model}")
            _tell_lacking(lacking, len(put), show)
            return
        ended = _wait(board, put, show, as_json)
    entries = [entry_of(ended[each.id]) for each in put]
    entries += [make_entry(Outcome(model=model, error=error)) for model, error in lacking.items()]
    if report is not None:
        write_report(entries, report, {})
    failed = [entry for entry in entries if entry["status"] in ("failed", "stopped")]
    for entry in failed:
        hint = lacking[entry["model"]].hint if entry["model"] in lacking else None
        _complain(show, entry["model"], entry.get("error", {}).get("message", "it was cancelled"), hint)
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {how_many(len(entries), 'model')} have no image",
            hint=_again(ended.values()) if len(failed) > len(lacking) else None,
        )


def _tell_lacking(lacking: Mapping[str, KbuildError], put: int, show: Show) -> None:
    """Raises SomeFailed when there are any."""
    for model, error in lacking.items():
        _complain(show, model, error.message, error.hint)
    if lacking:
        are = "is" if len(lacking) == 1 else "are"
        raise SomeFailed(
            f"{len(lacking)} of {how_many(len(lacking) + put, 'model')} {are} not in the queue",
            hint=f"the other {put} {'is' if put == 1 else 'are'}; mend the names and put all in again: "
            "no job is put there twice"
            if put
            else None,
        )


def _complain(show: Show, model: str, message: str, hint: str | None = None) -> None:
    show.complain(f"{model}: {message.removeprefix(model + ': ')}{'' if hint is None else f'; {hint}'}")


def _again(ended: Collection[JobState]) -> str:
    """What has them tried again: ``--failed`` leaves those that somebody cancelled."""
    jobs = sorted(each.id for each in ended if each.status in ("failed", "cancelled"))
    if len(jobs) <= _MOST_NAMED and any(each.status == "cancelled" for each in ended):
        return f"kbuild queue retry {' '.join(map(str, jobs))}"
    return "kbuild queue retry --failed has them tried again"


def entry_of(job: JobState) -> dict[str, Any]:
    """What a report says of a job: that of its last attempt, unless it was cancelled since."""
    nothing = {"model": job.model, "seconds": 0.0, "status": "stopped"}
    if job.status == "cancelled":
        return nothing
    return {**(job.entry or nothing), "model": job.model, "job": job.id, "worker": job.worker}


def _wait(board: Board, put: Sequence[Put], show: Show, as_json: bool) -> dict[int, JobState]:
    models = {each.id: each.model for each in put}  # several may have come to one job
    left, total = set(models), len(models)
    ended: dict[int, JobState] = {}
    with show("queue") as progress:
        for jobs in _looks(board, left, models, show):
            for job in sorted(jobs, key=lambda each: each.id):
                if job.status in ENDED and job.id in left:
                    ended[job.id] = job
                    left.discard(job.id)
                    _tell(job, len(ended), total, show, as_json)
            live = [each for each in jobs if each.status == "building"]
            progress.note(_doing(live))
            progress.count(len(ended), total, "models")
        progress.made(how_many(total, "model"))
    return ended


def _looks(board: Board, left: Collection[int], models: Mapping[int, str], show: Show) -> Iterator[list[JobState]]:
    """Of the jobs that are left those that do not wait, once a second; a database that is away is waited for."""
    away, look = False, 0
    while left:
        try:
            jobs = board.jobs(left, statuses=_MOVED)
            if look % _GONE == 0:
                jobs += [_gone(each, models[each]) for each in sorted(board.gone(left))]
        except QueueUnavailable as error:
            if not away:
                show.complain(f"{error.message}; asking on", style="yellow")
            away = True
        else:
            away = False
            look += 1
            yield jobs
        if left:
            time.sleep(_EVERY)


def _gone(number: int, model: str) -> JobState:
    """A job that somebody deleted."""
    error = {"message": "its job was deleted", "hint": None, "exit_code": JobNotFound.exit_code}
    entry = {"model": model, "seconds": 0.0, "status": "failed", "error": error}
    return JobState(id=number, model=model, status="failed", entry=entry)


def _tell(job: JobState, number: int, total: int, show: Show, as_json: bool) -> None:
    entry = entry_of(job)
    worker = f" by {job.worker}" if job.worker else ""
    show.say(f"[{number}/{total}] {job.model} {entry['status']} ({entry['seconds']:.1f} s{worker})")
    if job.status == "done":
        click.echo(json.dumps(entry) if as_json else f"{job.model}\t{entry.get('image')}")


def _doing(live: Sequence[JobState]) -> str:
    shown = [f"{each.model} ({each.phase or 'begins'})" for each in sorted(live, key=lambda each: each.id)]
    return f"building {at_most(shown, 4)}" if shown else "waiting for a worker"
