"""Telling servers: a signed webhook, GitHub's repository_dispatch, GitLab's pipeline trigger.

Formats: GitHub REST API, "Create a repository dispatch event" (POST /repos/{owner}/{repo}/dispatches; at most ten
properties in client_payload); GitLab, "Trigger a pipeline with a token" (POST /projects/{id}/trigger/pipeline);
draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from kbuild._version import __version__
from kbuild.errors import DeliveryFailed
from kbuild.http import reason_of
from kbuild.trigger.event import EVENT_NAME, TrainingEvent
from kbuild.trigger.signature import make_headers
from kbuild.trigger.trigger_settings import GithubTrigger, GitlabTrigger, RemoteTrigger, WebhookTrigger

# Worth another try: the server is busy or not quite up. Anything else it will say again.
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_BACKOFF = 0.5
_WORDS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    url: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secret: str = field(repr=False)


def send(
    trigger: RemoteTrigger,
    event: TrainingEvent,
    *,
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> None:
    """Tell the server of the event; returns once it took it. Raises DeliveryFailed saying why it did not.

    What is busy is asked again after 0, 1, 2, 4 … half seconds, ``retries`` times. Secrets come from ``environ``.
    """
    match trigger:
        case WebhookTrigger():
            request = _webhook(trigger, event, environ, int(clock()))
        case GithubTrigger():
            request = _github(trigger, event, environ)
        case GitlabTrigger():
            request = _gitlab(trigger, event, environ)
    server = urlsplit(request.url).netloc
    try:
        with _session(trigger) as session:
            answer = session.post(
                request.url,
                data=request.body,
                headers=dict(request.headers),
                timeout=trigger.timeout,
                allow_redirects=False,
                auth=_no_netrc,
            )
            # A server may repeat what it was sent, and these words are shown and logged.
            words = " ".join(answer.text.replace(request.secret, "…")[:_WORDS].split())
    except requests.RequestException as error:
        raise DeliveryFailed(f"{server} does not answer: {reason_of(error)}") from error
    if not 200 <= answer.status_code < 300:
        raise DeliveryFailed(f"{server} answered {answer.status_code} {answer.reason}: {words}".rstrip(": "))


def _webhook(trigger: WebhookTrigger, event: TrainingEvent, environ: Mapping[str, str], now: int) -> _Request:
    secret = _secret(environ, trigger.secret_env)
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f'"{event.id}"',
        "X-Kbuild-Event": EVENT_NAME,
        **make_headers(secret, event.id, now, event.body),
    }
    return _Request(url=trigger.url, body=event.body, headers=headers, secret=secret)


def _github(trigger: GithubTrigger, event: TrainingEvent, environ: Mapping[str, str]) -> _Request:
    payload = {"run_id": event.run_id, "model_uri": event.model_uri, "id": event.id, "event": event.to_json()}
    token = _secret(environ, trigger.token_env)
    headers = {
        "Accept": "application/vnd.github+json",
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    return _Request(
        url=f"{trigger.api_url.rstrip('/')}/repos/{trigger.repository}/dispatches",
        body=json.dumps({"event_type": trigger.event_type, "client_payload": payload}).encode(),
        headers=headers,
        secret=token,
    )


def _gitlab(trigger: GitlabTrigger, event: TrainingEvent, environ: Mapping[str, str]) -> _Request:
    variables = {"KBUILD_RUN_ID": event.run_id, "KBUILD_MODEL_URI": event.model_uri, "KBUILD_EVENT_ID": event.id}
    token = _secret(environ, trigger.token_env)
    form = {"token": token, "ref": trigger.ref} | {f"variables[{name}]": value for name, value in variables.items()}
    return _Request(
        url=f"{trigger.api_url.rstrip('/')}/projects/{quote(trigger.project, safe='')}/trigger/pipeline",
        body=urlencode(form).encode(),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
        secret=token,
    )


def _secret(environ: Mapping[str, str], name: str) -> str:
    secret = environ.get(name)
    if not secret:
        raise DeliveryFailed(
            f"the environment variable {name} is not set", hint=f"set {name}, then: kbuild trigger --flush"
        )
    if not secret.isprintable():
        raise DeliveryFailed(f"the environment variable {name} holds a line break or another control character")
    return secret


def _session(trigger: RemoteTrigger) -> requests.Session:
    session = requests.Session()
    session.headers["User-Agent"] = f"kbuild/{__version__}"
    retry = Retry(
        total=trigger.retries,
        backoff_factor=_BACKOFF,
        status_forcelist=_RETRIED,
        allowed_methods=None,
        raise_on_status=False,
        # A server that asks for an hour's patience would hold up the end of training: the outbox has it.
        respect_retry_after_header=False,
    )
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _no_netrc(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """An authentication that adds nothing: without one, requests would take a password from ``.netrc``."""
    return request
