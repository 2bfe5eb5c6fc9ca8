"""``kbuild audit --all-registered --affected-by``: the registered models that a package or an advisory concerns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kbuild.audit.report.plain import plain_json
from kbuild.errors import AuditFindings, AuditIncomplete
from kbuild.progress import how_many
from kbuild.untrusted import plain
from kbuild.workflow.audit.fleet import FleetRow

FORMATS = ("table", "json")


def render_fleet(rows: Sequence[FleetRow], question: str, form: str) -> str:
    """What is concerned, and what is not known; the others are counted only, or in JSON told too."""
    if form == "json":
        return plain_json({"format": 1, "affected_by": question, "models": [_entry(row) for row in rows]})
    lines = [_line(row) for row in rows if row.affected or row.unknown]
    hit = sum(bool(row.affected) for row in rows)
    unknown = sum(row.unknown is not None for row in rows)
    told = f"{hit} of {how_many(len(rows), 'registered version')} have {question}" + (
        f", {unknown} not known" if unknown else ""
    )
    return plain("\n".join([*lines, told])) + "\n"


def raise_for_fleet(rows: Sequence[FleetRow], question: str) -> None:
    """Raises AuditFindings where any model is concerned, else AuditIncomplete where any is not known."""
    hit = sum(bool(row.affected) for row in rows)
    unknown = sum(row.unknown is not None for row in rows)
    if hit:
        raise AuditFindings(
            f"{hit} of {how_many(len(rows), 'registered version')} have {question}",
            hint="train them again with another release, and build their images again: kbuild image",
        )
    if unknown:
        raise AuditIncomplete(
            f"of {unknown} of {how_many(len(rows), 'registered version')} it is not known", hint="each says why"
        )


def _line(row: FleetRow) -> str:
    aliases = "".join(f" @{alias}" for alias in row.version.aliases)
    parts = [f"{row.version}{aliases}", *row.affected, *([f"not known: {row.unknown}"] if row.unknown else [])]
    # One line a model: a name with a line break in it is no second one.
    return "\t".join(json.dumps(each)[1:-1] if "\n" in each else each for each in [*parts, row.image or "no image"])


def _entry(row: FleetRow) -> dict[str, Any]:
    version = row.version
    return {
        "model": str(version),
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "run": version.run_id,
        "image": row.image,
        "lock": row.lock,
        "affected": list(row.affected),
        "unknown": row.unknown,
    }
