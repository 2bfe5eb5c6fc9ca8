"""The report for code scanning: SARIF 2.1.0.

Format: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. One run for each report. What is accepted is a
suppressed result (3.27.23), what could not be checked a notification of the tool (3.20.21) and a run that did not
succeed (3.20.14). ``security-severity`` is what GitHub sorts by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from kbuild._version import __version__
from kbuild.audit.finding import Finding, Severity, Unchecked
from kbuild.audit.report.plain import plain_json
from kbuild.audit.report.report import Accepted, AuditReport
from kbuild.digest import digest_json

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: dict[Severity, str] = {"low": "note", "medium": "warning", "high": "error", "critical": "error"}
_OF_FILES = frozenset({"pickles", "secrets", "code"})  # checks that name files
# The middle of each band of CVSS v3.1's scale.
_SCORES: dict[Severity, str] = {"low": "2.0", "medium": "5.5", "high": "8.0", "critical": "9.5"}


def sarif(reports: Sequence[AuditReport], failed: Sequence[tuple[str, str]] = ()) -> str:
    """One log of these reports; ``failed`` are references that could not be audited, each with the reason."""
    runs = [*(_run(each) for each in reports), *(_failure(*each) for each in failed)]
    return plain_json({"$schema": _SCHEMA, "version": "2.1.0", "runs": runs})


def _failure(reference: str, reason: str) -> dict[str, Any]:
    notification = {"level": "error", "message": {"text": f"{reference} could not be audited: {reason}"}}
    return {
        "tool": {"driver": {"name": "kbuild", "version": __version__}},
        "automationDetails": {"id": f"kbuild-audit/{quote(reference, safe='')}/"},
        "invocations": [{"executionSuccessful": False, "toolExecutionNotifications": [notification]}],
        "results": [],
        "properties": {"reference": reference, "verdict": "incomplete"},
    }


def _run(report: AuditReport) -> dict[str, Any]:
    accepted = [(each.item, each) for each in report.accepted if isinstance(each.item, Finding)]
    told: list[tuple[Finding, Accepted | None]] = [*((each, None) for each in report.findings), *accepted]
    rules = {finding.id: finding for finding, _ in reversed(told)}
    return {
        "tool": {
            "driver": {
                "name": "kbuild",
                "version": __version__,
                "rules": [_rule(finding) for _, finding in sorted(rules.items())],
            }
        },
        "automationDetails": {"id": f"kbuild-audit/{quote(report.reference, safe='')}/{report.date}"},
        "invocations": [
            {
                "executionSuccessful": not report.unchecked,
                "toolExecutionNotifications": [_notification(each) for each in report.unchecked],
            }
        ],
        "results": [_result(finding, accepted, report) for finding, accepted in told],
        "properties": {
            "reference": report.reference,
            "verdict": report.verdict,
            "digests": dict(report.digests),
            "notes": list(report.notes),
        },
    }


def _rule(finding: Finding) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "id": finding.id,
        "shortDescription": {"text": f"{finding.id} ({finding.check})"},
        "defaultConfiguration": {"level": _LEVELS[finding.severity]},
        "properties": {"tags": ["security", finding.check], "security-severity": _SCORES[finding.severity]},
    }
    if finding.check == "vulnerabilities":
        rule["helpUri"] = f"https://osv.dev/vulnerability/{quote(finding.id, safe='')}"
    return rule


def _result(finding: Finding, accepted: Accepted | None, report: AuditReport) -> dict[str, Any]:
    named = f"{finding.where} {finding.version}" if finding.version else finding.where
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{named}: {finding.evidence}\n→ {finding.remedy}"},
        "locations": [_location(finding)],
        "partialFingerprints": {
            "kbuild/v1": digest_json([report.reference, finding.id, finding.where, finding.version or ""]).hex
        },
        "properties": {"severity": finding.severity, "check": finding.check, "aliases": list(finding.aliases)},
    }
    if accepted is not None:
        reason = f"{accepted.reason} ({accepted.until})"
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
    return result


def _location(item: Finding | Unchecked) -> dict[str, Any]:
    # Packages are named in the lock; GitHub takes no result without a file. A file's own name may have a colon too.
    of_lock = ":" in item.where and item.check not in _OF_FILES
    path = "conda-lock.yml" if of_lock or item.check == "vulnerabilities" else item.where
    return {
        "physicalLocation": {"artifactLocation": {"uri": quote(path)}},
        "logicalLocations": [{"fullyQualifiedName": item.where}],
    }


def _notification(each: Unchecked) -> dict[str, Any]:
    return {
        "level": "warning",
        "message": {"text": f"not checked ({each.check}): {each.where}: {each.reason}; {each.remedy}"},
        "locations": [_location(each)],
    }
