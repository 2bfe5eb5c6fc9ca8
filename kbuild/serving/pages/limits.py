"""What this server takes at most, as its pages tell it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ToldLimits:
    """``rows`` and ``body`` (bytes) are the most of one request; ``told`` has all: words, value, variable.

    ``address`` is where the server is, as far as it knows; ``token`` whether it wants one.
    """

    rows: int
    body: int
    told: tuple[tuple[str, str, str], ...]
    address: str
    token: bool
