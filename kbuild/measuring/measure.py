"""Measuring an image that runs."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kbuild.digest import Digest
from kbuild.errors import ContainerFailed
from kbuild.image.run.running import RunningImage
from kbuild.image.run.usage import busy_seconds
from kbuild.measuring.load import Answers, ask_for, quantile
from kbuild.measuring.profile import LoadFound, Profile
from kbuild.progress import Progress, how_many

# Of the form that MLflow's server takes, and no table: it never reaches the model.
_WRONG = b'{"dataframe_split": []}'
_PER_WORKER, _MOST_WRONG = 8, 48  # connections with it: which worker takes one is chance, and 64 may wait
_SETTLE = 1.0  # seconds of a load that do not count: caches fill, processors leave their sleep


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What is measured: the image and its ``platform``, the quantity ``cpu`` that it was started with and its
    ``workers``, and the seconds ``start`` that it took to be ready."""

    digest: Digest
    platform: str
    cpu: str
    workers: int
    start: float


def measure_image(
    running: RunningImage,
    body: bytes,
    what: Measured,
    *,
    connections: Sequence[int],
    seconds: float,
    progress: Progress,
) -> Profile:
    """Ask an image that is ready with one load after another, each for ``seconds``, and look at what it takes.

    Raises ContainerFailed where it stops, or answers nothing at all with 200.
    """
    host, idle = running.host(), running.usage().memory
    seen = _Seen(running=running)
    loads = []
    progress.note("the model answers its first requests")
    ask_for(running.url, body, connections=1, seconds=min(_SETTLE, seconds), look=seen.look)
    for number, each in enumerate(connections, 1):
        progress.note(f"load {number} of {len(connections)}: {each} connections for {seconds:g} s")
        before = _Clock.read(running, here=host.here)
        answers = ask_for(running.url, body, connections=each, seconds=seconds, look=seen.look)
        used, others = before.since(_Clock.read(running, here=host.here))
        if not running.alive():
            raise ContainerFailed(f"the image stopped under load: {running.logs()[-500:].strip()}")
        if not answers.latencies:
            raise ContainerFailed(f"the image answered none of {how_many(answers.failed, 'request')}: {answers.words}")
        if answers.failed:
            progress.tell(f"{answers.failed} requests were not answered; the last: {answers.words}")
        loads.append(_found(each, answers, used=used, others=others))
    # A worker's first one has it import MLflow, which stays in its memory; nobody can keep callers from that.
    progress.note("asking what is no request, which takes memory of its own")
    many = min(_MOST_WRONG, _PER_WORKER * what.workers)
    ask_for(running.url, _WRONG, connections=many, seconds=min(_SETTLE, seconds), look=seen.look)
    seen.look()
    if not running.alive():
        raise ContainerFailed(f"the image stopped at wrong requests: {running.logs()[-500:].strip()}")
    return Profile(
        digest=what.digest,
        platform=what.platform,
        host=host,
        cpu=what.cpu,
        workers=what.workers,
        measured=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        start=round(what.start, 2),
        idle=idle,
        peak=max(seen.memory, default=None),
        request=len(body),
        loads=tuple(loads),
    )


@dataclass(kw_only=True, slots=True)
class _Seen:
    running: RunningImage
    memory: list[int] = field(default_factory=list)

    def look(self) -> None:
        memory = self.running.usage().memory
        if memory is not None:
            self.memory.append(memory)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clock:
    """Seconds of processors so far: of the image, of this process, and of the whole machine where it is this one."""

    now: float
    image: float
    own: float
    machine: float | None

    @classmethod
    def read(cls, running: RunningImage, *, here: bool) -> _Clock:
        machine = busy_seconds() if here else None
        return cls(now=time.monotonic(), image=running.usage().processor, own=time.process_time(), machine=machine)

    def since(self, later: _Clock) -> tuple[float, float | None]:
        """Processors that the image kept busy between the two, and those that others did."""
        took, used = later.now - self.now, later.image - self.image
        if self.machine is None or later.machine is None:
            return used / took, None
        others = later.machine - self.machine - used - (later.own - self.own)
        return used / took, max(0.0, others) / took


def _found(connections: int, answers: Answers, *, used: float, others: float | None) -> LoadFound:
    ordered = sorted(answers.latencies)
    p50, p90, p99, worst = (round(1000 * quantile(ordered, part), 3) for part in (0.5, 0.9, 0.99, 1))
    return LoadFound(
        connections=connections,
        seconds=round(answers.seconds, 2),
        answers=len(ordered),
        failed=answers.failed,
        rate=round(answers.rate, 2),
        p50=p50,
        p90=p90,
        p99=p99,
        worst=worst,
        used=round(used, 3),
        others=None if others is None else round(others, 3),
    )
