"""Builds that workers do: putting models into a queue, and working on what is in one."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kbuild.api.fleet.audits import Auditing, Audits
from kbuild.api.fleet.options import UNSTATED, carry_options, read_carried_names, read_options
from kbuild.api.fleet.watching import tell_version
from kbuild.api.request import ImageOptions, make_delivery, make_image_request
from kbuild.api.session import Session, take_model
from kbuild.errors import (
    AmbiguousModel,
    BuildFailed,
    ExtraNotInstalled,
    KbuildError,
    ModelNotFound,
    RunWithoutModel,
)
from kbuild.model.model_reference import ModelReference
from kbuild.process import Runner
from kbuild.workflow import ImageResult, Phases, build_image
from kbuild.workflow.many import Outcome, Watcher
from kbuild.workflow.queue.address import QueueAddress, read_address
from kbuild.workflow.queue.asked import Asked

if TYPE_CHECKING:
    from kbuild.workflow.queue.board import Board
    from kbuild.workflow.queue.running import Asking

_BEATS = 6  # of a lease: some of them may get lost


@contextmanager
def open_queue(url: str | None = None) -> Iterator[Board]:
    """The queue of a url such as postgresql://user@host/database, or of ``KBUILD_QUEUE``, while the block runs.

    Raises ConfigurationError, ExtraNotInstalled or QueueUnavailable.
    """
    address = read_address(url, os.environ)
    try:
        from kbuild.workflow.queue.board import open_board
    except ImportError as error:
        raise _lacking(error) from error
    with open_board(address) as board:
        yield board


def ask_for(
    models: Sequence[str],
    options: ImageOptions,
    session: Session,
    *,
    lacking: Callable[[str, KbuildError], None] | None = None,
) -> list[Asked]:
    """What is to be put into a queue for these models: each as it is named now, whatever an alias names later.

    ``lacking`` is told of those that are not there and why; without it that is raised. Raises ConfigurationError for
    what only this machine could do, and what else naming a model raises.
    """
    carried = carry_options(session.config, options)
    make_image_request(session.config, models[0] if models else "0" * 32, options.engine, options)
    make_delivery(session.config, options)
    # Two references, an alias and its version for instance, may mean one model.
    named: dict[str, None] = {}
    for each in dict.fromkeys(models):
        try:
            named[_named_for_all(each, session)] = None
        except (ModelNotFound, RunWithoutModel, AmbiguousModel) as error:
            if lacking is None:
                raise
            lacking(each, error)
    return [Asked(model=each, options=carried) for each in named]


def work(
    address: QueueAddress,
    *,
    session: Session,
    watcher: Watcher,
    jobs: int = 1,
    once: bool = False,
    name: str | None = None,
    lease: float = 30.0,
    audit: Auditing | None = None,
) -> None:
    """Build what is in the queue until a signal ends it, or with ``once`` until no job waits.

    ``lease`` is how many seconds a worker may be silent before others take over its jobs, the same for all of them.
    With ``audit`` each image is audited before it is pushed.

    The project's policy and mirror, the MLflow server and all credentials are those of this machine; what decides the
    image comes with the job. Raises ExtraNotInstalled or QueueUnavailable.
    """
    try:
        from kbuild.workflow.queue.database import explained, open_app
        from kbuild.workflow.queue.ledger import PostgresLedger
        from kbuild.workflow.queue.worker import Beat, Worker
    except ImportError as error:
        raise _lacking(error) from error
    app = open_app(address, program="kbuild worker")

    def build(asked: Asked, *, run: Runner, phases: Phases, gates: Asking) -> ImageResult:
        mine = replace(session, tools=replace(session.tools, run=run, phases=phases))
        return build_asked(asked, mine, gates, audit)

    worker = Worker(
        app=app,
        ledger=PostgresLedger(app),
        build=build,
        watcher=watcher,
        teller=session.voice,
        name=name or f"{socket.gethostname()}:{os.getpid()}",
        jobs=jobs,
        once=once,
        beat=Beat(every=lease / _BEATS, lease=lease),
        end_watched=lambda stated, outcome: tell_end(stated, outcome, session),
        conceal=address.conceal,
    )
    with explained(address):
        asyncio.run(worker.run())


def build_asked(asked: Asked, session: Session, gates: Asking, audit: Auditing | None = None) -> ImageResult:
    """Build one job's image, and deliver it where the registry has not got it by that name."""
    options = read_options(asked.options)
    config = replace(session.config, **UNSTATED, conda_names=read_carried_names(asked.options))
    request = make_image_request(config, asked.model, options.engine, options)
    delivery = replace(make_delivery(config, options), once=True)
    # Names that one job took are not taken for the next: a version may be built again.
    tools = replace(session.tools, verify_cache=options.verify_cache, shared=session.tools.shared.next_build())
    audited = gates if audit is None else Audits(gates, session, audit, request)
    return build_image(request, delivery, tools, reuse=not options.no_cache, gates=audited)


def tell_end(stated: Mapping[str, Any], outcome: Outcome, session: Session) -> None:
    """Write into a watched version's tags how its job ended, whatever it was of: an untold one is asked for again.

    ``stated`` is the job's as it stands in the queue, which another release may have put there.
    """
    options = stated.get("options")
    push = options.get("push") if isinstance(options, dict) else None
    came = outcome.result or outcome.error or BuildFailed("its job was cancelled", hint="kbuild queue retry JOB")
    aliases = stated.get("aliases")
    followed = tuple(each for each in aliases if isinstance(each, str)) if isinstance(aliases, list) else ()
    tell_version(outcome.model, came, ImageOptions(push=push if isinstance(push, str) else None), session, followed)


def _named_for_all(model: str, session: Session) -> str:
    """A reference that means the same on another machine, tomorrow."""
    text = take_model(model, session)
    reference = session.tools.store.pin(ModelReference.parse(text))
    return str(reference) if reference.path is None else str(reference.path.absolute())


def _lacking(error: ImportError) -> ExtraNotInstalled:
    return ExtraNotInstalled(
        f"the queue needs the Python package {error.name or 'procrastinate'}, which is not installed",
        hint=shlex.join(["pip", "install", "kbuild[build,queue]"]),
    )
