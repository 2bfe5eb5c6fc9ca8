"""One thing that differs between two runs, models or images, and what differs between two mappings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}\b")
_ID = re.compile(r"\b((?:m-)?[0-9a-f]{12})[0-9a-f]{20}\b")


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Change:
    """``before`` None: only in the second; ``after`` None: only in the first."""

    name: str
    before: str | None
    after: str | None

    def to_text(self) -> str:
        """One line: ``+`` only in the second, ``-`` only in the first, ``~`` differs."""
        if self.before is None:
            return f"+ {self.name}: {self.after}"
        if self.after is None:
            return f"- {self.name}: {self.before}"
        return f"~ {self.name}: {self.before} -> {self.after}"

    def to_json(self) -> dict[str, str | None]:
        """The change as JSON values."""
        return {"name": self.name, "before": self.before, "after": self.after}


def find_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What differs, in the order of ``before`` and then of ``after``."""
    return tuple(
        Change(name=name, before=before.get(name), after=after.get(name))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    )


def changes_text(title: str, changes: Iterable[Change], *, shown: int | None = None) -> list[str]:
    """A heading and a line each, of more than ``shown`` how many are left out; nothing where nothing differs."""
    return listed(title, (change.to_text() for change in changes), shown=shown)


def listed(title: str, texts: Iterable[str], *, shown: int | None = None) -> list[str]:
    """As ``changes_text``, of changes that are texts already."""
    lines = [f"  {text}" for text in texts]
    if not lines:
        return []
    kept = lines if shown is None else lines[:shown]
    return [title, *kept, *([f"  and {len(lines) - len(kept)} more"] if len(kept) < len(lines) else [])]


def short_digests(text: str) -> str:
    """Each sha256 by its first twelve digits, as Docker shows them, and so each id of a run or a logged model."""
    return _ID.sub(r"\1", _DIGEST.sub(r"\1", text))
