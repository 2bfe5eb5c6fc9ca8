"""Which requests are answered together: those that wait when the model becomes free, up to so many.

Used from one event loop only, as the gate is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from kbuild.serving.answer.batch import Answer, BatchAnswers, Request
from kbuild.serving.answer.gate import Gate, GateTimeout, Ticket
from kbuild.serving.watch.metrics import Metrics


@dataclass(kw_only=True, slots=True, eq=False)
class _Waiting:
    request: Request
    ticket: Ticket
    answer: asyncio.Future[Answer]


class Batcher:
    """Puts up to ``size`` requests together; waits up to ``delay`` seconds for them while the model is free."""

    def __init__(self, answers: BatchAnswers, gate: Gate, metrics: Metrics, *, size: int, delay: float) -> None:
        self._answers = answers
        self._gate = gate
        self._metrics = metrics
        self._size = size
        self._delay = delay
        self._waiting: deque[_Waiting] = deque()
        self._running = 0
        self._timer: asyncio.Handle | None = None

    async def ask(self, ticket: Ticket, request: Request, *, timeout: float) -> Answer:
        """The answer to one request; uses up the ticket. Raises GateTimeout after ``timeout`` s."""
        loop = asyncio.get_running_loop()
        one = _Waiting(request=request, ticket=ticket, answer=loop.create_future())
        self._waiting.append(one)
        self._plan()
        finished, _ = await asyncio.wait({one.answer}, timeout=timeout)
        if not finished:
            # What runs goes on and keeps its place; what has not begun never will.
            one.answer.cancel()
            if one in self._waiting:
                self._waiting.remove(one)
                ticket.give_back()
            raise GateTimeout
        return one.answer.result()

    def _plan(self) -> None:
        if not self._waiting or self._running >= self._gate.threads:
            return
        if len(self._waiting) >= self._size:
            self._start()
        elif self._timer is None:
            # Also without a delay: what arrives in the same turn of the loop goes along.
            self._timer = asyncio.get_running_loop().call_later(self._delay, self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting or self._running >= self._gate.threads:
            return
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        calls: list[int] = []
        self._running += 1
        future = self._gate.start(
            lambda: self._answers.answer([one.request for one in batch], calls.append),
            lambda: self._finish(batch, future, calls),
        )
        self._plan()

    def _finish(self, batch: list[_Waiting], future: Future[list[Answer]], calls: list[int]) -> None:
        self._running -= 1
        error = future.exception()
        for place, one in enumerate(batch):
            one.ticket.give_back()
            if one.answer.done():
                continue
            if error is None:
                one.answer.set_result(future.result()[place])
            else:
                one.answer.set_exception(error)
        for requests in calls:
            self._metrics.count_batch(requests)
        self._plan()
