"""An audit of each image that a worker has built, before anybody is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kbuild.api.auditing import AuditOptions, make_request
from kbuild.api.session import Session
from kbuild.audit.finding import Severity
from kbuild.cache.folder import using_cache
from kbuild.digest import Digest
from kbuild.errors import AuditIncomplete, KbuildError
from kbuild.image.engine import BuiltImage
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform, host_platform
from kbuild.workflow import ImageRequest
from kbuild.workflow.audit.auditor import Auditor

if TYPE_CHECKING:
    from kbuild.workflow.queue.running import Asking


@dataclass(frozen=True, kw_only=True, slots=True)
class Auditing:
    """With ``fail_on`` nothing is pushed that has findings so severe, or that could not be checked; without it the
    verdict is told alone."""

    fail_on: Severity | None = None


@dataclass(frozen=True, slots=True)
class Audits:
    """Gates that audit what is built; the verdict stands in the job's entry."""

    inner: Asking
    session: Session
    asked: Auditing
    image: ImageRequest

    def planned(self, plan: Digest) -> None:
        """See Gates."""
        self.inner.planned(plan)

    def built(self, reference: ModelReference, images: Mapping[Platform, BuiltImage]) -> None:
        """See Gates; raises AuditFindings or AuditIncomplete."""
        request = make_request(self.session.config, AuditOptions(fail_on=self.asked.fail_on))
        request = replace(request, template=self.image.template, labels=self.image.labels)
        image = images[host_platform() if host_platform() in images else min(images)]
        tools, told = self.session.tools, self.inner.told
        try:
            with using_cache(tools.cache, limit=tools.cache_limit):
                audited = Auditor(request, tools).audit_model(reference, image=image)
        except KbuildError as error:
            told |= {"audit": "incomplete", "not_audited": error.message}
            if self.asked.fail_on is not None:
                raise AuditIncomplete(f"the audit could not be made: {error.message}", hint=error.hint) from error
        else:
            report = audited.report
            told |= {"audit": report.verdict, "findings": report.counts()}
            if self.asked.fail_on is not None:
                audited.raise_for_verdict()
        self.inner.built(reference, images)
