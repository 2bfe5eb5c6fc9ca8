"""Programs that are waited for. A ``Runner`` is handed to whoever needs one, never global."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from kbuild.errors import ProgramNotFound
from kbuild.process.signals import SignalsWait

# How long a killed program's streams are read on for, in seconds.
_LAST_WORDS = 1.0


@dataclass(frozen=True, slots=True)
class Completed:
    """How a process ended: its words on both streams, decoded as UTF-8 with replacement."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def last_line(text: str, otherwise: str = "") -> str:
    """The last line of what a program wrote, which mostly says why it failed; ``otherwise`` if it wrote nothing."""
    return text.strip().rsplit("\n", 1)[-1].strip() or otherwise


class Runner(Protocol):
    """Runs a program to its end."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """Run ``argv``; a return code other than 0 is a value, not an error.

        ``env`` replaces the environment when given; ``on_line`` gets each line of stderr as it comes;
        ``timeout`` is in seconds, until the program and all that hold its streams have ended. Raises ProgramNotFound
        when ``argv[0]`` does not exist, TimeoutError when it takes longer than ``timeout``, and what ``on_line``
        raises; then, and on Ctrl-C, the program and what it started are killed first.
        """


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    on_line: Callable[[str], None] | None = None,
    timeout: float | None = None,
) -> Completed:
    """The real ``Runner``."""
    return _run(argv, env, cwd, stdin, on_line, timeout, lambda process: None)


class RunnerGroup:
    """A ``Runner`` for several threads, all of whose programs another thread can end."""

    def __init__(self) -> None:
        # A signal's handler may call ``end`` on a thread that holds the lock.
        self._lock = threading.RLock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str | None = None,
        on_line: Callable[[str], None] | None = None,
        timeout: float | None = None,
    ) -> Completed:
        """As ``run``; raises KeyboardInterrupt once ``end`` was called, also where that ended the program."""
        started: list[subprocess.Popen[str]] = []

        def note(process: subprocess.Popen[str]) -> None:
            started.append(process)
            with self._lock:
                self._running.add(process)
                if self._ended:
                    raise KeyboardInterrupt

        try:
            done = _run(argv, env, cwd, stdin, on_line, timeout, note)
        finally:
            with self._lock:
                self._running.difference_update(started)
        if self._ended:
            raise KeyboardInterrupt
        return done

    def end(self) -> None:
        """Kill what runs and what it started; what is asked for later is not started."""
        with self._lock:
            self._ended = True
            for process in list(self._running):
                _kill(process)


def _run(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    stdin: str | None,
    on_line: Callable[[str], None] | None,
    timeout: float | None,
    started: Callable[[subprocess.Popen[str]], None],
) -> Completed:
    waiting = SignalsWait()
    try:
        process = _start(argv, env, cwd, subprocess.DEVNULL if stdin is None else subprocess.PIPE)
    except BaseException:
        waiting.end()
        raise
    out: list[str] = []
    err: list[str] = []
    failed: list[BaseException] = []

    def tell(line: str) -> None:
        if on_line is None or failed:
            return
        try:
            on_line(line)
        except BaseException as error:  # noqa: BLE001  raised below: in a thread it would only be printed
            failed.append(error)
            _kill(process)

    # The threads close their streams: a stream cannot be closed while another thread reads it.
    threads = [
        threading.Thread(target=_collect, args=(process.stdout, out, None), daemon=True),
        threading.Thread(target=_collect, args=(process.stderr, err, tell), daemon=True),
    ]
    if process.stdin is not None:
        threads.append(threading.Thread(target=_feed, args=(process.stdin, stdin or ""), daemon=True))
    deadline = None if timeout is None else time.monotonic() + timeout
    ended = False
    try:
        waiting.end()
        for thread in threads:
            thread.start()
        started(process)
        process.wait(timeout)
        for thread in threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        ended = not any(thread.is_alive() for thread in threads)
    except subprocess.TimeoutExpired:
        pass  # told below, when all of it has been ended
    finally:
        if not ended:
            _kill(process)
            process.wait()
            for thread in threads:
                # A process that left the group may hold the streams for ever; nobody waits for that.
                if thread.ident is not None:  # Ctrl-C may come before it is started
                    thread.join(_LAST_WORDS)
    if failed:
        raise failed[0]
    if not ended:
        raise TimeoutError(f"{argv[0]} took longer than {timeout:g} s")
    return Completed(tuple(argv), process.returncode, "".join(out), "".join(err))


def _start(argv: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None, stdin: int) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            list(argv),
            env=None if env is None else dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            # A group of its own: what the program starts in turn can be ended with it.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise
        raise ProgramNotFound(f"{argv[0]} is not installed or not on the PATH") from error


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended meanwhile
        os.killpg(process.pid, signal.SIGKILL)


def _feed(stream: IO[str], text: str) -> None:
    # A program that ends without reading is no error here; its return code tells more.
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(text)


def _collect(stream: IO[str], into: list[str], on_line: Callable[[str], None] | None) -> None:
    with stream:
        for line in stream:
            into.append(line)
            if on_line is not None:
                on_line(line.rstrip("\n"))
