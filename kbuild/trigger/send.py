"""Telling servers: a signed webhook, GitHub's repository_dispatch, GitLab's pipeline trigger.

Formats: GitHub REST API, "Create a repository dispatch event" (POST /repos/{owner}/{repo}/dispatches; at most ten
properties in client_payload); GitLab, "Trigger a pipeline with a token" (POST /projects/{id}/trigger/pipeline);
draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import json
import queue
import threading
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
_BYTES = 1 << 16
# All tries together have this many times the time limit of one: training waits.
_TRIES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    url: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    status: int
    reason: str
    words: str


def send(
    trigger: RemoteTrigger,
    event: TrainingEvent,
    *,
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> None:
    """Tell the server of the event; returns once it took it. Raises DeliveryFailed saying why it did not.

    What is busy is asked again after 0, 1, 2, 4 … half seconds, ``retries`` times; all together takes at most twice the
    time limit. Secrets come from ``environ``.
    """
    match trigger:
        case WebhookTrigger():
            request = _webhook(trigger, event, environ, int(clock()))
        case GithubTrigger():
            request = _github(trigger, event, environ)
        case GitlabTrigger():
            request = _gitlab(trigger, event, environ)
    server = urlsplit(request.url).netloc
    answers: queue.SimpleQueue[_Answer | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_ask(trigger, request))
        except Exception as error:  # noqa: BLE001  raised again where somebody waits for it
            answers.put(error)

    # In a thread of its own, which nobody waits for: the time limits of sockets begin anew with each byte.
    threading.Thread(target=ask, daemon=True).start()
    patience = _TRIES * trigger.timeout
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise DeliveryFailed(f"{server} gave no whole answer in {patience:g} s") from None
    if isinstance(answer, requests.RequestException):
        raise DeliveryFailed(f"{server} does not answer: {reason_of(answer)}") from answer
    if isinstance(answer, Exception):
        raise answer
    if not 200 <= answer.status < 300:
        raise DeliveryFailed(f"{server} answered {answer.status} {answer.reason}: {answer.words}".rstrip(": "))


def _ask(trigger: RemoteTrigger, request: _Request) -> _Answer:
    with (
        _session(trigger) as session,
        session.post(
            request.url,
            data=request.body,
            headers=dict(request.headers),
            timeout=trigger.timeout,
            allow_redirects=False,
            auth=_no_netrc,
            stream=True,
        ) as answer,
    ):
        if 200 <= answer.status_code < 300:  # what else it says is of no matter, however long it takes
            return _Answer(status=answer.status_code, reason=answer.reason, words="")
        said = next(answer.iter_content(_BYTES), b"").decode(answer.encoding or "utf-8", errors="replace")
        # A server may repeat what it was sent, and these words are shown and logged.
        words = " ".join(said.replace(request.secret, "…")[:_WORDS].split())
        return _Answer(status=answer.status_code, reason=answer.reason, words=words)


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
