"""One job while it is built, in a thread: what it is stopped by, what it tells, and what it asks before it goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from procrastinate.jobs import Job

from kbuild.digest import Digest
from kbuild.image.engine import BuiltImage
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform
from kbuild.process import Runner, RunnerGroup
from kbuild.progress import Progress
from kbuild.refused import known_error
from kbuild.workflow.delivery import ImageResult
from kbuild.workflow.many import Outcome
from kbuild.workflow.queue.asked import Asked, plan_lock
from kbuild.workflow.queue.ledger import Ledger
from kbuild.workflow.queue.manager import SteadyManager
from kbuild.workflow.queue.retries import Lost, PlanTaken
from kbuild.workflow.stopping import Stoppable
from kbuild.workflow.tools import Gates, Phases

_Value = TypeVar("_Value")
_LONGEST = 200  # signs of a note


class Asking(Gates, Protocol):
    """The gates of a job, which also hear what its report has besides."""

    @property
    def told(self) -> dict[str, Any]:
        """Keys of the job's entry."""


class Build(Protocol):
    """Makes an image, as ``kbuild image`` does."""

    def __call__(self, asked: Asked, *, run: Runner, phases: Phases, gates: Asking) -> ImageResult:
        """Raises KbuildErrors, KeyboardInterrupt where ``phases`` or ``run`` were stopped, and what ``gates`` raise."""


@dataclass(kw_only=True)
class Running:
    """A job of this worker: its ``Gates``, and its ``Phases`` through which others see how far it is."""

    job: Job
    asked: Asked
    loop: asyncio.AbstractEventLoop
    ledger: Ledger
    manager: SteadyManager
    shown: Phases
    latest: tuple[str, str] = ("", "")
    told: dict[str, Any] = field(default_factory=dict)
    group: RunnerGroup = field(default_factory=RunnerGroup)
    stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """End the programs that it started at once, itself at its next word."""
        self.stopped.set()
        self.group.end()

    def build(self, build: Build) -> Outcome | PlanTaken | Lost:
        """In a thread: what came of it; neither result nor error where it was stopped."""
        begin = time.monotonic()
        result, error = None, None
        try:
            result = build(self.asked, run=self.group, phases=Stoppable(self, self.stopped), gates=self)
        except (PlanTaken, Lost) as taken:
            return taken
        except KeyboardInterrupt:
            pass
        except Exception as unknown:  # noqa: BLE001  a defect that one model meets must not end the worker
            error = known_error(unknown) if not self.stopped.is_set() else None
        return Outcome(model=self.asked.model, seconds=time.monotonic() - begin, result=result, error=error)

    def planned(self, plan: Digest) -> None:
        """See Gates: from here on no other job builds the same plan."""
        lock = plan_lock(plan)
        claimed = self._ask(lambda: self.ledger.claim(self.job, lock))
        if claimed is None:
            raise Lost
        if not claimed:
            raise PlanTaken(lock)

    def built(self, reference: ModelReference, images: Mapping[Platform, BuiltImage]) -> None:
        """See Gates: who was silent for long may have lost the job, and must not give its image to anybody."""
        if not self._ask(lambda: self.ledger.owns(self.job)):
            raise Lost

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        """See Phases."""
        with self.shown(phase) as progress:
            self.latest = phase, ""
            yield _Told(progress, self, phase)

    def _ask(self, ask: Callable[[], Awaitable[_Value]]) -> _Value:
        if self.stopped.is_set():
            raise KeyboardInterrupt
        asked = self.manager.until_answered(ask, stop=self.stopped.is_set)
        try:
            return asyncio.run_coroutine_threadsafe(asked, self.loop).result()
        except Exception:
            if self.stopped.is_set():
                raise KeyboardInterrupt from None
            raise


@dataclass(frozen=True, slots=True)
class _Told:
    inner: Progress
    running: Running
    phase: str

    def note(self, text: str) -> None:
        self.running.latest = self.phase, text[:_LONGEST]
        self.inner.note(text)

    def tell(self, text: str) -> None:
        self.inner.tell(text)

    def made(self, text: str) -> None:
        self.running.latest = self.phase, text[:_LONGEST]
        self.inner.made(text)

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        self.inner.count(done, total, unit)
