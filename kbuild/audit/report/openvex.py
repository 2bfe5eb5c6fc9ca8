"""What the audit knows of vulnerabilities, for other scanners: OpenVEX 0.2.0.

Format: https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md. The product is what was audited, known by its digest;
the package is its subcomponent, known by its purl. A finding is ``affected``, with what to do. One that the policy
accepts is affected too, for accepting repairs nothing, unless the ignore has a ``justification``: then it is
``not_affected``. What was read as VEX is told as it was.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from kbuild._version import __version__
from kbuild.audit.finding import Finding
from kbuild.audit.report.plain import plain_json
from kbuild.audit.report.report import Accepted, AuditReport
from kbuild.digest import digest_json

CONTEXT = "https://openvex.dev/ns/v0.2.0"
_LOCKED = frozenset({"conda", "pip"})


def openvex(report: AuditReport, sbom: Mapping[str, Any]) -> str | None:
    """The document; None where there is no vulnerability: OpenVEX knows no document without a statement.

    ``sbom`` is the CycloneDX document of the same audit, which has the purls.
    """
    purls = _purls(sbom)
    accepted = [(each.item, each) for each in report.accepted if isinstance(each.item, Finding)]
    told: list[tuple[Finding, Accepted | None]] = [*((each, None) for each in report.findings), *accepted]
    statements = [
        _statement(finding, accepted, report, purls) for finding, accepted in told if finding.check == "vulnerabilities"
    ]
    if not statements:
        return None
    stated = datetime.datetime.combine(report.date, datetime.time(), datetime.UTC).isoformat()
    document = {
        "@context": CONTEXT,
        "@id": f"https://openvex.dev/docs/kbuild-{digest_json([stated, report.reference, statements]).hex}",
        "author": "kbuild",
        "timestamp": stated,
        "version": 1,
        "tooling": f"kbuild/{__version__}",
        "statements": [each for number, each in enumerate(statements) if each not in statements[:number]],
    }
    return plain_json(document)


def _statement(
    finding: Finding, accepted: Accepted | None, report: AuditReport, purls: Mapping[tuple[str, str], str]
) -> dict[str, Any]:
    names = [finding.id, *finding.aliases]
    purl = purls.get((finding.where, finding.version or ""))
    found: dict[str, Any] = {
        "vulnerability": {"name": names[0], **({"aliases": names[1:]} if names[1:] else {})},
        "products": [
            {**each, **({} if purl is None else {"subcomponents": [{"@id": purl, "identifiers": {"purl": purl}}]})}
            for each in _products(report, finding)
        ],
    }
    remedy = finding.remedy
    if accepted is None:
        return {**found, "status": "affected", "status_notes": finding.evidence, "action_statement": remedy}
    reason = accepted.reason
    until = f"accepted {accepted.until}"
    if accepted.fixed:
        return {**found, "status": "fixed", "status_notes": reason}
    if accepted.justification is None and accepted.expires is None:
        return {**found, "status": "not_affected", "status_notes": until, "impact_statement": reason}
    if accepted.justification is None:
        return {**found, "status": "affected", "action_statement": f"{until}: {reason}; {remedy}"}
    return {
        **found,
        "status": "not_affected",
        "status_notes": until,
        "justification": accepted.justification,
        "impact_statement": reason,
    }


def _products(report: AuditReport, finding: Finding) -> list[dict[str, Any]]:
    """The image, the model, the lock, as far as each was audited; a package of the base is in the image alone."""
    locked = finding.where.partition(":")[0] in _LOCKED
    digests = [(kind, digest) for kind, digest in report.digests if locked or kind == "image"] or report.digests
    return [
        {"@id": f"urn:kbuild:{kind}:{digest}", "hashes": {"sha-256": digest.removeprefix("sha256:")}}
        for kind, digest in digests
    ]


def _purls(sbom: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """By what findings call a package, and its version."""
    found = {}
    for component in sbom.get("components") or ():
        purl = component.get("purl")
        if purl is None:
            continue
        stated = {each["name"]: each["value"] for each in component.get("properties") or ()}
        manager = stated.get("kbuild:lock:manager") or purl.removeprefix("pkg:").partition("/")[0]
        found[f"{manager}:{component['name']}", component["version"]] = purl
    return found
