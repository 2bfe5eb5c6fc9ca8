"""Memory that threads share."""

from __future__ import annotations

import threading


class HeldBytes:
    """Bytes that several threads hold together, each of which takes more and more of them.

    Who began first is given what it asks for at any time: so one of them comes to its end, whatever the others hold.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[object, int] = {}  # in the order in which they began
        self._changed = threading.Condition()

    def take(self, whose: object, amount: int) -> None:
        """Wait until there is room for so many bytes more."""
        with self._changed:
            self._held.setdefault(whose, 0)
            self._changed.wait_for(
                lambda: next(iter(self._held)) is whose or sum(self._held.values()) + amount <= self._size
            )
            self._held[whose] += amount

    def leave(self, whose: object) -> None:
        """Give back all that it took."""
        with self._changed:
            self._held.pop(whose, None)
            self._changed.notify_all()
