"""Loading, then serving in one process or in several."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace

from kbuild.serving.answer.model import ServedModel, load_model
from kbuild.serving.http.asgi import ServingApp
from kbuild.serving.http.front import make_front
from kbuild.serving.http.listening import LoadingAnswers, listen
from kbuild.serving.http.server_settings import Settings
from kbuild.serving.http.supervisor import Supervisor
from kbuild.serving.process.footprint import give_back_library_pages
from kbuild.serving.process.forks import find_lost_threads
from kbuild.serving.watch.logs import LOGGER, configure_logging, quieten_packages
from kbuild.serving.watch.metrics import Metrics


def serve(settings: Settings) -> int:
    """Load the model, then answer until a signal ends the process; returns the exit code.

    Raises InvalidModel when it does not load, ConfigurationError when it cannot listen.
    """
    configure_logging(settings.log_level, access=settings.access_log)
    sockets = listen(settings.host, settings.port, settings.workers)
    model = _load(settings, sockets)
    quieten_packages(settings.log_level)
    from kbuild.serving.http import protocol  # noqa: F401  with uvicorn, before workers are forked, which then share it

    # Loading makes next to no garbage and much that stays, so the collector rested (see __main__). What workers share
    # must not be written to, and it would touch every object in every worker: from now on it sees new ones only.
    gc.freeze()
    gc.enable()
    # Here is no other thread that could load a library.
    give_back_library_pages()
    if settings.workers > 1 and (lost := find_lost_threads()):
        logging.getLogger(LOGGER).warning(
            "one worker in place of %d: no fork has the threads: %s", settings.workers, lost
        )
        settings = replace(settings, workers=1)
        for each in sockets[1:]:  # of a port that several listen on the kernel gives each its share
            each.close()
    metrics = Metrics(settings.workers)
    if settings.workers > 1:
        supervisor = Supervisor(
            settings.workers,
            lambda worker: _work(worker, sockets, model, settings, metrics),
            grace=settings.grace,
            silent_for=metrics.silent_for,
            forget=metrics.begin,
            hung=settings.hung,
        )
        return supervisor.run()
    _work(0, sockets, model, settings, metrics, replace_me=_begin_anew)
    return 0


def _begin_anew() -> None:
    """The same program in the same process, without the thread that hangs, which nothing else can end."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  our own command line


def _load(settings: Settings, sockets: list[socket.socket]) -> ServedModel:
    def load() -> ServedModel:
        return load_model(settings.model, stack_traces=settings.stack_traces, import_mlflow=settings.import_mlflow)

    if settings.certificate is not None:
        return load()
    with LoadingAnswers(sockets):
        return load()


def _work(
    worker: int,
    sockets: list[socket.socket],
    model: ServedModel,
    settings: Settings,
    metrics: Metrics,
    *,
    replace_me: Callable[[], None] | None = None,
) -> None:
    """One worker's life; ``replace_me`` is called when it hangs, where nobody else looks."""
    metrics.use_slot(worker)  # before all that takes long: a beat of its own
    import uvicorn

    from kbuild.serving.http.protocol import make_protocol

    app = ServingApp(model, settings, metrics, replace_me=replace_me)
    config = uvicorn.Config(
        make_front(app, root_path=settings.root_path, origins=settings.origins),
        loop="asyncio",
        http=make_protocol(settings.timeout),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, int(settings.keep_alive)),
        timeout_graceful_shutdown=max(1, int(settings.grace)),
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    uvicorn.Server(config).run(sockets=[sockets[worker]])
