"""Signals that come while a program is being started."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


class SignalsWait:
    """Handlers of signals, put off until ``end``: one that raises before Popen has returned leaves a program behind,
    which nobody knows. To block signals would not do: the program would have them blocked too."""

    def __init__(self) -> None:
        self._came: list[tuple[int, FrameType | None]] = []
        self._handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
        if threading.current_thread() is threading.main_thread():  # no other runs handlers
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, lambda number, frame: self._came.append((number, frame)))

    def end(self) -> None:
        """Put the handlers back and call them for what came; raises what they raise."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number, frame in self._came:
            self._handlers[number](number, frame)
