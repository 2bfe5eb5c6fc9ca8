"""Whiteouts: what a layer says of the layers below it (OCI image-spec layer.md "Whiteouts").

A whiteout hides one name of the layers below. An opaque one hides all that the layers below have in its directory, and
nothing of its own layer, wherever in the layer it stands.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

from kbuild.errors import InvalidImage

_PREFIX = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Whiteout:
    """``path`` is what is hidden; for an opaque one the directory whose content is. Both are relative to the root."""

    path: str
    opaque: bool


def read_whiteout(path: str) -> Whiteout | None:
    """What a member with this path hides, None for a member that is no whiteout; ``path`` is a normal one.

    Raises InvalidImage for one that hides no single name: it could lead out of its directory.
    """
    folder, name = posixpath.split(path)
    if not name.startswith(_PREFIX):
        return None
    if name == _OPAQUE:
        return Whiteout(folder, True)
    hidden = name.removeprefix(_PREFIX)
    if hidden in ("", ".", ".."):
        raise InvalidImage(f"a layer holds the whiteout /{path}, which names no file")
    return Whiteout(posixpath.join(folder, hidden), False)


def with_parents(paths: Iterable[str]) -> set[str]:
    """The paths and every directory that leads to one of them: what an opaque whiteout spares of its own layer."""
    spared: set[str] = set()
    for path in paths:
        while path not in ("", "/") and path not in spared:
            spared.add(path)
            path = posixpath.dirname(path)
    return spared
