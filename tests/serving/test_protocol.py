from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from kbuild.serving.http.protocol import make_protocol

HEAD = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT = 0.4


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * LIMIT)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port() -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=make_protocol(LIMIT), lifespan="off", log_config=None, timeout_keep_alive=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()
    listening.close()


def closed_after(client: socket.socket) -> float:
    """Seconds until the server closes."""
    begun = time.monotonic()
    client.settimeout(5)
    assert client.recv(100) == b""
    return time.monotonic() - begun


def test_who_does_not_ask_is_let_go(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert closed_after(client) < 4 * LIMIT


def test_a_head_that_drips_is_not_waited_for(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HT")
        time.sleep(LIMIT / 2)
        client.sendall(b"TP/1.1\r\n")
        assert closed_after(client) < 2 * LIMIT


def test_a_request_takes_as_long_as_it_takes_and_the_connection_stays(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(5)
        for path in (b"/slow", b"/"):
            client.sendall(HEAD % path)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += client.recv(1000)
            time.sleep(1.5 * LIMIT)
        # The next head drips.
        client.sendall(b"GET /")
        assert LIMIT / 2 < closed_after(client) < 4 * LIMIT
