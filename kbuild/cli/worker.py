"""``kbuild worker``."""

from __future__ import annotations

import os

import click

from kbuild.api.fleet.audits import Auditing
from kbuild.api.fleet.queueing import work
from kbuild.audit.finding import SEVERITIES, Severity
from kbuild.cli.extras import check_extra
from kbuild.cli.many import Lines
from kbuild.cli.options import open_here, queue_option
from kbuild.cli.show import Show
from kbuild.process import run
from kbuild.workflow.queue.address import VARIABLE, read_address


@click.command("worker")
@queue_option
@click.option("--jobs", "-j", type=click.IntRange(1, 64), default=1, show_default=True, help="So many at a time.")
@click.option("--once", is_flag=True, help="Build what waits now, and end.")
@click.option(
    "--lease",
    type=click.FloatRange(min=2),
    default=30,
    show_default=True,
    help="Seconds of silence after which its jobs go to another; the same for all workers of a queue.",
)
@click.option(
    "--audit/--no-audit", default=True, show_default=True, help="Audit each before it is pushed; the report tells."
)
@click.option(
    "--fail-on",
    type=click.Choice(SEVERITIES),
    help="Push nothing with findings so severe or worse, nor what could not be checked.",
)
@click.option("--name", metavar="NAME", help="What others see of it.  [default: HOST:PID]")
def command(
    queue: str | None, jobs: int, once: bool, lease: float, audit: bool, fail_on: Severity | None, name: str | None
) -> None:
    """Build what "kbuild image --queue" and "kbuild watch --queue" put into a queue.

    Each image is built, verified, audited and pushed, by the options of "kbuild image" that come with the job; MLflow
    server, policy, mirrors, credentials and the cache are this machine's. Start as many as you like, anywhere. One that
    dies is found out by the others and its job goes to one of them; SIGTERM gives back at once what is being built.
    """
    if fail_on is not None and not audit:
        raise click.UsageError("--fail-on is of the audit")
    address = read_address(queue, os.environ)
    os.environ.pop(VARIABLE, None)  # models are loaded by processes that inherit the rest
    check_extra("queue", run=run)
    show = Show()
    session = open_here(show)
    show.say(f"working on {address}")
    auditing = Auditing(fail_on=fail_on) if audit else None
    work(address, session=session, watcher=Lines(show), jobs=jobs, once=once, name=name, lease=lease, audit=auditing)
