"""What is told of many images as JSON: one entry a model."""

from __future__ import annotations

from typing import Any

from kbuild.workflow.many import Outcome


def status_of(outcome: Outcome) -> str:
    """built, reused, failed, or stopped where the work had no end."""
    if outcome.error is not None:
        return "failed"
    if outcome.result is None:
        return "stopped"
    return "reused" if outcome.result.reused else "built"


def make_entry(outcome: Outcome) -> dict[str, Any]:
    """A model's entry of the report; seconds are of work."""
    entry: dict[str, Any] = {"model": outcome.model, "seconds": round(outcome.seconds, 3), "status": status_of(outcome)}
    if outcome.result is not None:
        result = outcome.result
        entry |= {"image": result.reference, "digest": str(result.digest), "pushed": result.pushed}
        if result.verified is not None:
            entry |= {"verified": result.verified.verdict, "not_verified": result.verified.reason}
        if result.untagged is not None:
            entry["untagged"] = result.untagged
    if outcome.error is not None:
        error = outcome.error
        entry["error"] = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return entry
