"""Which jobs are tried again, and when."""

from __future__ import annotations

from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.jobs import Job

from kbuild.errors import (
    AuditIncomplete,
    BuildFailed,
    CacheInUse,
    EngineUnavailable,
    HashMismatch,
    IndexUnavailable,
    KbuildError,
    OutputError,
    RegistryError,
    ResolverFailed,
    TrackingUnavailable,
    UnexpectedError,
)

ATTEMPTS = 5
"""So often is a job tried whose error may pass."""
LIVES = 3
"""So many workers may a job lose."""
_FIRST, _FACTOR = 10.0, 3.0  # seconds: after 10, 30, 90 and 270
# What may be otherwise in a minute, or on another machine. All else is of the model, and stays.
_PASSING = (
    TrackingUnavailable, IndexUnavailable, HashMismatch, ResolverFailed, EngineUnavailable, BuildFailed, OutputError,
    RegistryError, CacheInUse, AuditIncomplete, UnexpectedError,
)  # fmt: skip


class GivenBack(Exception):
    """A worker ends before the job does: another takes it at once."""


class PlanTaken(Exception):
    """The very plan is being built by another job: this one waits, under that one's lock."""

    def __init__(self, lock: str) -> None:
        super().__init__(lock)
        self.lock = lock


class TryAgain(Exception):
    """The job failed of what may pass; ``seconds`` until it is tried again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Lost(Exception):
    """The job is another worker's by now."""


def pause_after(error: KbuildError, failures: int) -> float | None:
    """Seconds until a job is tried again that failed so often, this time included; None for never."""
    if failures >= ATTEMPTS or not _passes(error):
        return None
    return _FIRST * _FACTOR ** (failures - 1)


def _passes(error: KbuildError) -> bool:
    cause = error.__cause__
    if isinstance(error, AuditIncomplete) and isinstance(cause, KbuildError):
        return isinstance(cause, _PASSING)
    return isinstance(error, _PASSING)


class Again(BaseRetryStrategy):
    """The retry strategy of procrastinate for these."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """See BaseRetryStrategy."""
        match exception:
            case GivenBack():
                return RetryDecision(retry_in={"seconds": 0})
            case PlanTaken(lock=lock):
                return RetryDecision(retry_in={"seconds": 0}, lock=lock)
            case TryAgain(seconds=seconds):
                return RetryDecision(retry_in={"seconds": seconds})
            case _:
                return None
