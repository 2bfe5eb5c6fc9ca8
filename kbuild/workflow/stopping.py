"""Ending work that runs in threads: the programs that it started at once, itself at its next word of how far it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from kbuild.process import RunnerGroup
from kbuild.progress import Progress
from kbuild.workflow.tools import Phases, Tools

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping_at_signals(tools: Tools) -> Iterator[Tools]:
    """Tools whose work ends with the command: at Ctrl-C Python tells the main thread alone, which waits for the others.

    They may be compressing a layer for seconds, or waiting for a program in a session of its own. What handled a signal
    before still does, afterwards. In any other thread than the main one the tools are given back as they are: whoever
    started it ends it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield tools
        return
    group, stopped = RunnerGroup(), threading.Event()
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}

    def end(number: int, frame: FrameType | None) -> None:
        stopped.set()
        group.end()
        handlers[signal.Signals(number)](number, frame)

    for number in handlers:
        signal.signal(number, end)
    try:
        yield replace(tools, run=group, phases=Stoppable(tools.phases, stopped))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@dataclass(frozen=True, slots=True)
class Stoppable:
    """Phases whose progress stops the work by KeyboardInterrupt: every long piece of it tells how far it is."""

    inner: Phases
    stopped: threading.Event

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        """See Phases."""
        with self.inner(phase) as progress:
            yield _StoppableProgress(progress, self.stopped)


@dataclass(frozen=True, slots=True)
class _StoppableProgress:
    inner: Progress
    stopped: threading.Event

    def note(self, text: str) -> None:
        self._check()
        self.inner.note(text)

    def tell(self, text: str) -> None:
        self._check()
        self.inner.tell(text)

    def made(self, text: str) -> None:
        self.inner.made(text)

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        self._check()
        self.inner.count(done, total, unit)

    def _check(self) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt
