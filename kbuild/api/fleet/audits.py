"""An audit of each image that a worker has built, before anybody is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kbuild.api.auditing import AuditOptions, make_request
from kbuild.api.session import Session
from kbuild.audit.finding import Severity
from kbuild.digest import Digest
from kbuild.errors import AuditIncomplete
from kbuild.image.engine import BuiltImage
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform, host_platform
from kbuild.refused import known_error
from kbuild.workflow import ImageRequest
from kbuild.workflow.audit.auditor import Auditor
from kbuild.workflow.audit.request import Audited, raise_for_verdict

if TYPE_CHECKING:
    from kbuild.workflow.queue.running import Asking

_VERDICTS = ("clean", "incomplete", "findings")  # the worst last


@dataclass(frozen=True, kw_only=True, slots=True)
class Auditing:
    """With ``fail_on`` nothing is pushed that has findings so severe, or that could not be checked; without it the
    verdict is told alone."""

    fail_on: Severity | None = None


@dataclass(frozen=True, slots=True)
class Audits:
    """Gates that audit what is built, for each platform; the worst verdict stands in the job's entry."""

    inner: Asking
    session: Session
    asked: Auditing
    image: ImageRequest

    def planned(self, plan: Digest) -> None:
        """See Gates."""
        self.inner.planned(plan)

    def built(self, reference: ModelReference, images: Mapping[Platform, BuiltImage]) -> None:
        """See Gates; raises AuditFindings or AuditIncomplete."""
        # A run has one report: that of the image which runs here, as of ``kbuild audit``.
        recorded = host_platform() if host_platform() in images else min(images)
        audits: dict[Platform, Audited] = {}
        try:
            for platform in sorted(images):
                audits[platform] = self._audit(reference, images[platform], record=platform == recorded)
        except Exception as unknown:  # noqa: BLE001  where nobody asked for a gate, a defect of the audit is none
            error = known_error(unknown)
            self.inner.told.update({"audit": "incomplete", "not_audited": error.message})
            if self.asked.fail_on is not None:
                raise AuditIncomplete(f"the audit could not be made: {error.message}", hint=error.hint) from error
        else:
            self._judge(audits)
        self.inner.built(reference, images)

    def _audit(self, reference: ModelReference, image: BuiltImage, *, record: bool) -> Audited:
        request = make_request(self.session.config, AuditOptions(fail_on=self.asked.fail_on))
        request = replace(request, template=self.image.template, labels=self.image.labels, record=record)
        tools = self.session.tools
        with tools.using_cache():
            return Auditor(request, tools).audit_model(reference, image=image)

    def _judge(self, audits: Mapping[Platform, Audited]) -> None:
        worst = max(audits, key=lambda platform: _VERDICTS.index(audits[platform].report.verdict))
        report = audits[worst].report
        counts = [each.report.counts() for each in audits.values()]
        # What is in all platforms' images is one finding.
        told = {severity: max(count[severity] for count in counts) for severity in counts[0]}
        self.inner.told.update({"audit": report.verdict, "findings": told})
        if self.asked.fail_on is not None:
            what = f"{report.reference} for {worst}" if len(audits) > 1 else report.reference
            raise_for_verdict(report.verdict, what, report.lapsed)
