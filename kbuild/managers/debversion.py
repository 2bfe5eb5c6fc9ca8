"""Debian version numbers: their order, as deb-version(7) defines it."""

from __future__ import annotations

import re

_PIECE = re.compile("([^0-9]*)([0-9]*)")

Key = tuple[int, tuple[tuple[tuple[int, ...], int], ...], tuple[tuple[tuple[int, ...], int], ...]]


def version_key(version: str) -> Key:
    """A key that sorts versions as dpkg does: epoch, upstream version, revision (absent is 0)."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return (int(epoch) if epoch.isdecimal() else 0, _key(upstream), _key(revision))


def _key(part: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    # The pair of an empty text is at the end of each, so that a tilde, and nothing else, sorts before the end.
    return tuple(((*map(_order, text), 0), int(number or 0)) for text, number in _PIECE.findall(part))


def _order(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 0x110000
