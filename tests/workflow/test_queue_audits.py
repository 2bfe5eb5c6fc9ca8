"""The audit of what a worker has built: told always, and a gate where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.api.fleet import audits
from kbuild.api.fleet.audits import Auditing, Audits
from kbuild.api.project import ProjectConfig
from kbuild.digest import digest_bytes
from kbuild.errors import (
    AuditFindings,
    AuditIncomplete,
    BuildFailed,
    IndexUnavailable,
    ModelNotFound,
    TrackingUnavailable,
)
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform, host_platform

REFERENCE = ModelReference.parse("models:/churn/3")


def audit(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    verdict: str | Exception | Mapping[str, str],
    asked: Auditing,
) -> tuple[dict[str, Any], list[ModelReference]]:
    """What is told, and what was let through; ``verdict`` of the one image, or by platform."""
    verdicts = verdict if isinstance(verdict, Mapping) else {str(host_platform()): verdict}
    recorded = []

    class Auditor:
        def __init__(self, request: Any, tools: Any) -> None:
            assert (request.labels, request.fail_on) == ((("team", "x"),), asked.fail_on or "low")
            self.record = request.record

        def audit_model(self, reference: ModelReference, *, image: str) -> Any:
            assert reference == REFERENCE
            verdict = verdicts[image.removeprefix("the image for ")]
            if isinstance(verdict, Exception):
                raise verdict
            if self.record:
                recorded.append(image)
            report = SimpleNamespace(
                verdict=verdict, lapsed=(), reference="churn", counts=lambda: {"high": int(verdict == "findings")}
            )
            return SimpleNamespace(report=report)

    monkeypatch.setattr(audits, "Auditor", Auditor)
    passed: list[ModelReference] = []
    inner: Any = SimpleNamespace(told={}, built=lambda reference, images: passed.append(reference))
    tools = SimpleNamespace(cache=tmp_path, using_cache=nullcontext)
    session: Any = SimpleNamespace(config=ProjectConfig(), tools=tools)
    image: Any = SimpleNamespace(template=None, labels=(("team", "x"),))
    images: Any = {Platform.parse(each): f"the image for {each}" for each in verdicts}
    try:
        Audits(inner, session, asked, image).built(REFERENCE, images)
    except (AuditFindings, AuditIncomplete) as error:
        return {**inner.told, "stopped": type(error), "says": error.message}, passed
    finally:
        # A run has one report: that of the image which runs here.
        assert set(recorded) <= {f"the image for {host_platform()}"}
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


def test_who_has_a_word_on_the_plan_still_has_it() -> None:
    told: list[Any] = []
    inner: Any = SimpleNamespace(planned=told.append)
    nothing: Any = None
    Audits(inner, nothing, Auditing(), nothing).planned(digest_bytes(b"plan"))
    assert told == [digest_bytes(b"plan")]


def test_an_audit_that_cannot_be_made_is_incomplete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told, passed = audit(monkeypatch, tmp_path, TrackingUnavailable("away"), Auditing())
    assert (told["audit"], told["not_audited"]) == ("incomplete", "away") and passed == [REFERENCE]
    told, passed = audit(monkeypatch, tmp_path, TrackingUnavailable("away"), Auditing(fail_on="low"))
    assert told["stopped"] is AuditIncomplete and passed == []


@pytest.mark.parametrize("worst", ["findings", "incomplete"])
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64"])
def test_every_platform_is_audited(platform: str, worst: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    verdicts = {"linux/amd64": "clean", "linux/arm64": "clean"} | {platform: worst}
    told, passed = audit(monkeypatch, tmp_path, verdicts, Auditing())
    assert (told["audit"], told["findings"]) == (worst, {"high": int(worst == "findings")}) and passed == [REFERENCE]
    told, passed = audit(monkeypatch, tmp_path, verdicts, Auditing(fail_on="high"))
    assert told["stopped"] is {"findings": AuditFindings, "incomplete": AuditIncomplete}[worst] and passed == []
    assert f"churn for {platform}" in told["says"]
    told, _ = audit(monkeypatch, tmp_path, {str(host_platform()): worst}, Auditing(fail_on="high"))
    assert "churn" in told["says"] and " for linux/" not in told["says"], "there is no other"


@pytest.mark.parametrize("host", [Platform("linux", "amd64"), Platform("linux", "arm64")], ids=str)
def test_the_run_has_the_report_of_the_image_that_runs_here(
    host: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for where in (vars(audits), globals()):
        monkeypatch.setitem(where, "host_platform", lambda: host)
    audit(monkeypatch, tmp_path, {"linux/amd64": "clean", "linux/arm64": "clean"}, Auditing())


def test_findings_of_one_platform_count_where_another_cannot_be_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    verdicts = {"linux/amd64": "incomplete", "linux/arm64": "findings"}
    told, _ = audit(monkeypatch, tmp_path, verdicts, Auditing(fail_on="high"))
    assert (told["audit"], told["stopped"]) == ("findings", AuditFindings)


def test_a_defect_of_an_audit_ends_no_build_that_asked_for_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told, passed = audit(monkeypatch, tmp_path, RuntimeError("broken"), Auditing())
    assert (told["audit"], told["not_audited"]) == ("incomplete", "RuntimeError: broken") and passed == [REFERENCE]
    told, passed = audit(monkeypatch, tmp_path, RuntimeError("broken"), Auditing(fail_on="low"))
    assert told["stopped"] is AuditIncomplete and passed == []


def test_an_audit_that_lacked_a_service_is_tried_again() -> None:
    """What the model lacks, it lacks the next time as well."""
    retries = pytest.importorskip("kbuild.workflow.queue.retries", exc_type=ImportError)
    error = AuditIncomplete("not everything could be checked")
    assert retries.pause_after(error, 1) == 10 and retries.pause_after(error, retries.ATTEMPTS) is None
    error.__cause__ = IndexUnavailable("api.osv.example does not answer")
    assert retries.pause_after(error, 1) == 10
    error.__cause__ = ModelNotFound("no such model")
    assert retries.pause_after(error, 1) is None
    # Of all other errors what they are themselves counts.
    for passing, cause in ((True, ModelNotFound("no such model")), (False, IndexUnavailable("does not answer"))):
        other = BuildFailed("no room") if passing else ModelNotFound("no such model")
        other.__cause__ = cause
        assert (retries.pause_after(other, 1) is not None) is passing
