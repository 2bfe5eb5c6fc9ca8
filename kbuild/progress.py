"""How long work tells what it is doing. The floors report; only the CLI shows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol


class Teller(Protocol):
    """Who hears of what was done; ``complain`` is for what went wrong."""

    def say(self, text: str, *, style: str | None = None) -> None:
        """A line of interest."""

    def complain(self, text: str, *, style: str = "red") -> None:
        """A line about what went wrong."""


class Progress(Protocol):
    """Receives what happens inside one phase. Every text is one line without a final full stop."""

    def note(self, text: str) -> None:
        """What is being done now; of no interest when it is done."""

    def tell(self, text: str) -> None:
        """What the user has to know also afterwards: something was left out, taken from elsewhere, not recorded."""

    def made(self, text: str) -> None:
        """What the phase has made, such as ``88 packages, 120 MB``; the last one counts."""

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        """``done`` of ``total`` units so far; ``total`` is None where nobody knows."""


class Silent:
    """A ``Progress`` that shows nothing."""

    def note(self, text: str) -> None:
        """Drop the line."""

    def tell(self, text: str) -> None:
        """Drop the line."""

    def made(self, text: str) -> None:
        """Drop the line."""

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        """Drop the figure."""


def how_many(count: int, what: str) -> str:
    """``1 layer``, ``12,345 layers``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def at_most(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """``a, b and 3 more``: at most so many of the names."""
    more = len(names) - most
    return separator.join(names[:most]) + (f" and {more} more" if more > 0 else "")


Voice = Callable[[str], AbstractContextManager[Progress]]
"""Opens a named phase of the work and shows what happens inside."""

_PATIENCE = 1.0  # seconds after which work is worth a word, and between two


@contextmanager
def telling(progress: Progress, text: str) -> Iterator[None]:
    """Note ``text`` again and again while the block works, which says nothing itself: a log is told that it goes on."""

    def tell(done: threading.Event) -> None:
        while True:
            progress.note(text)
            if done.wait(_PATIENCE):
                return

    with _beside(tell):
        yield


@contextmanager
def saying(voice: Voice, phase: str, text: str) -> Iterator[None]:
    """Open a phase, which has made ``text``, if the block takes longer than one waits without a word."""

    def tell(done: threading.Event) -> None:
        if not done.wait(_PATIENCE):
            begin = time.monotonic()
            with voice(phase) as progress, telling(progress, text):
                done.wait()
                if time.monotonic() - begin >= _PATIENCE:
                    progress.made(text)

    with _beside(tell):
        yield


@contextmanager
def _beside(tell: Callable[[threading.Event], None]) -> Iterator[None]:
    done = threading.Event()

    def run() -> None:
        # Words may stop the work that says them; this says them for what goes on, such as what removes its files.
        with suppress(BaseException):
            tell(done)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
