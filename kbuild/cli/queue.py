"""``kbuild queue``."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import click
from click.core import ParameterSource

from kbuild.api.fleet.queueing import open_queue
from kbuild.cli.extras import check_extra
from kbuild.cli.options import json_option, queue_option
from kbuild.cli.queued import entry_of
from kbuild.cli.suggesting import Suggesting
from kbuild.errors import JobNotFound
from kbuild.process import run
from kbuild.progress import how_many
from kbuild.untrusted import plain
from kbuild.workflow.queue.address import read_address
from kbuild.workflow.queue.page import what_of
from kbuild.workflow.queue.states import ENDED, STATUSES, JobState, Status

_TITLES = ("JOB", "STATUS", "MODEL", "BY", "WHAT OF IT")
_HIGHEST = 2**63 - 1


@click.group("queue", cls=Suggesting, invoke_without_command=True, subcommand_metavar="[COMMAND] [ARGS]...")
@click.option("--serve", is_flag=True, help="Serve a page of it, and /metrics, until Ctrl-C.")
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:8091", show_default=True, help="With --serve: where.")
@queue_option
@click.pass_context
def command(context: click.Context, serve: bool, listen: str, queue: str | None) -> None:
    """Look at the jobs of a queue, have them tried again, cancel them, delete old ones.

    "kbuild image --queue" and "kbuild watch --queue" put them there, "kbuild worker" builds them. The page changes
    nothing, and asks nobody for a password: what it shows everybody sees who reaches it.
    """
    context.obj = queue
    if not serve and context.get_parameter_source("listen") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--listen is where --serve serves")
    if serve and context.invoked_subcommand is None:
        _serve(listen, queue)
    elif serve:
        raise click.UsageError("--serve takes no command")
    elif context.invoked_subcommand is None:
        raise click.UsageError("one of list, show, retry, cancel, prune, or --serve")


def _serve(listen: str, queue: str | None) -> None:
    from kbuild.workflow.fleet.receiver import listening, parse_address
    from kbuild.workflow.queue.site import make_site

    address = parse_address(listen)
    check_extra("queue", run=run)
    with open_queue(queue) as board:
        site = make_site(board, str(read_address(queue, os.environ)))
        with listening(site, address) as place, suppress(KeyboardInterrupt):
            click.echo(f"http://{place}")
            sys.stdout.flush()
            threading.Event().wait()


@command.command("list")
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Those alone; repeat.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="So many, the newest first.")
@queue_option
@json_option
@click.pass_obj
def list_jobs(outer: str | None, statuses: tuple[str, ...], limit: int, queue: str | None, as_json: bool) -> None:
    """Jobs with what became of them, the newest first."""
    check_extra("queue", run=run)
    with open_queue(queue or outer) as board:
        chosen = cast(Sequence[Status], statuses)
        found = board.jobs(statuses=chosen or None, limit=limit)
        figures = board.figures()
    if as_json:
        click.echo(json.dumps({"jobs": [_facts(each) for each in found], "counts": dict(figures.jobs)}))
        return
    rows = [_TITLES, *(_row(each) for each in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows if found else ():
        line = plain("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        # On a terminal a job is a line: "kbuild queue show JOB" has all of it.
        click.echo(line if room is None or len(line) <= room else f"{line[: room - 1]}…")
    told = ", ".join(f"{count} {status}" for status, count in figures.jobs.items())
    click.echo(f"{told}; {how_many(figures.workers, 'worker')}", err=True)


@command.command("show")
@click.argument("job", type=click.IntRange(1, _HIGHEST))
@queue_option
@click.pass_obj
def show_job(outer: str | None, job: int, queue: str | None) -> None:
    """All that is known of one job, as JSON."""
    check_extra("queue", run=run)
    with open_queue(queue or outer) as board:
        found = board.jobs([job])
    if not found:
        raise JobNotFound(f"there is no job {job}")
    click.echo(json.dumps({**_facts(found[0]), "options": found[0].options}, indent=2))


@command.command("retry", short_help="Have JOBS tried again at once.")
@click.argument("jobs", nargs=-1, type=click.IntRange(1, _HIGHEST))
@click.option("--failed", is_flag=True, help="All that have failed.")
@queue_option
@click.pass_obj
def retry(outer: str | None, jobs: tuple[int, ...], failed: bool, queue: str | None) -> None:
    """Have JOBS tried again at once that failed, were cancelled, or wait for their next attempt."""
    _change("retry", outer, jobs, queue, "failed" if failed else None)


@command.command("cancel")
@click.argument("jobs", nargs=-1, type=click.IntRange(1, _HIGHEST))
@click.option("--waiting", is_flag=True, help="All that wait.")
@queue_option
@click.pass_obj
def cancel(outer: str | None, jobs: tuple[int, ...], waiting: bool, queue: str | None) -> None:
    """Cancel JOBS that wait, and stop those that are being built."""
    _change("cancel", outer, jobs, queue, "waiting" if waiting else None)


@command.command("prune")
@click.option(
    "--days", type=click.FloatRange(0, 36500), default=30.0, show_default=True, help="Those that ended longer ago."
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice([each for each in STATUSES if each in ENDED]),
    help="Those alone; repeat.  [default: done, failed]",
)
@queue_option
@click.pass_obj
def prune(outer: str | None, days: float, statuses: tuple[str, ...], queue: str | None) -> None:
    """Delete jobs that ended long ago, and print how many.

    Images, and what MLflow knows of them, stay. Jobs that were cancelled keep "kbuild watch" from asking again: they go
    with --status cancelled, or once their image was asked for again.
    """
    check_extra("queue", run=run)
    chosen = cast(Sequence[Status], statuses or ("done", "failed"))
    with open_queue(queue or outer) as board:
        click.echo(board.prune(days=days, statuses=chosen))


def _change(what: str, outer: str | None, jobs: tuple[int, ...], queue: str | None, all_of: Status | None) -> None:
    if bool(jobs) == (all_of is not None):
        raise click.UsageError(f"give JOBS, or --{'failed' if what == 'retry' else 'waiting'}")
    check_extra("queue", run=run)
    with open_queue(queue or outer) as board:
        asked = jobs or [each.id for each in board.jobs(statuses=(cast(Status, all_of),))]
        done = (board.retry if what == "retry" else board.cancel)(asked)
    for each in done:
        click.echo(each)
    left = sorted(set(jobs) - set(done))
    if left:
        told = "ended badly or waits for its next attempt" if what == "retry" else "waits or is being built"
        raise JobNotFound(f"none of these {told}: {', '.join(map(str, left))}")


def _row(job: JobState) -> tuple[str, ...]:
    return str(job.id), job.status, job.model, job.worker or "-", what_of(job)


def _facts(job: JobState) -> dict[str, Any]:
    return {
        "job": job.id,
        "model": job.model,
        "status": job.status,
        "priority": job.priority,
        "worker": job.worker,
        "phase": job.phase,
        "note": job.note,
        "seconds": None if job.seconds is None else round(job.seconds, 3),
        "failures": job.failures,
        "workers_lost": job.lost,
        "again": None if job.again is None else job.again.isoformat(timespec="seconds"),
        "cancelling": job.cancelling,
        "result": entry_of(job) if job.entry is not None else None,
    }
