"""How long work tells what it is doing. The floors report; only the CLI shows."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what happens inside one phase."""

    def note(self, text: str) -> None:
        """One line about what is being done now, without a final full stop."""

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        """``done`` of ``total`` units so far; ``total`` is None where nobody knows."""


class Silent:
    """A ``Progress`` that shows nothing."""

    def note(self, text: str) -> None:
        """Drop the line."""

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        """Drop the figure."""
