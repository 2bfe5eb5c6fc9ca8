"""Many models at once: several builds in threads, each failure told, the rest going on.

Threads, not processes: what a further model costs is waiting for the tracking server and the registry, hashing and
compressing, all without Python's lock; and to start a process costs more than twice what a further model does.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Protocol

from kbuild.errors import EngineUnavailable, KbuildError
from kbuild.offered.shown import html_table
from kbuild.process import RunnerGroup
from kbuild.refused import known_error
from kbuild.workflow.build import build_image
from kbuild.workflow.delivery import Delivery, ImageResult
from kbuild.workflow.prepare import ImageRequest
from kbuild.workflow.stopping import Stoppable
from kbuild.workflow.tools import Phases, Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one model: ``result`` or ``error`` is set, neither where the work was stopped before its end.

    ``seconds`` of work, waiting for what another model's build makes for both included.
    """

    model: str
    seconds: float = 0.0
    result: ImageResult | None = None
    error: KbuildError | None = None

    def _repr_html_(self) -> str:
        became = self.error or "stopped" if self.result is None else self.result.reference
        return html_table({"model": self.model, "image": became, "seconds": f"{self.seconds:.1f}"})


class Watcher(Protocol):
    """Shows many builds; called from several threads."""

    def begin(self, model: str) -> Phases:
        """A model's build begins; what is returned shows its phases."""

    def end(self, outcome: Outcome) -> None:
        """It has ended."""


def build_many(
    requests: Sequence[ImageRequest],
    delivery: Delivery,
    tools: Tools,
    *,
    watcher: Watcher,
    jobs: int,
    builders: Sequence[str] = (),
    reuse: bool = True,
) -> Generator[Outcome, None, None]:
    """Build and deliver the image of every model, ``jobs`` at a time; outcomes come as they are there.

    With ``builders`` each build is given to one that is free; one that stops answering is left out, and what it had
    goes to another. A model that fails stops no other. When the caller stops early, by an exception too, what runs is
    ended and waited for.
    """
    group = RunnerGroup()
    stopped = threading.Event()
    free = _Builders(builders, jobs)

    def build(request: ImageRequest) -> Outcome:
        begin = time.monotonic()
        if stopped.is_set():
            return Outcome(model=request.model)
        phases = Stoppable(watcher.begin(request.model), stopped)
        mine = replace(tools, run=group, phases=phases)
        result: ImageResult | None = None
        error: KbuildError | None = None
        try:
            result = free.build(request, delivery, mine, reuse=reuse)
        except KeyboardInterrupt:
            return Outcome(model=request.model, seconds=time.monotonic() - begin)
        except Exception as unknown:  # noqa: BLE001  a defect that one model meets must not take the others' images
            error = known_error(unknown)
        outcome = Outcome(model=request.model, seconds=time.monotonic() - begin, result=result, error=error)
        if stopped.is_set() and error is not None:
            return replace(outcome, error=None)  # a program that was killed, no fault of the model
        watcher.end(outcome)
        return outcome

    with ThreadPoolExecutor(jobs, thread_name_prefix="model") as pool:
        try:
            for future in as_completed([pool.submit(build, request) for request in requests]):
                yield future.result()
        finally:
            stopped.set()  # what was not begun ends at once
            group.end()


class _Builders:
    """Which builder is free; without any, the engine's own."""

    def __init__(self, names: Sequence[str], jobs: int) -> None:
        self._lock = threading.Lock()
        self._answering = list(dict.fromkeys(names))
        self._free: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        for number in range(max(jobs, len(names))):
            self._free.put(names[number % len(names)] if names else None)

    def build(self, request: ImageRequest, delivery: Delivery, tools: Tools, *, reuse: bool) -> ImageResult:
        while True:
            name = self._free.get()
            if name is not None and name not in self._answering:
                continue  # left out meanwhile
            try:
                return build_image(replace(request, builder=name), delivery, tools, reuse=reuse)
            except EngineUnavailable:
                with self._lock:
                    if self._answering in ([], [name]):
                        raise  # with the last one gone every further model says so itself
                    if name in self._answering:
                        self._answering.remove(name)
            finally:
                self._free.put(name)
