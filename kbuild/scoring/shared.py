"""Tasks of one executor share a model that is loaded once.

An engine starts a process for each part, which would take longer to load the model than to ask it. Here the first one
leaves a process behind that loads it, the keeper; each task's stdin, stdout and stderr are handed to a fork of it, and
share its memory. It listens on a name that is no file, is its executor's alone (unix(7), abstract sockets) and is asked
by its own user only; it ends with the executor, and a fork with the process that the engine started. Where any of that
cannot be had, a task loads the model itself.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kbuild.serving.process.forks import find_lost_threads

_FDS = (0, 1, 2)
_BEGUN = b"begun"
_INIT = 1
"""Who has the processes of an engine that has ended, and itself never ends."""
_SOON = 5.0
"""Seconds that a new keeper may take to listen, which it does before it loads anything."""
_IDLE = 600.0
"""Seconds without a task after which it ends, whatever the engine does."""
Serve = Callable[[Any], int]


def serve_shared(load: Callable[[], Any], serve: Serve) -> int:
    """Do ``serve(load())``, in a fork of a process that has loaded before where that can be; returns what it returns.

    ``load`` gives None where it fails, for ``serve`` to find out why.
    """
    engine = os.getppid()
    if engine == _INIT:
        return serve(load())
    with contextlib.suppress(OSError, AttributeError):  # another system, or an older kernel
        name = _name(engine)
        connection = _connect(name) or _leave_keeper(name, engine, load, serve)
        if connection is not None:
            with connection:
                code = _hand_over(connection)
            if code is not None:
                return code
    return serve(load())


def _name(engine: int) -> bytes:
    """One for each engine's process, which others may see by the same number, model and user."""
    stat = Path(f"/proc/{engine}/stat").read_text("utf-8").rpartition(")")[2].split()
    spaces = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "mnt")]
    facts = [str(engine), stat[19], *spaces, str(os.getuid()), str(Path.cwd()), os.environ.get("KBUILD_MODEL", "")]
    return b"\0kbuild-" + hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32].encode()


def _connect(name: bytes) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        connection.connect(name)
        if _is_mine(connection):
            return connection
    connection.close()
    return None


def _is_mine(connection: socket.socket) -> bool:
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


def _leave_keeper(name: bytes, engine: int, load: Callable[[], Any], serve: Serve) -> socket.socket | None:
    """Fork the keeper; returns a connection to it, or to one that another task left meanwhile."""
    watched = os.pidfd_open(engine)
    if os.fork() == 0:
        code = 1
        try:
            code = _keep(name, watched, load, serve)
        finally:
            os._exit(code)
    os.close(watched)
    deadline = time.monotonic() + _SOON
    while time.monotonic() < deadline:
        connection = _connect(name)
        if connection is not None:
            return connection
        time.sleep(0.005)
    return None


def _hand_over(connection: socket.socket) -> int | None:
    """What the fork returned; None where none has begun, and nothing was read."""
    try:
        socket.send_fds(connection, [b"\0"], [*_FDS])
        told = b""
        while data := connection.recv(64):
            told += data
    except OSError:
        return None
    if not told:
        return None
    code = told.removeprefix(_BEGUN)
    return code[0] if code else 128 + signal.SIGKILL  # it was killed


def _keep(name: bytes, watched: int, load: Callable[[], Any], serve: Serve) -> int:
    """Answer until the engine's process ends."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for each in _FDS:
        # Whoever reads what the task says waits until nobody can write to it any more.
        os.dup2(nothing, each)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(name)
    except OSError:
        return 0  # another was first
    listener.listen(128)
    loaded = load()
    if find_lost_threads():
        return 0  # each task loads for itself
    gc.freeze()  # else the collector writes to pages that forks share
    children: set[int] = set()
    last = time.monotonic()
    while children or time.monotonic() - last < _IDLE:
        ready, _, _ = select.select([listener.fileno(), watched], [], [], 1.0)
        children -= {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}
        if watched in ready:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            return 0
        if listener.fileno() not in ready:
            continue
        connection, _ = listener.accept()
        with connection:
            pid = os.fork() if _is_mine(connection) else -1
            if pid == 0:
                listener.close()
                _answer(connection, loaded, serve)
            elif pid > 0:
                children.add(pid)
                last = time.monotonic()
    return 0


def _answer(connection: socket.socket, loaded: Any, serve: Serve) -> None:
    """Serve with the stdin, stdout and stderr of who asks, and exit."""
    code = 1
    try:
        _, fds, _, _ = socket.recv_fds(connection, 1, len(_FDS))
        for mine, theirs in zip(_FDS, fds, strict=True):
            os.dup2(theirs, mine)
            os.close(theirs)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(fd, mode, encoding="utf-8") for fd, mode in zip(_FDS, "rww", strict=True)
        )
        connection.sendall(_BEGUN)
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        code = serve(loaded)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        connection.sendall(bytes([code]))
    finally:
        os._exit(code)


def _end_with(connection: socket.socket) -> None:
    """End when the process that the engine started has ended."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(128 + signal.SIGTERM)
