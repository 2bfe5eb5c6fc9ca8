"""A process that ends while a run is under way: the run must not stay RUNNING for ever.

What stops jobs sends SIGTERM, by which Python ends at once, as it does by no other way.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Self

# Seconds until a node that does not stop is stopped; who sends the signal sends SIGKILL 10 to 90 seconds later.
_PATIENCE = 8.0
# And those that a server may take then.
_MARKING = 8.0
_STATUS = 128 + signal.SIGTERM  # as shells tell it


class Terminated(KeyboardInterrupt):
    """Unwinds as Ctrl-C does, so that temporary files go and nothing stays half logged."""


class EndWatch:
    """Between ``install`` and ``remove`` the end of the process calls ``mark``.

    SIGTERM raises Terminated in the main thread; ``came`` says that it did. Where that does not unwind in time, since
    the main thread is in C code or waits for others, another thread calls ``mark`` and ends the process. The signal is
    not taken where it is somebody else's already.
    """

    def __init__(self, mark: Callable[[], None], *, patience: float = _PATIENCE) -> None:
        self.came = False
        self._mark = mark
        self._patience = patience
        self._written: int | None = None

    def install(self) -> None:
        """Take the signal, and what is called when the process ends."""
        atexit.register(self._finish)
        atexit.register(self._mark)  # which comes first
        main = threading.current_thread() is threading.main_thread()
        if os.name != "posix" or not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return
        read, written = os.pipe()
        os.set_blocking(written, False)
        before = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        if before != -1:  # an event loop's
            signal.set_wakeup_fd(before)
            os.close(read)
            os.close(written)
            return
        self._written = written
        signal.signal(signal.SIGTERM, self._raise)
        _installed.add(self)
        # The descriptor tells it at once: handlers of Python wait until C code returns.
        threading.Thread(target=self._watch, args=(read,), daemon=True, name="kbuild-sigterm").start()

    def remove(self) -> None:
        """Give both back; the signal can the main thread alone, another is about to end the process."""
        atexit.unregister(self._mark)
        if not self.came:
            atexit.unregister(self._finish)
        if threading.current_thread() is threading.main_thread():
            self.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def forget(self) -> None:
        """The same in a process that was forked, which is no run's: pools end theirs by that signal."""
        if self._written is None:
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(self._written)  # which ends the thread that reads
        self._written = None
        _installed.discard(self)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # another one ends it as ever
        raise Terminated

    def _watch(self, read: int) -> None:
        if _wait_for(read, signal.SIGTERM):
            end = time.monotonic() + self._patience
            while (left := end - time.monotonic()) > 0:
                if select.select([read], [], [], left)[0] and not os.read(read, 64):
                    break  # unwound
            else:
                self._stop()
        os.close(read)

    def _stop(self) -> None:
        marking = threading.Thread(target=self._mark, daemon=True)
        marking.start()
        marking.join(_MARKING)
        if "multiprocessing" in sys.modules:
            for worker in sys.modules["multiprocessing"].active_children():
                worker.terminate()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(_STATUS)

    def _finish(self) -> None:
        """Last of all end by the signal, as who sent it expects."""
        if self.came:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)


_installed: weakref.WeakSet[EndWatch] = weakref.WeakSet()


_blocked = threading.local()


def _block() -> None:
    """A child that is ended before it has forgotten the guard would end this process: they share the descriptor."""
    if _installed:
        _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _unblock() -> None:
    if (before := _blocked.__dict__.pop("before", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget_all() -> None:
    for guard in list(_installed):
        guard.came = False
        guard.forget()
    _unblock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_forget_all)


def _wait_for(read: int, number: int) -> bool:
    """Whether the signal came, before the pipe was closed."""
    while data := os.read(read, 64):
        if number in data:
            return True
    return False
