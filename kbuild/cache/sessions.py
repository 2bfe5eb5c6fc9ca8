"""Who works with the cache now, since when, and how much each of them is about to write.

``sessions/<pid>-<random>`` is locked by the command whose it is, which a killed process gives back by itself; in it
stand the time it began, in nanoseconds since 1970, and the bytes it has reserved. Whatever was used since the oldest of
them began is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FOLDER = "sessions"
_LENGTH = 41


@dataclass(frozen=True, slots=True)
class Live:
    """A command that runs."""

    began: int
    reserved: int


class CacheSession:
    """This process's part in a cache."""

    def __init__(self, cache: Path) -> None:
        """Raises OSError where the cache cannot be written."""
        folder = cache / _FOLDER
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        hidden = folder / f".{self._path.name}"
        self._descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self.began = time.time_ns()
            self.reserved = 0
            self.write()
            hidden.rename(self._path)  # seen locked or not at all
        except BaseException:
            os.close(self._descriptor)
            raise

    def begin_again(self) -> None:
        """Nothing that was used before is needed any more, but for what is marked as used from now on."""
        self.began = time.time_ns()
        self.write()

    def write(self) -> None:
        """Tell the others."""
        os.pwrite(self._descriptor, f"{self.began:020d} {self.reserved:020d}".encode(), 0)

    def close(self) -> None:
        """The command has ended."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._descriptor)


def live_sessions(cache: Path) -> list[Live]:
    """The commands that work with a cache, this one among them; what killed ones left is removed."""
    found = []
    for path in (cache / _FOLDER).glob("*"):  # hidden ones are not whole yet, or of commands killed in that moment
        with contextlib.suppress(FileNotFoundError), _opened(path) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(_read(descriptor))
            else:
                path.unlink()
    return found


def _read(descriptor: int) -> Live:
    try:
        began, reserved = os.pread(descriptor, _LENGTH, 0).decode().split()
        return Live(int(began), int(reserved))
    except ValueError:
        return Live(0, 0)  # all of the cache may be in use


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
