"""The report of an audit: its verdict, and the JSON form whose schema is ``schema/report.schema.json``."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from typing import Any, Literal

from kbuild._version import __version__
from kbuild.audit.finding import SEVERITIES, CheckResult, Finding, Severity, Source, Unchecked, is_at_least
from kbuild.audit.policy import Ignore, Policy
from kbuild.audit.sizes.values import ImageSizes
from kbuild.audit.subject import Subject
from kbuild.audit.vex import VexStatement, newest_statement
from kbuild.digest import Digest, digest_json

FORMAT = 1
Verdict = Literal["clean", "findings", "incomplete"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A finding, or something unchecked, that the policy accepts until ``expires``; what a document of VEX says has no
    such day, and ``fixed`` tells that it says so."""

    item: Finding | Unchecked
    reason: str
    expires: datetime.date | None
    justification: str | None = None
    fixed: bool = False

    @property
    def until(self) -> str:
        """The day as words."""
        return "by VEX" if self.expires is None else f"until {self.expires}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditReport:
    """``digests`` are those of the lock, the model and the image, as far as they were audited; ``sizes`` in bytes, an
    image's as it is unpacked.

    ``expired`` are ignores whose day has passed: what they covered counts again; ``lapsed`` are those of them that
    would have covered something. ``unused`` covered nothing.
    """

    reference: str
    kind: str
    date: datetime.date
    fail_on: Severity
    digests: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, int], ...] = ()
    measured: Callable[[], ImageSizes] | None = field(default=None, compare=False, repr=False)
    checks: tuple[tuple[str, int], ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...]
    accepted: tuple[Accepted, ...]
    expired: tuple[Ignore, ...]
    lapsed: tuple[Ignore, ...]
    unused: tuple[Ignore, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...]

    @property
    def image_sizes(self) -> ImageSizes | None:
        """Whose the files of the image are; added up when they are asked for."""
        return None if self.measured is None else self.measured()

    @property
    def failing(self) -> tuple[Finding, ...]:
        """Findings at or above ``fail_on``."""
        return tuple(finding for finding in self.findings if is_at_least(finding.severity, self.fail_on))

    @property
    def verdict(self) -> Verdict:
        """findings: some fail; else incomplete: something could not be checked; else clean."""
        if self.failing:
            return "findings"
        return "incomplete" if self.unchecked else "clean"

    def counts(self) -> dict[str, int]:
        """How many findings of each severity, the worst first."""
        severities = [finding.severity for finding in self.findings]
        return {severity: severities.count(severity) for severity in reversed(SEVERITIES)}

    @property
    def identity(self) -> Digest:
        """Of two reports that say the same it is the same. What the image's digest decides is left out."""
        return digest_json([__version__, self._said()])

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        measured = self.image_sizes
        return {**self._said(), **({} if measured is None else {"image_sizes": measured.to_json()})}

    def _said(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "reference": self.reference,
            "kind": self.kind,
            "date": self.date.isoformat(),
            "verdict": self.verdict,
            "fail_on": self.fail_on,
            "counts": self.counts(),
            "digests": dict(self.digests),
            "sizes": dict(self.sizes),
            "checks": [{"id": check, "looked_at": number} for check, number in self.checks],
            "findings": [_item(finding) for finding in self.findings],
            "unchecked": [_item(each) for each in self.unchecked],
            "accepted": [_accepted(each) for each in self.accepted],
            "expired_ignores": [_ignore(ignore) for ignore in self.expired],
            "unused_ignores": [_ignore(ignore) for ignore in self.unused],
            "sources": [asdict(source) for source in self.sources],
            "notes": list(self.notes),
        }


def make_report(
    subject: Subject,
    results: Sequence[CheckResult],
    policy: Policy,
    *,
    today: datetime.date,
    fail_on: Severity,
    vex: Sequence[VexStatement] = (),
) -> AuditReport:
    """Join the checks' answers and take out what the policy accepts on the day ``today``, and what ``vex`` says does no
    harm."""
    findings: list[Finding] = []
    unchecked: list[Unchecked] = []
    accepted: list[Accepted] = []
    used: set[Ignore] = set()
    items: list[Finding | Unchecked] = []
    digests = tuple(_digests(subject).values())
    for result in results:
        items += [replace(each, severity=policy.severity_of(each)) for each in result.findings]
        items += result.unchecked
    for item in items:
        covering = [ignore for ignore in policy.ignores if ignore.covers(item)]
        used.update(covering)
        valid = [ignore for ignore in covering if today <= ignore.expires]
        if valid:
            first = valid[0]
            accepted.append(
                Accepted(item=item, reason=first.reason, expires=first.expires, justification=first.justification)
            )
        elif isinstance(item, Finding):
            said = newest_statement(item, digests, vex, _distribution(subject))
            if said is not None and said.hides:
                reason = f"{said.reason} ({said.status} by {said.source})"
                fixed, why = said.status == "fixed", said.justification
                accepted.append(Accepted(item=item, reason=reason, expires=None, justification=why, fixed=fixed))
            else:
                findings.append(item)
        else:
            unchecked.append(item)
    return AuditReport(
        reference=subject.reference,
        kind=subject.kind,
        date=today,
        fail_on=fail_on,
        digests=tuple(_digests(subject).items()),
        sizes=tuple(_sizes(subject)),
        measured=None if subject.image is None else subject.image.measured,
        checks=tuple((result.check, result.looked_at) for result in results),
        findings=tuple(sorted(findings, key=_order)),
        unchecked=tuple(sorted(set(unchecked), key=lambda each: (each.check, each.where, each.reason))),
        accepted=tuple(accepted),
        expired=tuple(ignore for ignore in policy.ignores if today > ignore.expires),
        lapsed=tuple(ignore for ignore in policy.ignores if today > ignore.expires and ignore in used),
        unused=tuple(ignore for ignore in policy.ignores if ignore not in used),
        sources=tuple(dict.fromkeys(source for result in results for source in result.sources)),
        notes=tuple(note for result in results for note in result.notes),
    )


def _distribution(subject: Subject) -> str | None:
    """What purls call the distribution of the image's base, as os-release does."""
    ecosystem = None if subject.image is None else subject.image.base.ecosystem
    return None if ecosystem is None else ecosystem.partition(":")[0].lower()


def report_schema() -> dict[str, Any]:
    """The JSON schema of ``AuditReport.to_json``."""
    text = files("kbuild.audit").joinpath("schema", "report.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _order(finding: Finding) -> tuple[int, str, str, str]:
    return (-SEVERITIES.index(finding.severity), finding.check, finding.where, finding.id)


def _digests(subject: Subject) -> dict[str, str]:
    found = {
        "image": None if subject.image is None else subject.image.digest,
        "lock": None if subject.lock is None else str(subject.lock.digest),
        "model": None if subject.bundle is None else str(subject.bundle.digest),
    }
    return {name: digest for name, digest in found.items() if digest is not None}


def _sizes(subject: Subject) -> Iterator[tuple[str, int]]:
    if subject.image is not None:
        yield "image", sum(member.size for layer in subject.image.layers for member in layer.members)
    if subject.bundle is not None:
        yield "model", sum(file.size for file in subject.bundle.files)


def _item(item: Finding | Unchecked) -> dict[str, Any]:
    value = asdict(item)
    if isinstance(item, Finding):
        value["aliases"] = list(item.aliases)
    return value


def _accepted(each: Accepted) -> dict[str, Any]:
    expires = None if each.expires is None else each.expires.isoformat()
    justified = {} if each.justification is None else {"justification": each.justification}
    return {**_item(each.item), "accepted": each.reason, "expires": expires, **justified}


def _ignore(ignore: Ignore) -> dict[str, Any]:
    return {
        "id": ignore.id,
        "package": ", ".join(ignore.packages) or None,
        "reason": ignore.reason,
        "expires": ignore.expires.isoformat(),
    }
