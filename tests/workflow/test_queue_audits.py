"""The audit of what a worker has built: told always, and a gate where that is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.api.fleet import audits
from kbuild.api.fleet.audits import Auditing, Audits
from kbuild.api.project import ProjectConfig
from kbuild.errors import AuditFindings, AuditIncomplete, KbuildError, TrackingUnavailable
from kbuild.model.model_reference import ModelReference
from kbuild.platform import host_platform
from kbuild.workflow.audit.request import raise_for_verdict

REFERENCE = ModelReference.parse("models:/churn/3")


def audit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: str | KbuildError, asked: Auditing
) -> tuple[dict[str, Any], list[ModelReference]]:
    """What is told, and what was let through."""

    class Auditor:
        def __init__(self, request: Any, tools: Any) -> None:
            assert (request.labels, request.fail_on) == ((("team", "x"),), asked.fail_on or "low")

        def audit_model(self, reference: ModelReference, *, image: str) -> Any:
            assert (reference, image) == (REFERENCE, "the image")
            if isinstance(verdict, KbuildError):
                raise verdict
            report = SimpleNamespace(verdict=verdict, counts=lambda: {"high": int(verdict == "findings")})
            return SimpleNamespace(report=report, raise_for_verdict=lambda: raise_for_verdict(verdict, "churn", ()))

    monkeypatch.setattr(audits, "Auditor", Auditor)
    passed: list[ModelReference] = []
    inner: Any = SimpleNamespace(told={}, built=lambda reference, images: passed.append(reference))
    tools = SimpleNamespace(cache=tmp_path, cache_limit=10**9)
    session: Any = SimpleNamespace(config=ProjectConfig(), tools=tools)
    image: Any = SimpleNamespace(template=None, labels=(("team", "x"),))
    images: Any = {host_platform(): "the image"}
    try:
        Audits(inner, session, asked, image).built(REFERENCE, images)
    except (AuditFindings, AuditIncomplete) as error:
        return {**inner.told, "stopped": type(error)}, passed
    return inner.told, passed


@pytest.mark.parametrize("verdict", ["clean", "findings", "incomplete"])
def test_the_verdict_is_told_and_stops_nothing(verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told, passed = audit(monkeypatch, tmp_path, verdict, Auditing())
    assert told["audit"] == verdict and "stopped" not in told and passed == [REFERENCE]


@pytest.mark.parametrize(
    ("verdict", "stopped"), [("clean", None), ("findings", AuditFindings), ("incomplete", AuditIncomplete)]
)
def test_with_a_severity_it_is_a_gate(
    verdict: str, stopped: type | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, passed = audit(monkeypatch, tmp_path, verdict, Auditing(fail_on="high"))
    assert told.get("stopped") is stopped and passed == ([] if stopped else [REFERENCE])


def test_an_audit_that_cannot_be_made_is_incomplete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told, passed = audit(monkeypatch, tmp_path, TrackingUnavailable("away"), Auditing())
    assert (told["audit"], told["not_audited"]) == ("incomplete", "away") and passed == [REFERENCE]
    told, passed = audit(monkeypatch, tmp_path, TrackingUnavailable("away"), Auditing(fail_on="low"))
    assert told["stopped"] is AuditIncomplete and passed == []
