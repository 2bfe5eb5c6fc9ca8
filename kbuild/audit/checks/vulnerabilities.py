"""Known vulnerabilities of the locked packages and of the base's, from advisories on disk and from online services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Any

from kbuild.audit.checks.identity import PackageLookup, asked_packages
from kbuild.audit.finding import SEVERITIES, UNFIXED_ID, CheckResult, Finding, Source, Unchecked
from kbuild.audit.severity import UNKNOWN, read_severity
from kbuild.audit.sources.advisories import AdvisoryDatabase
from kbuild.audit.sources.osv import PYPI, PackageVersion, Undecidable, fixed_versions, is_affected, is_unimportant
from kbuild.audit.sources.osv_api import Answer, OsvApi
from kbuild.audit.sources.services import NotKnown, Service, Vulnerability
from kbuild.audit.subject import Subject
from kbuild.process.asking import asking_pool

_LONGEST = 300
_AT_ONCE = 8
_UNASKED = NotKnown(reason="not asked")
_ONLINE = "audit without --offline, or give --advisories FILE"
_SOURCES = "see that the index and OSV answer (pypi-url and osv-url in kbuild.yml's audit), or give --advisories FILE"


class VulnerabilityCheck:
    """A ``Check``.

    With a database, a Python package that no record names has no known vulnerability; anything else that was not
    answered is unchecked. Records of one vulnerability (by id and aliases) make one finding.
    """

    id = "vulnerabilities"

    def __init__(
        self,
        *,
        database: AdvisoryDatabase | None,
        services: Sequence[Service],
        osv: OsvApi | None = None,
        today: date,
        max_age: int,
        unavailable: str | None = None,
        offline: bool = False,
    ) -> None:
        """``osv`` is asked for all packages at once; ``offline`` tells that nobody is, since the user said so.

        ``unavailable`` tells why advisories that were asked for are not there.
        """
        self._database = database
        self._services = list(services)
        self._osv = osv
        self._told: dict[PackageVersion, Answer] = {}
        self._answers: dict[tuple[str, PackageVersion], tuple[Vulnerability, ...] | NotKnown] = {}
        self._today = today
        self._max_age = max_age
        self._unavailable = unavailable
        self._offline = offline
        self._down: dict[str, str] = {}
        self._faults: dict[str, tuple[int, str]] = {}
        self._unimportant: dict[str, list[str]] = {}

    def run(self, subject: Subject) -> CheckResult:
        """See Check."""
        asked = asked_packages(subject)
        if self._database is None and not self._services and self._osv is None and self._unavailable is None:
            unchecked_all = (
                self._unchecked("packages", "no advisories were given, and --offline asks no service", _ONLINE)
                if self._offline
                else self._unchecked("packages", "no advisories were given, and no service is asked")
            )
            return CheckResult(check=self.id, unchecked=(unchecked_all,))
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        self._faults.clear()
        self._unimportant.clear()
        if self._unavailable is not None:
            unchecked.append(self._unchecked("advisories", self._unavailable))
        packages = [each.package for each in asked if each.package is not None]
        if self._osv is not None:
            self._told = self._osv.query(packages)
        self._ask_services(packages)
        for each in asked:
            found, missed = self._look_up(each, each.package)
            findings += _merge(found)
            unchecked += missed
        if subject.image is not None and subject.image.base.fault is not None:
            unchecked.append(self._unchecked("base", subject.image.base.fault, _ACCEPT))
        if subject.lock is None:
            unchecked.append(self._unchecked("packages", "there is no lockfile that names them"))
        return CheckResult(
            check=self.id,
            findings=tuple(findings),
            unchecked=(*unchecked, *self._outdated()),
            sources=self._sources(),
            looked_at=len(asked),
            notes=tuple(self._notes()),
        )

    def _look_up(self, entry: PackageLookup, package: PackageVersion | None) -> tuple[list[Finding], list[Unchecked]]:
        if package is None:
            reason = "it is a conda package, of which no advisories exist; its name in other sources is not known"
            return [], [self._unchecked(entry.where, reason, _ACCEPT)]
        findings: list[Finding] = []
        missed: list[Unchecked] = []
        answered = False
        if self._database is not None and self._database.knows_ecosystem(package.ecosystem):
            answered = True
            for record in self._database.records(package):
                try:
                    if is_affected(record, package):
                        findings += self._count(record, entry, package)
                except Undecidable as error:
                    reason = f"{record['id']} cannot be evaluated: {error}"
                    missed.append(self._unchecked(entry.where, reason, _CORRECT))
        silent: list[str] = []
        if package.ecosystem == PYPI:
            for service in self._services:
                answer = self._answers[service.name, package]
                if isinstance(answer, NotKnown):
                    silent.append(answer.reason)
                    self._note_fault(service.name, answer)
                else:
                    answered = True
                    findings += [_from_service(each, entry, service.name) for each in answer]
        told = self._told.get(package)
        if isinstance(told, NotKnown):
            silent.append(told.reason)
            self._note_fault("" if self._osv is None else self._osv.name, told)
            if told.concerns:
                missed.append(self._unchecked(entry.where, told.reason))
        elif told is not None:
            answered = True
            for record in told:
                findings += self._count(record, entry, package)
        if silent and not answered and not missed:
            missed.append(self._unchecked(entry.where, "; ".join(silent)))
        if not answered and not missed:
            reason = f"no source here has advisories of {package.ecosystem}"
            missed.append(self._unchecked(entry.where, reason, _ACCEPT))
        return findings, missed

    def _ask_services(self, packages: Sequence[PackageVersion]) -> None:
        """Ask each service of each Python package that it has not told of, for another model, several at once."""
        for service in self._services:
            python = [
                package
                for package in dict.fromkeys(packages)
                if package.ecosystem == PYPI
                and isinstance(self._answers.get((service.name, package), _UNASKED), NotKnown)
            ]
            # One that is down for the first package is down for all; each try would cost its time-out.
            for some in (python[:1], python[1:]):
                with asking_pool(_AT_ONCE) as pool:
                    asked = zip(some, pool.map(partial(self._ask, service), some), strict=True)
                    self._answers.update({(service.name, package): answer for package, answer in asked})

    def _ask(self, service: Service, package: PackageVersion) -> tuple[Vulnerability, ...] | NotKnown:
        if service.name in self._down:
            return NotKnown(reason=self._down[service.name], down=True)
        answer = service.query(package.name, package.version)
        if isinstance(answer, NotKnown) and answer.down:
            self._down[service.name] = answer.reason
        return answer

    def _count(self, record: Mapping[str, Any], entry: PackageLookup, package: PackageVersion) -> Iterator[Finding]:
        """The finding that a record of this version is, unless the distribution calls it no security matter."""
        if is_unimportant(record, package):
            self._unimportant.setdefault(entry.where, []).append(str(record["id"]))
        else:
            yield _from_record(record, entry, package)

    def _notes(self) -> Iterator[str]:
        for where, ids in self._unimportant.items():
            yield f"{where}: the distribution calls {', '.join(sorted(set(ids)))} unimportant: no security matter"

    def _note_fault(self, source: str, answer: NotKnown) -> None:
        """What a source failed in is told, though others have answered for the same packages."""
        if answer.down or answer.concerns:
            number, reason = self._faults.get(source, (0, answer.reason))
            self._faults[source] = number + 1, reason

    def _fault(self, source: str) -> str | None:
        if source not in self._faults:
            return None
        number, reason = self._faults[source]
        return f"no answer for {number} package{'' if number == 1 else 's'}: {reason}"

    def _outdated(self) -> Iterator[Unchecked]:
        database = self._database
        if database is None or database.date is None:
            return
        age = (self._today - date.fromisoformat(database.date)).days
        if age > self._max_age:
            reason = f"the newest of the advisories is of {database.date}, {age} days ago"
            yield self._unchecked(
                "advisories", reason, "fetch newer ones, or allow this age with max-advisory-age in kbuild.yml's audit"
            )

    def _sources(self) -> tuple[Source, ...]:
        names = [service.name for service in self._services] + ([] if self._osv is None else [self._osv.name])
        found = [Source(name=name, fault=self._fault(name)) for name in names]
        if self._database is not None:
            found.insert(0, Source(name=self._database.name, date=self._database.date, records=self._database.size))
        return tuple(found)

    def _unchecked(self, where: str, reason: str, remedy: str = _SOURCES) -> Unchecked:
        return Unchecked(check=self.id, where=where, reason=reason, remedy=remedy)


_CORRECT = (
    "correct that record of --advisories, or accept it for a time with an ignore of id unchecked in kbuild.yml's audit"
)
_ACCEPT = "give advisories that cover it, or accept it for a time with an ignore of id unchecked in kbuild.yml's audit"


def _from_record(record: Mapping[str, Any], entry: PackageLookup, package: PackageVersion) -> Finding:
    summary = str(record.get("summary") or record.get("details") or "")
    fixed = fixed_versions(record, package)
    return Finding(
        id=str(record["id"]),
        check="vulnerabilities",
        severity=read_severity(record),
        where=entry.where,
        version=entry.version,
        evidence=_evidence(f"in {', '.join(entry.parts)}: {summary}" if entry.parts else summary),
        remedy=_remedy(entry, fixed),
        aliases=_aliases(record),
        unfixed=entry.based and not fixed,
    )


def _aliases(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Its other names. Of a distribution's record that is what it was made from, where that is one vulnerability."""
    upstream = [str(each) for each in record.get("upstream") or ()]
    return tuple(sorted({*map(str, record.get("aliases") or ()), *(upstream if len(upstream) == 1 else ())}))


def _from_service(found: Vulnerability, entry: PackageLookup, service: str) -> Finding:
    return Finding(
        id=found.id,
        check="vulnerabilities",
        severity=UNKNOWN,
        where=entry.where,
        version=entry.version,
        evidence=_evidence(f"{found.summary} (told by {service})"),
        remedy=_remedy(entry, found.fixed),
        aliases=found.aliases,
    )


def _evidence(summary: str) -> str:
    text = " ".join(summary.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _remedy(entry: PackageLookup, fixed: Sequence[str]) -> str:
    if entry.based and fixed:
        return f"take a base with {entry.name} {fixed[0]} or later: train again, or name one with kbuild image --base"
    if entry.based:
        return f"wait for a fix by the distribution, or accept it for a time with an ignore of id {UNFIXED_ID}"
    if fixed:
        return f"train with {entry.name} {fixed[0]} or later (fixed in {', '.join(fixed)}) and lock again"
    return f"no release of {entry.name} is said to fix it: replace it, or accept it for a time with an ignore"


def _merge(findings: Sequence[Finding]) -> list[Finding]:
    """One finding for each vulnerability: records that share an id or alias are of one."""
    merged: list[Finding] = []
    for finding in findings:
        ids = {finding.id, *finding.aliases}
        same = [each for each in merged if ids & {each.id, *each.aliases}]
        for each in same:
            merged.remove(each)
            ids |= {each.id, *each.aliases}
        first = same[0] if same else finding
        severity = max((each.severity for each in (*same, finding)), key=SEVERITIES.index)
        unfixed = all(each.unfixed for each in (*same, finding))
        aliases = tuple(sorted(ids - {first.id}))
        merged.append(replace(first, severity=severity, aliases=aliases, unfixed=unfixed))
    return merged
