"""Several workers from one loaded model: forked, watched, replaced, and stopped together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from kbuild.serving.watch.logs import LOGGER

_log = logging.getLogger(LOGGER)
_QUICK = 5.0  # seconds; a worker that dies sooner never worked
_QUICK_DEATHS = 5
_LOOK = 1.0  # seconds between two looks at the workers


class Supervisor:
    """Runs ``work(number)`` in ``count`` forked processes until SIGTERM or SIGINT.

    The parent must have no other thread and must not have predicted: OpenMP does not survive a fork once it ran.
    A worker for which ``silent_for(number)`` is above ``hung`` seconds is killed and replaced;
    ``forget(number)`` is called before, so that the silence of one does not end the next.
    """

    def __init__(
        self,
        count: int,
        work: Callable[[int], None],
        *,
        grace: float,
        silent_for: Callable[[int], float] = lambda _: 0.0,
        forget: Callable[[int], None] = lambda _: None,
        hung: float | None = None,
    ) -> None:
        self._work = work
        self._silent_for, self._forget, self._hung = silent_for, forget, hung
        self._count = count
        self._grace = grace
        self._workers: dict[int, tuple[int, float]] = {}
        self._stopping = False

    def run(self) -> int:
        """The exit code: 0 when asked to stop, 1 when workers die as soon as they are made."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for worker in range(self._count):
            self._start(worker)
        quick_deaths = 0
        for pid, status in self._deaths():
            if pid not in self._workers:
                continue  # an orphan that process 1 inherits
            worker, begun = self._workers.pop(pid)
            if self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            _log.error("a worker died and is replaced", extra={"fields": {"worker": worker, "exit_code": code}})
            quick_deaths = quick_deaths + 1 if time.monotonic() - begun < _QUICK else 0
            if quick_deaths >= _QUICK_DEATHS:
                _log.critical("workers die as soon as they start: giving up")
                self._tell(signal.SIGTERM)
                return 1
            self._start(worker)
        return 0

    def _deaths(self) -> Iterator[tuple[int, int]]:
        """Every child that ends, as waitpid tells it; looks at the workers once a second meanwhile."""
        looked = time.monotonic()
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                yield pid, status
                continue
            signal.sigtimedwait({signal.SIGCHLD}, _LOOK)
            now = time.monotonic()
            # Where this process slept longer, stopped or frozen, the workers did too.
            if self._hung is not None and not self._stopping and now - looked < 2 * _LOOK:
                self._end_hung(self._hung)
            looked = now

    def _end_hung(self, limit: float) -> None:
        for pid, (worker, _) in self._workers.items():
            if self._silent_for(worker) > limit:
                _log.error("a worker hangs and is ended", extra={"fields": {"worker": worker}})
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _start(self, worker: int) -> None:
        # A signal between fork and the child's own handlers must reach the child, not run the parent's handler there.
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, {*signals, signal.SIGCHLD})
        self._forget(worker)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number in signals:
                    signal.signal(number, leave)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {*signals, signal.SIGCHLD})
                self._work(worker)
                code = 0
            except BaseException:  # noqa: BLE001  the child must not run on into the parent's code
                _log.exception("worker %d failed", worker)
            finally:
                os._exit(code)
        self._workers[pid] = (worker, time.monotonic())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._stopping = True
            signal.signal(signal.SIGALRM, self._kill)
            signal.setitimer(signal.ITIMER_REAL, self._grace + 2)
        self._tell(signal.SIGTERM)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        self._tell(signal.SIGKILL)

    def _tell(self, number: int) -> None:
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def leave(number: int, frame: FrameType | None) -> None:
    """A signal handler that ends the process at once: nothing was accepted yet, or all is done."""
    os._exit(0)
