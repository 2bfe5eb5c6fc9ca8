"""The gate before the model: a bounded number of requests at a time, each with a deadline.

A prediction that runs cannot be stopped in Python. So its place is given back when its thread is done, not when its
client was told 504: work that hangs makes the server full, and a full server says so at once. ``hung_for`` tells
whoever can end the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class GateFull(Exception):
    """Every place is taken."""


class GateTimeout(Exception):
    """The work was not done in time; if it had not begun it never will."""


class Ticket:
    """A place; given back exactly once."""

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate

    def give_back(self) -> None:
        """Free the place; a second time does nothing."""
        if self._gate is not None:
            gate, self._gate = self._gate, None
            gate.taken -= 1
            gate.tell(gate.taken)


class Gate:
    """``threads`` places that work and ``queue`` that wait; used from one event loop only.

    ``tell`` is called with how many are taken, whenever that changes.
    """

    def __init__(self, *, threads: int, queue: int, tell: Callable[[int], None]) -> None:
        self.taken = 0
        self.threads = threads
        self.tell = tell
        self._places = threads + queue
        self._pool = ThreadPoolExecutor(threads, "predict")
        self._begun: dict[object, float] = {}  # of each work that runs; written by the threads, one step each

    def enter(self) -> Ticket:
        """Take a place; raises GateFull."""
        if self.taken >= self._places:
            raise GateFull
        self.taken += 1
        self.tell(self.taken)
        return Ticket(self)

    def start(self, work: Callable[[], T], then: Callable[[], None]) -> Future[T]:
        """Run ``work`` in a thread as soon as one is free; ``then`` follows in the event loop, also after an error."""
        loop = asyncio.get_running_loop()
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(then))
        return future

    def hung_for(self) -> float:
        """Seconds for which no thread has been free and none has done anything to its end; 0 while one is free."""
        begun = list(self._begun.values())
        return time.monotonic() - max(begun) if len(begun) >= self.threads else 0.0

    def _timed(self, work: Callable[[], T]) -> T:
        mark = object()
        self._begun[mark] = time.monotonic()
        try:
            return work()
        finally:
            del self._begun[mark]

    async def run(self, ticket: Ticket, work: Callable[[], T], *, timeout: float) -> T:
        """The result of ``work``, run in a thread; uses up the ticket. Raises GateTimeout after ``timeout`` s."""
        waiting = asyncio.wrap_future(self.start(work, ticket.give_back))
        finished, _ = await asyncio.wait({waiting}, timeout=timeout)
        if not finished:
            # Cancels what has not begun; what runs goes on and keeps its place.
            waiting.cancel()
            raise GateTimeout
        return waiting.result()
