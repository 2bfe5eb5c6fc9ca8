"""Running an image without Docker: its root file system, read-only, in namespaces of this machine's kernel.

Inside it is never root, /tmp is its own and everything else is read-only. The network is this machine's: the
scoring server is told to listen on 127.0.0.1 and on a port that was free (``KBUILD_HOST``, ``KBUILD_PORT``).
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.errors import ContainerFailed
from kbuild.image.run.runtimes import Runtime, SandboxOrder
from kbuild.image.run.unpack import UnpackedImage
from kbuild.image.run.usage import Host, Usage, this_host, tree_usage
from kbuild.process import RunningProcess, Starter, last_line

NONROOT = 65532
STOP_SECONDS = 10.0
_START_SECONDS = 30.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def make_order(
    image: UnpackedImage, *, env: Mapping[str, str] | None = None, argv: Sequence[str] | None = None
) -> SandboxOrder:
    """The program, environment, folder and user of the image's config (config.md), ``env`` and ``argv`` winning.

    An image that asks for root, or names no user, runs as user 65532. Raises ContainerFailed when it has no
    program or names a user that it does not know.
    """
    config = image.config
    words = tuple(argv or [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])])
    if not words:
        raise ContainerFailed(
            f"image {image.digest} has no entrypoint",
            hint="what kbuild image --as model builds has a model's files, and nothing that serves them",
        )
    own = dict(entry.split("=", 1) for entry in config.get("Env") or [] if "=" in entry)
    uid, gid = _user(str(config.get("User") or ""), image.root)
    return SandboxOrder(
        root=image.root,
        argv=words,
        env={"PATH": _PATH, "HOME": "/tmp", **own, **(env or {})},  # noqa: S108 the only place it may write
        cwd=config.get("WorkingDir") or "/",
        uid=uid,
        gid=gid,
    )


@dataclass(kw_only=True, slots=True)
class SandboxedImage:
    """A program that runs in a sandbox, see ``RunningImage``.

    ``pid`` is the program's on this machine: process 1 of its own namespace, whose end is the end of all in it.
    ``close`` is called when it has ended, for what was there for its sake.
    """

    runtime: str
    root: Path
    port: int
    pid: int
    log: Path
    stop_signal: int
    process: RunningProcess
    close: Callable[[], None] = lambda: None
    started: float = field(default_factory=time.monotonic)

    @property
    def url(self) -> str:
        """Where the scoring server listens, without a final slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def remote(self) -> bool:
        """It is a process of this machine."""
        return False

    def usage(self) -> Usage:
        """Of its processes."""
        return tree_usage(self.pid)

    def host(self) -> Host:
        """This machine."""
        return this_host(self.runtime)

    def describe(self) -> str:
        """What runs it, for people."""
        return f"{self.runtime}, process {self.pid}"

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def logs(self) -> str:
        """What it wrote so far on both streams."""
        return self.log.read_text("utf-8", "replace")

    def log_command(self) -> str:
        """What a person types to read that as it comes."""
        return f"tail -f {shlex.quote(str(self.log))}"

    def read_file(self, path: str) -> bytes | None:
        """A file of the image by its absolute path; links in it are not followed out of the image."""
        file = (self.root / path.lstrip("/")).resolve()
        return file.read_bytes() if file.is_relative_to(self.root.resolve()) and file.is_file() else None

    def wait(self, timeout: float) -> int | None:
        """The program's exit code, None if it still runs after ``timeout`` seconds."""
        return self.process.wait(timeout)

    def stop(self) -> None:
        """Send the image's stop signal, and SIGKILL after ten seconds; nothing of it is left behind."""
        try:
            self._end()
        finally:
            self.close()

    def _end(self) -> None:
        for number in (self.stop_signal, signal.SIGKILL):
            if self.alive():
                with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
                    os.kill(self.pid, number)
                self.wait(STOP_SECONDS)
        if self.alive():
            self.process.signal(signal.SIGKILL)
            self.wait(STOP_SECONDS)


def start_sandbox(
    order: SandboxOrder, *, runtime: Runtime, start: Starter, log: Path, port: int = 0, stop_signal: str = "SIGTERM"
) -> SandboxedImage:
    """Start a program; it dies with the thread that calls this. ``port`` 0 takes a free one.

    Both its streams go to the file ``log``. Raises ContainerFailed when the sandbox cannot be made.
    """
    port = port or free_port()
    env = {**order.env, "KBUILD_HOST": "127.0.0.1", "KBUILD_PORT": str(port)}
    order = SandboxOrder(root=order.root, argv=order.argv, env=env, cwd=order.cwd, uid=order.uid, gid=order.gid)
    orders = os.memfd_create("kbuild-orders")
    info, answer = os.pipe()
    try:
        argv, content = runtime.command(order, orders, answer)
        os.write(orders, content)
        os.lseek(orders, 0, os.SEEK_SET)
        started = time.monotonic()
        process = start(argv, env={"PATH": os.environ.get("PATH", _PATH)}, log=log, pass_fds=(orders, answer))
        os.close(answer)
        answer = -1
        pid = _read_pid(info)
    finally:
        for number in (orders, info, answer):
            if number >= 0:
                os.close(number)
    if pid is None:
        process.signal(signal.SIGKILL)
        process.wait(STOP_SECONDS)
        reason = last_line(log.read_text("utf-8", "replace"), "it says nothing")
        raise ContainerFailed(f"{runtime.name} cannot start the image: {reason}")
    return SandboxedImage(
        runtime=runtime.name,
        root=order.root,
        port=port,
        pid=pid,
        log=log,
        stop_signal=signal.Signals[stop_signal],
        process=process,
        started=started,
    )


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _read_pid(info: int) -> int | None:
    """The program's process id, None if the sandbox ended without one."""
    text = b""
    while select.select([info], [], [], _START_SECONDS)[0] and (data := os.read(info, 4096)):
        text += data
    match = re.search(rb'"child-pid"\s*:\s*(\d+)', text)
    return None if match is None else int(match[1])


def _user(text: str, root: Path) -> tuple[int, int]:
    user, _, group = text.partition(":")
    uid, gid = NONROOT, NONROOT
    if user.isdecimal():
        uid = int(user)
        gid = uid
    elif user:
        uid, gid = _lookup(root / "etc/passwd", user, (2, 3))
    if group:
        gid = int(group) if group.isdecimal() else _lookup(root / "etc/group", group, (2, 2))[0]
    return (uid, gid) if uid else (NONROOT, NONROOT)


def _lookup(file: Path, name: str, columns: tuple[int, int]) -> tuple[int, int]:
    if file.is_file() and not file.is_symlink():
        for line in file.read_text("utf-8", "replace").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > max(columns) and all(fields[n].isdecimal() for n in columns):
                return int(fields[columns[0]]), int(fields[columns[1]])
    raise ContainerFailed(f"the image runs as {name!r}, which its /etc/{file.name} does not know")
