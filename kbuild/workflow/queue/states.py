"""What is told of a queue's jobs; known without procrastinate."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["waiting", "building", "done", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("waiting", "building", "done", "failed", "cancelled")
OURS: Mapping[str, Status] = {
    "todo": "waiting", "doing": "building", "succeeded": "done", "failed": "failed", "cancelled": "cancelled",
    "aborting": "cancelled", "aborted": "cancelled",
}  # fmt: skip
ENDED = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """A job as it is now. ``entry`` is its report's, of the last attempt that had an end; ``again`` when it is tried
    again. ``seconds`` since it was begun."""

    id: int
    model: str
    status: Status
    priority: int = 0
    worker: str | None = None
    phase: str | None = None
    note: str | None = None
    seconds: float | None = None
    failures: int = 0
    lost: int = 0
    again: datetime.datetime | None = None
    cancelling: bool = False
    entry: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None

    @property
    def error(self) -> str | None:
        """What the last attempt failed of."""
        told = (self.entry or {}).get("error")
        return told.get("message") if isinstance(told, dict) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Put:
    """The job of a model; ``is_new`` where none was waiting or being built already."""

    id: int
    model: str
    is_new: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of all jobs: how many there are of each status; seconds that the oldest has waited, and of all builds."""

    jobs: Mapping[Status, int]
    workers: int
    oldest: float | None
    builds: int
    seconds: float
    lost: int
