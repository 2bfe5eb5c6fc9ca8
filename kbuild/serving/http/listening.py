"""The listening sockets, open from the first moment, and who answers on them while the model loads."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

from kbuild.errors import ConfigurationError

_BACKLOG = 2048
_ALIVE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\nConnection: close\r\n\r\n\n"
_BODY = b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "The model is loading."}'
_LOADING = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_BODY), _BODY)
)


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """``count`` sockets on one address; the kernel spreads connections over them.

    One a worker, kept by the parent too, so that connections wait while a worker is replaced. Raises
    ConfigurationError when the address cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        for _ in range(count):
            # Accepted sockets inherit TCP_NODELAY, and asyncio sets it only where the protocol is named.
            made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            sockets.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if count > 1:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((host, port))
            made.listen(_BACKLOG)
    except OSError as error:
        for made in sockets:
            made.close()
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return sockets


class LoadingAnswers:
    """While entered, ``/livez`` and ``/v2/health/live`` are 200 and everything else 503, from a thread.

    Over TLS, connections wait instead.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._answer, name="loading", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.close()
        self._thread.join()
        self._stopped.close()

    def _answer(self) -> None:
        while True:
            readable, _, _ = select.select([self._stopped, *self._sockets], [], [])
            if self._stopped in readable:
                return
            for listening in readable:
                # A client that hangs up is no concern of ours.
                with contextlib.suppress(OSError):
                    connection, _ = listening.accept()
                    with connection:
                        _answer_one(connection)


def _answer_one(connection: socket.socket) -> None:
    connection.settimeout(0.5)
    head = connection.recv(65536)
    connection.sendall(_ALIVE if head.startswith((b"GET /livez ", b"GET /v2/health/live ")) else _LOADING)
    # What is unread when a socket closes turns the close into a reset, which can overtake the answer.
    connection.shutdown(socket.SHUT_WR)
    # Not for ever: others wait, and so does the loaded model.
    until = time.monotonic() + 0.5
    while time.monotonic() < until and connection.recv(65536):
        pass
