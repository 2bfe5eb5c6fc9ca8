"""Answers that come in time, however slowly a server sends."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import requests

from kbuild.errors import ConfigurationError

LONGEST_WAIT = 60.0
"""Seconds for an answer that is read as a whole, and for each piece of a streamed one, however few bytes it sends.

A whole one that has less than 4 KiB a second gets a third of it. One that has 128 KiB a second or more gets twice as
long, and five times where it may have more than ``LARGEST`` of ``answers``: at such a pace most are over before that.
"""

WAIT_VARIABLE = "KBUILD_LONGEST_WAIT"
"""Names the variable that states other seconds, for a line that is slow."""

_DRIPS, _FLOWS = 4 << 10, 128 << 10  # bytes a second
_DAY = 24 * 3600


class NoEnd(requests.RequestException):
    """An answer was cut off that is too large, or too slow: who asks again hears the same."""


def longest_wait() -> float:
    """The seconds of ``WAIT_VARIABLE``, else ``LONGEST_WAIT``; raises ConfigurationError."""
    stated = os.environ.get(WAIT_VARIABLE)
    if not stated:
        return LONGEST_WAIT
    with contextlib.suppress(ValueError):
        if 1 <= (seconds := float(stated)) <= _DAY:
            return seconds
    raise ConfigurationError(
        f"{WAIT_VARIABLE}: {stated!r} is not a number of seconds from 1 to {_DAY}",
        hint=f"the default is {LONGEST_WAIT:g}; for a slow line write {WAIT_VARIABLE}=600",
    )


def too_slow(subject: str, seconds: float) -> str:
    """What is said of an answer, or several, that did not come in time."""
    return f"{subject} did not come within {seconds:g} s; on a slow line set {WAIT_VARIABLE}={longest_wait() * 10:g}"


def steady(answer: requests.Response, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a streamed answer, each of which comes within ``longest_wait``.

    The time limit of a socket begins anew with each byte: who sends one a second would hold a read for days. Raises
    NoEnd.
    """
    return in_time(answer, pieces, Pace(None))


class Pace:
    """Whether an answer comes in time: read as a whole, by the bytes that are here, with so many ``longest_wait`` at
    the ``most``; or streamed, each piece for itself. What becomes of a piece is not the server's time."""

    def __init__(self, most: int | None) -> None:
        self._most, self._wait = most, longest_wait()
        self._size, self._spent = 0, 0.0
        self._since: float | None = None

    def took(self, size: int) -> None:
        """A piece came; nobody waits for the server."""
        self._size, self._spent, self._since = self._size + size, self._taken(), None

    def waits(self) -> None:
        """The next one is waited for."""
        self._spent, self._since = 0.0 if self._most is None else self._spent, time.monotonic()

    def next_look(self) -> float:
        """Seconds until it is to be judged."""
        first = self._wait / (1 if self._most is None else 3)
        return max(first - self._taken(), self._wait / 60)

    def over(self) -> float | None:
        """The seconds that it was given, where they are over."""
        taken = self._taken()
        if self._most is None:
            return self._wait if taken >= self._wait else None
        for limit, pace in ((self._most * self._wait, None), (self._wait, _FLOWS), (self._wait / 3, _DRIPS)):
            if taken >= limit and (pace is None or self._size < pace * taken):
                return limit
        return None

    def _taken(self) -> float:
        since = self._since
        return self._spent + (0.0 if since is None else time.monotonic() - since)


def in_time(answer: requests.Response, pieces: Iterator[Any], pace: Pace) -> Iterator[Any]:
    over, late = threading.Event(), queue.SimpleQueue[float]()

    def watch() -> None:
        while not over.wait(pace.next_look()):
            limit = pace.over()
            if limit is not None:
                late.put(limit)
                with contextlib.suppress(Exception):  # it may have come to its end meanwhile
                    answer.raw.shutdown()
                return

    pace.waits()
    threading.Thread(target=watch, daemon=True, name="time of an answer").start()
    try:
        for piece in pieces:
            pace.took(len(piece))
            yield piece
            pace.waits()
            if not late.empty():
                break
    except Exception:  # of whatever kind a connection that is cut under its reader ends in
        if late.empty():
            raise
    finally:
        over.set()
    # Outside of the block: an error that came of the connection would be asked for again.
    if not late.empty():
        answer.close()
        raise NoEnd(too_slow("the answer", late.get()))
