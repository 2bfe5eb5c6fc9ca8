"""``kbuild watch``."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from kbuild.api.fleet.watching import WatchOptions, open_registry, open_watch, parse_duration, parse_since
from kbuild.api.request import ImageOptions
from kbuild.api.session import Session
from kbuild.cli.extras import check_extra
from kbuild.cli.options import (
    build_options,
    builder_options,
    cache_options,
    compression_option,
    engine_option,
    open_here,
)
from kbuild.cli.show import Show
from kbuild.errors import ConfigurationError, DeliveryFailed, SomeFailed
from kbuild.model.registry import SERVER_NEEDS
from kbuild.process import run
from kbuild.progress import how_many
from kbuild.trigger.trigger_settings import WebhookTrigger
from kbuild.workflow.fleet.watching import Watch

if TYPE_CHECKING:
    from kbuild.workflow.queue.board import Board


@click.command("watch")
@click.option("--once", is_flag=True, help="Build and tag what is wanted now, and end.")
@click.option(
    "--every",
    metavar="TIME",
    default="5m",
    show_default=True,
    callback=lambda _context, _option, text: parse_duration(text),
    help="Ask the registry so often.",
)
@click.option("--listen", metavar="HOST:PORT", help="Take webhooks there, and tell of oneself at /healthz.")
@click.option(
    "--secret-env", metavar="NAME", help="Variable with the webhooks' secret.  [default: KBUILD_WEBHOOK_SECRET]"
)
@click.option("--register", metavar="URL", help="Have MLflow send its webhooks to this url of --listen, and end.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="PATTERN",
    help="Registered models, such as 'churn-*'; repeat.  [default: all]",
)
@click.option(
    "--alias", "aliases", multiple=True, metavar="PATTERN", help="Aliases that become tags; repeat.  [default: all]"
)
@click.option(
    "--since",
    metavar="TIME",
    default="1970-01-01",
    callback=lambda _context, _option, text: parse_since(text, now=time.time()),
    help="Of versions from before, such as 2026-11-01 or 30d, build only those with an alias.  [default: all]",
)
@engine_option
@build_options
@builder_options
@compression_option
@cache_options
@click.option(
    "--push",
    metavar="REFERENCE",
    help="Push images, such as to registry.example/{name}:{version}, {name}:ALIAS for aliases.",
)
@click.option(
    "--queue",
    metavar="[URL]",
    is_flag=False,
    flag_value="",
    help="Leave builds to the workers of a queue, such as postgresql://user@host/database.  [default: KBUILD_QUEUE]",
)
@click.option(
    "--verify/--no-verify",
    default=None,
    envvar="KBUILD_VERIFY",
    help="Start each and compare its answer with the trained model's before it goes anywhere.  [default: verify]",
)
def command(
    once: bool,
    every: float,
    listen: str | None,
    secret_env: str | None,
    register: str | None,
    models: tuple[str, ...],
    aliases: tuple[str, ...],
    since: float,
    queue: str | None,
    **stated: Any,
) -> None:
    """Build the image of each version that is registered in MLflow, and tag it with the aliases that name it.

    The registry itself is asked, so nothing is missed however long nobody watched; webhooks, of MLflow's registry or
    of "kbuild trigger", only have it asked sooner. One image is built at a time, that of an alias first. An alias that
    moves becomes a tag of the image by digest, REGISTRY/NAME:ALIAS, without a build. With --queue any number of
    "kbuild worker" build, and tell the versions.

    What failed says so on its version, in the tags kbuild.error, kbuild.attempts and kbuild.retry, and is tried five
    times; take kbuild.error away to have it tried again.
    """
    if queue is not None and stated["push"] is None:
        raise click.UsageError("--queue needs --push: what is not pushed stays on the machine that built it")
    if once and listen is not None:
        raise click.UsageError("--once ends, and --listen goes on")
    if secret_env is not None and listen is None and register is None:
        raise click.UsageError("--secret-env is of the webhooks that --listen takes and --register asks for")
    address = None if listen is None else _address(listen)  # before anything is opened, and a secret asked for
    show = Show()
    session = open_here(show)
    if register is not None:
        _register(register, _secret(secret_env, session), session)
        return
    image = ImageOptions(**stated)
    options = WatchOptions(aliases=aliases, models=models, every=every, since=since, image=image)
    with ExitStack() as stack:
        board = None if queue is None else stack.enter_context(_open(queue))
        watch = open_watch(options, session=session, board=board)
        if once:
            _once(watch)
            return
        signal.signal(signal.SIGTERM, _end)
        if address is not None:
            from kbuild.workflow.fleet.receiver import listening, make_app
            from kbuild.workflow.fleet.webhooks import Doorkeeper

            doorkeeper = Doorkeeper(secret=_secret(secret_env, session))
            app = make_app(doorkeeper, hint=watch.hint, state=watch.state, refuse=lambda text: show.complain(text))
            place = stack.enter_context(listening(app, address))
            show.say(f"webhooks are taken at http://{place}/webhook")
        show.say(f"asking the registry every {every:g} s")
        watch.run()


def _address(listen: str) -> tuple[str, int]:
    from kbuild.workflow.fleet.receiver import parse_address

    return parse_address(listen)


def _open(queue: str) -> AbstractContextManager[Board]:
    from kbuild.api.fleet.queueing import open_queue

    check_extra("queue", run=run)
    return open_queue(queue)


def _once(watch: Watch) -> None:
    done = watch.run_once()
    failed = [each for each in done if each.error is not None]
    for each in done:
        if each.error is None:
            click.echo(each.version)
    if failed:
        raise SomeFailed(
            f"{len(failed)} of {how_many(len(done), 'version')} have no image",
            hint="each says why in its tag kbuild.error",
        )


def _register(url: str, secret: str, session: Session) -> None:
    reached = open_registry(session).add_webhook(url, secret)
    click.echo(reached.url)
    if not reached.delivered:
        raise DeliveryFailed(
            f"the webhook is registered, and MLflow's server cannot deliver to it: {reached.reason}", hint=SERVER_NEEDS
        )


def _secret(name: str | None, session: Session) -> str:
    if name is None:
        webhook = session.config.remotes.get("webhook")
        name = webhook.secret_env if isinstance(webhook, WebhookTrigger) else WebhookTrigger(url="").secret_env
    secret = os.environ.get(name)
    if not secret:
        raise ConfigurationError(
            f"the environment variable {name} is not set",
            hint=f"it holds what webhooks are signed with: export {name}=…",
        )
    return secret


def _end(number: int, frame: FrameType | None) -> None:
    """Unwind: what is being built is built again by the next that watches, for its version says nothing of it yet."""
    sys.exit(0)
