"""Programs that go on by themselves."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kbuild.errors import ProgramNotFound
from kbuild.process.signals import SignalsWait


class RunningProcess:
    """A process that goes on by itself; it leads a session of its own, so that Ctrl-C does not reach it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process id on this machine."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its return code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float) -> int | None:
        """Its return code once it has ended, None if it has not after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        """Send it a signal; one that has ended gets none."""
        self._process.send_signal(number)


class Starter(Protocol):
    """Starts a program and does not wait for it."""

    def __call__(
        self, argv: Sequence[str], *, env: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()
    ) -> RunningProcess:
        """Start ``argv`` with exactly ``env``; both of its streams are appended to ``log``, its stdin is empty.

        ``pass_fds`` stay open in it under their numbers. Raises ProgramNotFound.
        """


def start(argv: Sequence[str], *, env: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()) -> RunningProcess:
    """The real ``Starter``."""
    with log.open("ab") as file:
        waiting = SignalsWait()
        process: subprocess.Popen[bytes] | None = None
        try:
            process = subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ProgramNotFound(f"{argv[0]} is not installed or not on the PATH") from error
        finally:
            try:
                waiting.end()
            except BaseException:
                if process is not None:
                    process.kill()
                raise
    return RunningProcess(process)
