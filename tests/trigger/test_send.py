from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import pytest
from listening import listening

from kbuild.errors import DeliveryFailed
from kbuild.trigger.event import TrainingEvent
from kbuild.trigger.send import send
from kbuild.trigger.signature import check_signature
from kbuild.trigger.trigger_settings import GithubTrigger, GitlabTrigger, WebhookTrigger

VARIABLE = "HOOK"
TOKEN = "hush-hush"  # noqa: S105


@dataclass
class Server:
    """Answers with ``statuses`` one after another, the last for ever, and keeps what it was sent."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [204])
    text: str = ""
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            served.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status = served.statuses.pop(0) if len(served.statuses) > 1 else served.statuses[0]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{served.url}/elsewhere")
            self.send_header("Content-Length", str(len(served.text)))
            self.end_headers()
            self.wfile.write(served.text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setattr("kbuild.trigger.send._BACKOFF", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with listening(HTTPServer(("127.0.0.1", 0), Handler)) as served.url:
        yield served


def test_a_webhook_is_signed_and_can_be_told_twice(server: Server, event: TrainingEvent) -> None:
    hook = WebhookTrigger(url=f"{server.url}/kbuild?x=1")
    send(hook, event, environ={"KBUILD_WEBHOOK_SECRET": TOKEN}, clock=lambda: 1000.7)
    ((path, headers, body),) = server.got
    assert path == "/kbuild?x=1" and body == event.body
    assert headers["idempotency-key"] == f'"{event.id}"' and headers["x-kbuild-event"] == "model.logged"
    assert headers["webhook-id"] == event.id and headers["webhook-timestamp"] == "1000"
    assert headers["x-kbuild-timestamp"] == "1000" and headers["content-type"] == "application/json"
    check_signature(TOKEN, headers, body, now=1000, tolerance=1)


def test_github_gets_its_dispatch(server: Server, event: TrainingEvent) -> None:
    trigger = GithubTrigger(repository="team/churn", api_url=f"{server.url}/api/v3/")
    send(trigger, event, environ={"KBUILD_GITHUB_TOKEN": TOKEN})
    ((path, headers, body),) = server.got
    assert path == "/api/v3/repos/team/churn/dispatches"
    assert headers["authorization"] == f"Bearer {TOKEN}" and headers["x-github-api-version"] == "2022-11-28"
    sent = json.loads(body)
    assert sent["event_type"] == "kbuild-model-logged" and sent["client_payload"]["model_uri"] == event.model_uri
    assert len(sent["client_payload"]) <= 10


def test_gitlab_gets_its_pipeline(server: Server, event: TrainingEvent) -> None:
    server.statuses = [201]
    trigger = GitlabTrigger(project="group/sub/churn", ref="dev", api_url=server.url)
    send(trigger, event, environ={"KBUILD_GITLAB_TOKEN": TOKEN})
    ((path, headers, body),) = server.got
    assert path == "/projects/group%2Fsub%2Fchurn/trigger/pipeline"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(body.decode()) == {
        "token": [TOKEN],
        "ref": ["dev"],
        "variables[KBUILD_RUN_ID]": [event.run_id],
        "variables[KBUILD_MODEL_URI]": [event.model_uri],
        "variables[KBUILD_EVENT_ID]": [event.id],
    }


def test_a_busy_server_is_asked_again(server: Server, event: TrainingEvent) -> None:
    server.statuses = [503, 429, 200]
    send(WebhookTrigger(url=server.url, retries=2), event, environ={"KBUILD_WEBHOOK_SECRET": TOKEN})
    assert len(server.got) == 3


@pytest.mark.parametrize(
    ("statuses", "asked", "match"),
    [
        ([503], 3, "answered 503"),
        ([401], 1, "answered 401"),
        ([302], 1, "answered 302"),
        ([500, 404], 2, "answered 404"),
    ],
)
def test_what_it_does_not_take_is_told(
    statuses: list[int], asked: int, match: str, server: Server, event: TrainingEvent
) -> None:
    server.statuses, server.text = statuses, f"no good: {TOKEN}"
    with pytest.raises(DeliveryFailed, match=match) as caught:
        send(WebhookTrigger(url=server.url, retries=2), event, environ={"KBUILD_WEBHOOK_SECRET": TOKEN})
    assert len(server.got) == asked
    assert TOKEN not in caught.value.message and "no good" in caught.value.message


def test_nobody_there_is_one_line(event: TrainingEvent) -> None:
    with pytest.raises(DeliveryFailed, match=r"^127\.0\.0\.1:9 does not answer: .*refused$"):
        send(WebhookTrigger(url="http://127.0.0.1:9", retries=0), event, environ={"KBUILD_WEBHOOK_SECRET": TOKEN})


@pytest.mark.parametrize("environ", [{}, {"KBUILD_GITHUB_TOKEN": ""}])
def test_a_missing_token_is_named(environ: dict[str, str], event: TrainingEvent) -> None:
    with pytest.raises(DeliveryFailed, match="KBUILD_GITHUB_TOKEN is not set"):
        send(GithubTrigger(repository="a/b"), event, environ=environ)


def test_a_token_with_a_line_break_is_not_shown(event: TrainingEvent) -> None:
    with pytest.raises(DeliveryFailed, match="line break") as caught:
        send(GithubTrigger(repository="a/b"), event, environ={"KBUILD_GITHUB_TOKEN": f"{TOKEN}\n"})
    assert TOKEN not in caught.value.message


@pytest.mark.parametrize(
    ("at_once", "taken"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", False),
        (b"HTTP/1.1 400 Bad\r\nContent-Length: 900\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", True),
    ],
)
def test_one_byte_at_a_time_holds_nobody_up(
    event: TrainingEvent, monkeypatch: pytest.MonkeyPatch, at_once: bytes, taken: bool
) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(at_once)
                while not ended.wait(0.05):
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        monkeypatch.setenv(VARIABLE, TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        trigger = WebhookTrigger(url=url, secret_env=VARIABLE, timeout=0.3)
        begun = time.monotonic()
        try:
            if taken:
                send(trigger, event, environ=os.environ)
            else:
                with pytest.raises(DeliveryFailed):
                    send(trigger, event, environ=os.environ)
            assert time.monotonic() - begun < 5
        finally:
            ended.set()
            thread.join()
