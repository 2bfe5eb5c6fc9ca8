"""What commands of this machine said of its images, by digest: one small file each."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import Digest
from kbuild.untrusted import parse_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What was said of one image; None or empty where nothing was.

    ``verdict`` is of its answers: ``passed``, ``answered`` (there was nothing to compare with), ``failed`` and others.
    ``rebuild`` is what building it again gave, ``audit`` the last audit's verdict on the day ``audit_date``. ``pushed``
    are names that a registry was given it by, ``models`` registered versions that it was built of, as NAME/VERSION.
    """

    verdict: str | None = None
    rebuild: str | None = None
    audit: str | None = None
    audit_date: str | None = None
    pushed: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "models": list(self.models),
            "verified": self.verdict,
            "rebuilt": self.rebuild,
            "audit": self.audit,
            "audit_date": self.audit_date,
            "pushed": list(self.pushed),
        }


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Of the images below ``root``, the folder of a ``LocalImages``."""

    root: Path

    def write(self, digest: Digest, verdict: str) -> None:
        """Remember the verdict on its answers."""
        self._change(digest, verdict=verdict)

    def read(self, digest: Digest) -> str | None:
        """The last verdict on this very image's answers; None where it was not verified here, or nobody can tell."""
        return self.said(digest).verdict

    def write_rebuild(self, digest: Digest, verdict: str) -> None:
        """Remember what building it again gave."""
        self._change(digest, rebuild=verdict)

    def write_audit(self, digest: Digest, verdict: str, date: str) -> None:
        """Remember an audit's verdict, and its day as ISO 8601 writes it."""
        self._change(digest, audit=verdict, audit_date=date)

    def add(self, digest: Digest, *, pushed: Sequence[str] = (), models: Sequence[str] = ()) -> None:
        """Remember more names that it was pushed by, and more registered versions that it is of."""
        known = self.said(digest)
        pushed, models = (tuple(dict.fromkeys(each)) for each in ((*known.pushed, *pushed), (*known.models, *models)))
        if (pushed, models) != (known.pushed, known.models):
            self._change(digest, pushed=pushed, models=models)

    def said(self, digest: Digest) -> Said:
        """All that was said of this very image; nothing where nobody can tell: then it is verified again."""
        try:
            value = parse_json(read_vouched(self._file(digest)))
            if value["digest"] != str(digest):
                return Said()
            return Said(
                verdict=_text(value, "verdict"),
                rebuild=_text(value, "rebuild"),
                audit=_text(value, "audit"),
                audit_date=_text(value, "audit_date"),
                pushed=tuple(map(str, value.get("pushed") or ())),
                models=tuple(map(str, value.get("models") or ())),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Said()

    def _change(self, digest: Digest, **changes: Any) -> None:
        said = asdict(replace(self.said(digest), **changes))
        with contextlib.suppress(OSError):  # of a cache that may only be read: the next command verifies again
            kept = {name: value for name, value in said.items() if value}
            write_vouched(self._file(digest), json.dumps({"digest": str(digest), **kept}).encode())

    def _file(self, digest: Digest) -> Path:
        return self.root / "verdicts" / digest.hex


def _text(value: Mapping[str, Any], name: str) -> str | None:
    return None if value.get(name) is None else str(value[name])
