"""Whether this worker may judge others by their silence: only who has heard the database for long may."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(kw_only=True)
class Pulse:
    """Heartbeats of this worker that the database answered. ``lease`` in seconds.

    After the database was away all are silent, and the first that is back must not take the others for dead: it waits
    until its own heartbeats were answered for a whole lease without a break.
    """

    lease: float
    clock: Callable[[], float] = time.monotonic
    _since: float | None = None
    _last: float = 0.0

    def beat(self) -> None:
        """A heartbeat was answered; one that came late is a break too."""
        now = self.clock()
        if self._since is None or now - self._last > self.lease / 2:
            self._since = now
        self._last = now

    def miss(self) -> None:
        """A heartbeat was not answered, or others count from now on."""
        self._since = None

    def is_steady(self) -> bool:
        """Whether a silence of ``lease`` is the others' own."""
        now = self.clock()
        return self._since is not None and now - self._since >= self.lease and now - self._last <= self.lease / 2
