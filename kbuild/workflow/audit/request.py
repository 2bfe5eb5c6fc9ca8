"""What an audit is asked for, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from kbuild.audit.finding import Severity
from kbuild.audit.policy import Policy
from kbuild.audit.report.report import AuditReport
from kbuild.environment.locking.lock_model import LockRequest
from kbuild.plan.render import Template


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """How to audit. ``today`` decides which ignores have expired and how old advisories are.

    ``offline`` asks no network for advisories or releases; ``lockfile`` is used instead of the stored lock.
    ``template`` and ``labels`` are those that the project builds its images with.
    """

    policy: Policy
    today: date
    fail_on: Severity
    lock: LockRequest
    lockfile: Path | None = None
    offline: bool = False
    record: bool = True
    template: Template = field(default_factory=Template)
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """The report, the SBOM as CycloneDX JSON, and the run it was written to, where it was."""

    report: AuditReport
    sbom: str
    recorded_in: str | None = None
