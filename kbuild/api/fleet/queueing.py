"""Builds that workers do: putting models into a queue, and working on what is in one."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from kbuild.api.project import ProjectConfig
from kbuild.api.request import ImageOptions, make_delivery, make_image_request
from kbuild.api.session import Session, take_model
from kbuild.errors import ConfigurationError, ExtraNotInstalled
from kbuild.model.model_reference import ModelReference
from kbuild.process import Runner
from kbuild.workflow import ImageResult, Phases, build_image
from kbuild.workflow.many import Watcher
from kbuild.workflow.once import Shared
from kbuild.workflow.queue.address import QueueAddress, read_address
from kbuild.workflow.queue.asked import Asked
from kbuild.workflow.tools import Gates

if TYPE_CHECKING:
    from kbuild.workflow.queue.board import Board

# What decides the image and where it goes, with what each may be. All else is of the machine that builds.
_CARRIED: Mapping[str, tuple[type, ...]] = {
    "interpreter": (str,), "channels": (list,), "platform": (str, type(None)), "locked": (bool,),
    "allow_sdist": (bool,), "base": (str, type(None)), "allow_unsigned_base": (bool,),
    "template": (str, type(None)), "install_base": (str, type(None)), "labels": (list,), "slim": (bool,),
    "network": (str, type(None)), "compression": (str,), "engine": (str,), "tag": (str, type(None)),
    "push": (str, type(None)), "verify": (bool,), "verify_timeout": (float, int), "no_cache": (bool,),
    "verify_cache": (bool,), "cache_from": (str, type(None)), "cache_to": (str, type(None)),
}  # fmt: skip
# Of the worker's own project nothing of it counts.
_UNSTATED: Mapping[str, Any] = {
    "base": None, "template": None, "channels": (), "labels": (), "slim": False, "tag": None, "compression": "zstd",
    "cache_from": None, "cache_to": None, "interpreter": "auto",
}  # fmt: skip
_BEATS = 6  # of a lease: some of them may get lost
_NOT_CARRIED = {"lockfile": "--lockfile", "builders": "--builder", "output": "--output", "load": "--load"}


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


def ask_for(models: Sequence[str], options: ImageOptions, session: Session, *, watched: bool = False) -> list[Asked]:
    """What is to be put into a queue for these models: each as it is named now, whatever an alias names later.

    Raises ConfigurationError for what only this machine could do, and what naming a model raises.
    """
    carried = carry_options(session.config, options)
    make_image_request(session.config, models[0] if models else "0" * 32, options.engine, options)
    make_delivery(session.config, options)
    return [
        Asked(model=_named_for_all(each, session), options=carried, watched=watched) for each in dict.fromkeys(models)
    ]


def carry_options(config: ProjectConfig, options: ImageOptions) -> dict[str, Any]:
    """The options as a job has them: with what the project says where they say nothing."""
    for name, option in _NOT_CARRIED.items():
        if getattr(options, name):
            raise ConfigurationError(f"{option} is of this machine, and a worker builds elsewhere", hint="leave it out")
    if options.best is not None:
        raise ConfigurationError("--best names no model that could wait", hint="give the run that it takes")
    whole = replace(
        options,
        interpreter=options.interpreter or config.interpreter,
        channels=options.channels or config.channels,
        base=options.base or config.base,
        template=options.template or (None if config.template is None else str(config.template.absolute())),
        labels=(*(f"{key}={value}" for key, value in config.labels), *options.labels),
        slim=options.slim or config.slim,
        compression=options.compression or config.compression,
        tag=options.tag or config.tag,
        verify=config.verify if options.verify is None else options.verify,
        cache_from=options.cache_from or config.cache_from,
        cache_to=options.cache_to or config.cache_to,
    )
    return {name: list(value) if isinstance(value := getattr(whole, name), tuple) else value for name in _CARRIED}


def read_options(carried: Mapping[str, Any]) -> ImageOptions:
    """The options of a job; raises ConfigurationError for what are none."""
    for name, value in carried.items():
        if not isinstance(value, _CARRIED.get(name, ())) or (
            isinstance(value, list) and not all(isinstance(each, str) for each in value)
        ):
            raise ConfigurationError(f"the job's option {name!r} is not one of this release, or not of its kind")
    stated: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in carried.items()}
    return ImageOptions(**stated)


def work(
    address: QueueAddress,
    *,
    session: Session,
    watcher: Watcher,
    jobs: int = 1,
    once: bool = False,
    name: str | None = None,
    lease: float = 30.0,
) -> None:
    """Build what is in the queue until a signal ends it, or with ``once`` until no job waits.

    ``lease`` is how many seconds a worker may be silent before others take over its jobs, the same for all of them.

    The project's policy and mirror, the MLflow server and all credentials are those of this machine; what decides the
    image comes with the job. Raises ExtraNotInstalled or QueueUnavailable.
    """
    try:
        from kbuild.workflow.queue.database import open_app
        from kbuild.workflow.queue.ledger import PostgresLedger
        from kbuild.workflow.queue.worker import Beat, Worker
    except ImportError as error:
        raise _lacking(error) from error
    app = open_app(address, program="kbuild worker")

    def build(asked: Asked, *, run: Runner, phases: Phases, gates: Gates) -> ImageResult:
        return build_asked(asked, replace(session, tools=replace(session.tools, run=run, phases=phases)), gates)

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
    )
    asyncio.run(worker.run())


def build_asked(asked: Asked, session: Session, gates: Gates) -> ImageResult:
    """Build one job's image, and deliver it where the registry has not got it by that name."""
    options = read_options(asked.options)
    config = replace(session.config, **_UNSTATED)
    request = make_image_request(config, asked.model, options.engine, options)
    delivery = replace(make_delivery(config, options), once=True)
    # Names that one job took are not taken for the next: a version may be built again.
    tools = replace(session.tools, verify_cache=options.verify_cache, shared=Shared())
    return build_image(request, delivery, tools, reuse=not options.no_cache, gates=gates)


def _named_for_all(model: str, session: Session) -> str:
    """A reference that means the same on another machine, tomorrow."""
    text = take_model(model, session.tools, session.config, session.voice)
    reference = session.tools.store.pin(ModelReference.parse(text))
    return str(reference) if reference.path is None else str(reference.path.absolute())


def _lacking(error: ImportError) -> ExtraNotInstalled:
    return ExtraNotInstalled(
        f"the queue needs the Python package {error.name or 'procrastinate'}, which is not installed",
        hint=shlex.join(["pip", "install", "kbuild[build,queue]"]),
    )


assert set(_CARRIED) <= {each.name for each in fields(ImageOptions)}  # noqa: S101
