"""What an audit is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path

from kbuild.audit.finding import Severity
from kbuild.audit.policy import Ignore, Policy
from kbuild.audit.report.report import AuditReport
from kbuild.audit.subject import Subject
from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import AuditFindings, AuditIncomplete
from kbuild.offered.change import short_digests
from kbuild.offered.shown import html_text
from kbuild.plan.render import Template
from kbuild.platform import Platform


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """How to audit. ``today`` decides which ignores have expired and how old advisories are.

    ``offline`` asks no network for advisories or releases; ``lockfile`` is used instead of the stored lock.
    ``template`` and ``labels`` are those that the project builds its images with, ``platform`` tells which of several
    images of one name is meant.
    """

    policy: Policy
    today: date
    fail_on: Severity
    lock: LockRequest
    lockfile: Path | None = None
    offline: bool
    record: bool
    template: Template = field(default_factory=Template)
    labels: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None


@dataclass(frozen=True, kw_only=True)
class Audited:
    """The report, what it is of, and the run it was written to, where it was."""

    report: AuditReport
    subject: Subject = field(repr=False)
    recorded_in: str | None = None

    @cached_property
    def sbom(self) -> str:
        """The bill of materials as CycloneDX JSON, see ``make_sbom``."""
        # To import what writes it, and to validate it, takes longer than most audits.
        from kbuild.audit.report.sbom import make_sbom

        return make_sbom(self.subject, self.report)

    def raise_for_verdict(self) -> None:
        """Raises AuditFindings or AuditIncomplete, unless all is clean."""
        raise_for_verdict(self.report.verdict, self.report.reference, self.report.lapsed)

    def _repr_html_(self) -> str:
        from kbuild.audit.report.text import table

        return html_text(table(self.report, width=120, colour=False))


def raise_for_verdict(verdict: str, what: str, lapsed: Sequence[Ignore]) -> None:
    """Raises AuditFindings or AuditIncomplete, unless the verdict is clean."""
    what = short_digests(what)
    expired = "".join(f"; the ignore of {each} expired on {each.expires}" for each in lapsed)
    places = " and ".join(dict.fromkeys(each.source for each in lapsed))
    again = f"; look at what is ignored in {places} again" if lapsed else ""
    if verdict == "findings":
        raise AuditFindings(f"the audit of {what} has findings{expired}", hint=f"each says what to do{again}")
    if verdict == "incomplete":
        raise AuditIncomplete(
            f"not everything of {what} could be checked{expired}", hint=f"the report says what, and why{again}"
        )
