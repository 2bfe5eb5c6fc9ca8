"""What failed says so on the registered version, in tags: why, how often, when it is tried again.

Kept there and not here, so that a restart forgets nothing and whoever looks at the version in MLflow sees it. Taking
the tag ``kbuild.error`` away has it tried again at once.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from kbuild.errors import KbuildError
from kbuild.tracking.image_tags import Tag

NEVER = "never"
ATTEMPTS = 5
"""So often is a version tried."""
_FIRST, _FACTOR = 60.0, 4.0  # seconds: after 1, 4, 16 and 64 minutes
_LONGEST = 450  # what every MLflow takes as a tag's value


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """``again`` is in seconds since 1970, None for never."""

    reason: str
    attempts: int
    again: float | None

    def when(self) -> str:
        """When it is tried again, for people."""
        if self.again is None:
            return "not tried again"
        return f"tried again at {datetime.datetime.fromtimestamp(self.again, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"

    def tags(self) -> dict[str, str | None]:
        """The tags that say so."""
        when = NEVER if self.again is None else _write_time(self.again)
        return {Tag.ERROR: self.reason, Tag.ATTEMPTS: str(self.attempts), Tag.RETRY: when}


CLEARED: Mapping[str, str | None] = {Tag.ERROR: None, Tag.ATTEMPTS: None, Tag.RETRY: None}
"""What takes the tags away."""


def read_failed(tags: Mapping[str, str]) -> Failed | None:
    """What a version's tags say; None where it has not failed. What somebody else wrote there is tried at once."""
    reason = tags.get(Tag.ERROR)
    if reason is None:
        return None
    attempts = tags.get(Tag.ATTEMPTS, "")
    when = tags.get(Tag.RETRY, "")
    again = None if when == NEVER else _read_time(when)
    return Failed(reason=reason, attempts=int(attempts) if attempts.isdecimal() else 0, again=again)


def make_failed(error: KbuildError, before: Failed | None, *, now: float) -> Failed:
    """After one more attempt."""
    attempts = 1 + (0 if before is None else before.attempts)
    told = " ".join(f"{error.message} ({error.hint})".split() if error.hint else error.message.split())
    return Failed(
        reason=told if len(told) <= _LONGEST else f"{told[: _LONGEST - 1]}…",
        attempts=attempts,
        again=None if attempts >= ATTEMPTS else now + _FIRST * _FACTOR ** (attempts - 1),
    )


def _write_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _read_time(text: str) -> float:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def pause(failures: int) -> float:
    """Seconds until a registry is asked again that did not answer, so many times before."""
    return _SOON * float(2 ** min(failures, 10))


_SOON = 5.0
