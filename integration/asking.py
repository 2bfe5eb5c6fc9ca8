"""Asking scoring servers: once, or as fast as they answer, from a process of its own.

``python asking.py`` reads lines of JSON, ``{"port", "body", "connections", "seconds", "path"}``, and answers each with
how long it took and the list of latencies, in seconds. It costs little beside the servers: plain sockets, one thread,
requests that are made beforehand.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

JSON = {"Content-Type": "application/json"}
_HEAD = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
Ask = Callable[[int, bytes, int, float, str], tuple[float, list[float]]]
INVOCATIONS = "/invocations"
_MOST_CLOSED = 20


def answers(port: int, question: bytes) -> bool:
    """Whether a server on ``port`` answers with 200."""
    return ask_once(port, question)[0] == 200


def ask_once(port: int, question: bytes, path: str = INVOCATIONS) -> tuple[int, Any]:
    """Status and parsed body; status 0 where nobody answers, body None where it is no 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", path, question, JSON)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()) if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        connection.close()


@contextmanager
def asker() -> Iterator[Ask]:
    """A function that asks from another process: a port, with a body, over so many connections, for so many seconds."""
    with subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        reading, writing = process.stdout, process.stdin

        def ask(port: int, body: bytes, connections: int, seconds: float, path: str) -> tuple[float, list[float]]:
            asked = {"port": port, "body": body.decode(), "connections": connections, "seconds": seconds, "path": path}
            writing.write(json.dumps(asked).encode() + b"\n")
            writing.flush()
            line = reading.readline()
            if not line:
                raise SystemExit("the process that asks has failed")
            took, latencies = json.loads(line)
            return took, latencies

        try:
            yield ask
        finally:
            writing.close()


def drive(port: int, body: bytes, connections: int, seconds: float, path: str) -> tuple[float, list[float]]:
    """Keep one request under way on each connection until the time is over; how long that was, latencies (s)."""
    request = _HEAD % (path.encode(), len(body)) + body
    latencies: list[float] = []
    begun: dict[socket.socket, float] = {}
    waiting = select.poll()
    by_number: dict[int, socket.socket] = {}

    def connect() -> socket.socket:
        made = socket.create_connection(("127.0.0.1", port), timeout=60)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        by_number[made.fileno()] = made
        waiting.register(made, select.POLLIN)
        return made

    closed = 0
    for _ in range(connections):
        connect()
    started = time.perf_counter()
    for made in by_number.values():
        begun[made] = time.perf_counter()
        made.sendall(request)
    while begun:
        for number, _ in waiting.poll():
            made = by_number[number]
            if not _read_answer(made, port):
                # As every client does with a kept connection: uvicorn closes one whose next request it is late to read.
                closed += 1
                if closed > _MOST_CLOSED:
                    raise SystemExit(f"the server on port {port} closed {closed} connections")
                since = begun.pop(made)
                waiting.unregister(number)
                by_number.pop(number).close()
                again = connect()
                begun[again] = since
                again.sendall(request)
                continue
            now = time.perf_counter()
            latencies.append(now - begun.pop(made))
            if now < started + seconds:
                begun[made] = time.perf_counter()
                made.sendall(request)
    for made in by_number.values():
        made.close()
    return now - started, latencies


def _read_answer(connection: socket.socket, port: int) -> bool:
    """Read one whole response, False where the connection was closed before; raises SystemExit where it is no 200."""
    got = b""
    while (split := got.find(b"\r\n\r\n")) < 0:
        try:
            part = connection.recv(1 << 18)
        except ConnectionResetError:
            part = b""
        if not part and not got:
            return False
        if not part:
            raise SystemExit(f"the server on port {port} closed the connection amid an answer")
        got += part
    head = got[:split].lower()
    if not head.startswith(b"http/1.1 200"):
        raise SystemExit(f"the server on port {port} answered {head.splitlines()[0].decode()}")
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    left = length - (len(got) - split - 4)
    while left > 0:
        part = connection.recv(1 << 18)
        if not part:
            raise SystemExit(f"the server on port {port} closed the connection amid an answer")
        left -= len(part)
    return True


def main() -> None:
    """Answer lines until there are no more."""
    for line in sys.stdin:
        asked = json.loads(line)
        asked["body"] = asked["body"].encode()
        print(json.dumps(drive(**asked)), flush=True)


if __name__ == "__main__":
    main()
