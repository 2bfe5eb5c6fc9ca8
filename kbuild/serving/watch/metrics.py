"""Counters of all workers in one block of shared memory, and their text for Prometheus.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4). Each worker writes its own
slot from its event loop only, so nothing is locked; a restarted worker goes on counting in its slot.
"""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HANDLERS = ("invocations", "page", "health", "other")
STATUSES = (200, 307, 400, 401, 404, 405, 408, 413, 415, 422, 500, 503, 504, 0)
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

_REQUESTS = {(h, s): n for n, (h, s) in enumerate((h, s) for h in HANDLERS for s in STATUSES)}
_SECONDS = len(_REQUESTS)
_WIDTH = len(BUCKETS) + 2  # each bucket, those above, and the sum
_FAST = _SECONDS + len(HANDLERS) * _WIDTH
_ACTIVE, _READY, _PID = range(_FAST + 1, _FAST + 4)
_BEAT = _FAST + 4
_BATCHES = _FAST + 5
_SLOT = _BATCHES + len(SIZES) + 2


class Metrics:
    """Made before the workers are forked; ``worker`` is which slot this process writes."""

    def __init__(self, workers: int) -> None:
        self._block = memoryview(mmap.mmap(-1, workers * _SLOT * 8)).cast("d")
        self._workers = workers
        self._base = 0

    def use_slot(self, worker: int) -> None:
        """Write as this worker from now on, a new one or a dead one's successor."""
        self._base = worker * _SLOT
        self._block[self._base + _ACTIVE] = 0
        self._block[self._base + _PID] = os.getpid()
        self.beat()

    def beat(self) -> None:
        """This worker's event loop turns, and a thread of it may still answer."""
        self._block[self._base + _BEAT] = time.monotonic()

    def begin(self, worker: int) -> None:
        """That worker is about to begin: what its predecessor said is of no interest."""
        self._block[worker * _SLOT + _BEAT] = time.monotonic()

    def give_up(self) -> None:
        """No thread of this worker will answer any more."""
        self._block[self._base + _BEAT] = -math.inf

    def silent_for(self, worker: int) -> float:
        """Seconds since that worker's last beat, infinite once it gave up."""
        return time.monotonic() - self._block[worker * _SLOT + _BEAT]

    def count(self, handler: str, status: int, seconds: float) -> None:
        """One finished request."""
        block, base = self._block, self._base
        block[base + _REQUESTS[handler, status if status in STATUSES else 0]] += 1
        first = base + _SECONDS + HANDLERS.index(handler) * _WIDTH
        bucket = next((n for n, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))
        block[first + bucket] += 1
        block[first + _WIDTH - 1] += seconds

    def count_fast(self) -> None:
        """One answer the short way."""
        self._block[self._base + _FAST] += 1

    def count_batch(self, requests: int) -> None:
        """One call of the model that answered so many requests, where requests are put together."""
        block, first = self._block, self._base + _BATCHES
        block[first + next((n for n, limit in enumerate(SIZES) if requests <= limit), len(SIZES))] += 1
        block[first + len(SIZES) + 1] += requests

    def set_active(self, requests: int) -> None:
        """How many requests hold a place at the gate."""
        self._block[self._base + _ACTIVE] = requests

    def set_ready(self) -> None:
        """This worker has warmed up once."""
        self._block[self._base + _READY] = 1

    def all_ready(self) -> bool:
        """Whether every worker has warmed up once."""
        return all(self._block[worker * _SLOT + _READY] for worker in range(self._workers))

    def render(self, info: Mapping[str, str]) -> bytes:
        """All workers' numbers; ``info`` are the labels of ``kbuild_model_info``."""
        return ("\n".join(self._lines(info)) + "\n").encode()

    def _sum(self, index: int) -> float:
        return sum(self._block[worker * _SLOT + index] for worker in range(self._workers))

    def _lines(self, info: Mapping[str, str]) -> Iterator[str]:
        yield from _head("http_requests_total", "counter", "Requests by handler and status (other: any other).")
        for (handler, status), index in _REQUESTS.items():
            if value := self._sum(index):
                yield f'http_requests_total{{handler="{handler}",status="{status or "other"}"}} {value:.0f}'
        name = "http_request_duration_seconds"
        yield from _head(name, "histogram", "Seconds from the request's head to the answer.")
        for number, handler in enumerate(HANDLERS):
            yield from self._histogram(name, f'handler="{handler}"', BUCKETS, _SECONDS + number * _WIDTH)
        yield from _head("kbuild_batch_requests", "histogram", "Requests answered by one call of the model.")
        yield from self._histogram("kbuild_batch_requests", "", SIZES, _BATCHES)
        yield from _head("kbuild_fast_answers_total", "counter", "Predictions that took the short way.")
        yield f"kbuild_fast_answers_total {self._sum(_FAST):.0f}"
        yield from _head("http_requests_in_progress", "gauge", "Requests that predict or wait for it.")
        yield f"http_requests_in_progress {self._sum(_ACTIVE):.0f}"
        yield from _head("kbuild_model_info", "gauge", "What is served.")
        labels = ",".join(f'{key}="{_escape(value)}"' for key, value in info.items())
        yield f"kbuild_model_info{{{labels}}} 1"
        yield from _head("kbuild_workers", "gauge", "Worker processes.")
        yield f"kbuild_workers {self._workers}"
        pids = [int(self._block[worker * _SLOT + _PID]) for worker in range(self._workers)]
        used = [_process(pid) for pid in pids]
        yield from _head("process_resident_memory_bytes", "gauge", "Resident memory of all workers.")
        yield f"process_resident_memory_bytes {sum(memory for memory, _ in used)}"
        yield from _head("process_cpu_seconds_total", "counter", "Processor time of the workers that run now.")
        yield f"process_cpu_seconds_total {sum(seconds for _, seconds in used):g}"

    def _histogram(self, name: str, labels: str, limits: Sequence[float], first: int) -> Iterator[str]:
        total = 0.0
        more = f"{labels}," if labels else ""
        for number, limit in enumerate((*limits, "+Inf")):
            total += self._sum(first + number)
            yield f'{name}_bucket{{{more}le="{limit}"}} {total:.0f}'
        shown = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{shown} {self._sum(first + len(limits) + 1):.9g}"
        yield f"{name}_count{shown} {total:.0f}"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _process(pid: int) -> tuple[int, float]:
    """Resident bytes and processor seconds by proc(5); zeros for a process that is gone."""
    try:
        resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * _PAGE
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0, 0.0
    return resident, (int(fields[11]) + int(fields[12])) / _TICKS
