"""``kbuild trigger``. It imports no build floor: receivers and training environments need no build tools for it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click
from click.core import ParameterSource

from kbuild.api.project import tracking_uri
from kbuild.cli.config import env_option, project_config
from kbuild.errors import ConfigurationError, DeliveryFailed, KbuildError, SignatureRefused, TriggerFailed
from kbuild.hooks.start_trigger import make_site
from kbuild.trigger.event import parse_event
from kbuild.trigger.fire import Site, flush
from kbuild.trigger.outbox import Message
from kbuild.trigger.signature import check_signature
from kbuild.trigger.trigger_settings import WebhookTrigger
from kbuild.untrusted import folded

_TOLERANCE = 300.0


@click.command("trigger")
@click.option("--flush", "flushing", is_flag=True, help="Send what waits in the outbox.")
@click.option("--verify", "verifying", is_flag=True, help="Check a webhook's body, given on stdin, by its headers.")
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the webhook; repeat.")
@click.option("--tolerance", type=click.FloatRange(min=0), default=_TOLERANCE, show_default=True, help="Seconds off.")
@click.option("--secret-env", metavar="NAME", help="Variable with the shared secret.  [default: webhook.secret_env]")
@click.option("--schema", is_flag=True, help="Print the JSON schema of a webhook's body.")
@env_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    flushing: bool,
    verifying: bool,
    headers: tuple[str, ...],
    tolerance: float,
    secret_env: str | None,
    schema: bool,
    as_json: bool,
) -> None:
    """What follows training: list the messages that no server has taken yet, send them, or check one that came.

    With --verify the exit code is 0 and the model's uri is printed when the signature and the time are right.
    """
    if sum((flushing, verifying, schema)) > 1:
        raise click.UsageError("--flush, --verify and --schema exclude each other")
    source = click.get_current_context().get_parameter_source("tolerance")
    if schema:
        click.echo(_read_schema())
    elif verifying:
        _verify(headers, tolerance, secret_env, as_json=as_json)
    elif headers or secret_env is not None or source is ParameterSource.COMMANDLINE:
        raise click.UsageError("--header, --secret-env and --tolerance go with --verify")
    elif flushing:
        _flush(_site(), as_json=as_json)
    else:
        _list(_site(), as_json=as_json)


def _site() -> Site:
    config = project_config()
    return make_site(config, tracking_uri(config, Path.cwd()))


def _verify(headers: tuple[str, ...], tolerance: float, secret_env: str | None, *, as_json: bool) -> None:
    if secret_env is None:
        webhook = project_config().remotes.get("webhook")
        secret_env = webhook.secret_env if isinstance(webhook, WebhookTrigger) else WebhookTrigger(url="").secret_env
    secret = os.environ.get(secret_env)
    if not secret:
        raise ConfigurationError(
            f"the environment variable {secret_env} is not set",
            hint=f"it holds the shared secret: export {secret_env}=…",
        )
    body = sys.stdin.buffer.read()
    check_signature(secret, dict(map(_parse_header, headers)), body, now=time.time(), tolerance=tolerance)
    try:
        event = parse_event(json.loads(body), "the body")
    except ValueError as error:
        raise SignatureRefused(f"the body is signed, but no JSON: {error}") from error
    except TriggerFailed as error:
        raise SignatureRefused(error.message) from error
    click.echo(json.dumps(event.to_json()) if as_json else event.model_uri)


def _parse_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"{text!r} is not NAME:VALUE", param_hint="--header")
    return name.strip(), value.strip()


def _flush(site: Site, *, as_json: bool) -> None:
    done = flush(site)
    if done.busy:
        click.echo("another process is sending what waits now", err=True)
    failed = [{**_to_json(message), "error": error.message} for message, error in done.failed]
    if as_json:
        click.echo(json.dumps({"delivered": list(map(_to_json, done.delivered)), "failed": failed}))
    else:
        for message in done.delivered:
            click.echo(_line(message))
    if done.failed:
        first: KbuildError = done.failed[0][1]
        raise DeliveryFailed(
            f"{len(failed)} of {len(failed) + len(done.delivered)} messages wait to be sent again: {first.message}",
            hint=first.hint,
        )
    if not done.delivered and not done.busy:
        _say_none()


def _list(site: Site, *, as_json: bool) -> None:
    messages = site.outbox.messages()
    if as_json:
        click.echo(json.dumps(list(map(_to_json, messages))))
        return
    for message in messages:
        click.echo(_line(message))
    if not messages:
        _say_none()


def _say_none() -> None:
    """Nothing waits; where no trigger is set, nothing ever did."""
    unset = project_config().trigger is None
    said = "no message about a finished training waits to be sent"
    told = f"{said}: no trigger is set (kbuild help triggers)" if unset else said
    click.echo(folded(told, sys.stderr, indent=2), err=True)


def _line(message: Message) -> str:
    return f"{message.kind} {message.event.id} {message.event.model_uri} run {message.event.run_id}"


def _to_json(message: Message) -> dict[str, str]:
    event = message.event
    return {"kind": message.kind, "id": event.id, "run_id": event.run_id, "model_uri": event.model_uri}


def _read_schema() -> str:
    from kbuild.trigger import event

    return Path(event.__file__).with_name("event.schema.json").read_text(encoding="utf-8").rstrip()
