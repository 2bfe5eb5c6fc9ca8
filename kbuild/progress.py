"""How long work tells what it is doing. The floors report; only the CLI shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


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
