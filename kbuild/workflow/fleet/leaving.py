"""A watch that builds nothing itself: what is wanted is left to the workers of a queue, who tell its version.

What waits there is asked of the queue each time, so that a restart forgets nothing here either.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

from kbuild.model.find import RegisteredVersion
from kbuild.workflow.fleet.wanted import Wanted
from kbuild.workflow.fleet.watching import Done, Watch

_SOON = 30.0  # seconds until it is looked whether a worker has built, so that an alias becomes a tag


class Leaving(Protocol):
    """Where jobs are left."""

    def put(self, model: str, *, first: bool) -> None:
        """Have the model's image built, before others where it is ``first``. Raises QueueUnavailable."""

    def live(self, models: Collection[str]) -> set[str]:
        """Those that wait there or are being built. Raises QueueUnavailable."""

    def cancelled(self, models: Collection[str]) -> set[str]:
        """Those that somebody cancelled there, and had tried again by nobody. Raises QueueUnavailable."""


@dataclass(kw_only=True)
class LeavingWatch(Watch):
    """``build`` is not asked."""

    queue: Leaving

    def reconcile(self, names: Collection[str] | None = None) -> Wanted:
        """As a watch does; what is in the queue already is no longer to be built, nor what somebody cancelled there.

        Raises QueueUnavailable too.
        """
        wanted = super().reconcile(names)
        models = [str(each) for each in wanted.builds]
        if not models:
            return wanted
        live, cancelled = self.queue.live(models), self.queue.cancelled(models)
        again = wanted.again
        if live:
            soon = self.clock() + min(_SOON, self.every)
            again = soon if again is None else min(soon, again)
        return replace(
            wanted, builds=[each for each in wanted.builds if str(each) not in live | cancelled], again=again
        )

    def make(self, version: RegisteredVersion) -> Done:
        """Leave one version to the queue; whoever builds it writes into its tags what becomes of it."""
        self.queue.put(str(version), first=bool(self.rules.followed(version)))
        self.teller.say(f"{version} is in the queue")
        return Done(version=version)
