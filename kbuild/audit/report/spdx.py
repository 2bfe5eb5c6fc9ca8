"""The bill of materials once more, in SPDX 2.3: the same components, relations, digests and licences.

Format: https://spdx.github.io/spdx-spec/v2.3/, as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from cyclonedx.spdx import is_expression

from kbuild.audit.report.plain import plain_json

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9.-]")
# Clause 7.7. What stands for credentials in a url is no part of a url.
_LOCATION = re.compile(r"(https?|git\+https?|git\+ssh|ssh|s?ftp)://[\w.-]+(:\d+)?(/[^\s$*]*)?")
_ADVISORY = "https://osv.dev/vulnerability/"
_ROOT = "SPDXRef-subject"
_PURPOSES = {"machine-learning-model": "OTHER", "application": "APPLICATION", "library": "LIBRARY"}


def spdx(sbom: Mapping[str, Any]) -> str:
    """From the CycloneDX document: what that does not say is NOASSERTION here."""
    metadata = sbom["metadata"]
    subject, components = metadata["component"], sbom.get("components") or []
    ids = {each["bom-ref"]: f"SPDXRef-{number}-{_safe(each['bom-ref'])}" for number, each in enumerate(components)}
    ids[subject["bom-ref"]] = _ROOT
    licences = _Licences()
    advisories: dict[str, list[str]] = {}
    for vulnerability in sbom.get("vulnerabilities") or ():
        for affected in vulnerability.get("affects") or ():
            advisories.setdefault(affected["ref"], []).append(vulnerability["id"])
    packages = [
        _package(each, ids[each["bom-ref"]], licences, advisories.get(each["bom-ref"], ()))
        for each in [subject, *components]
    ]
    files = [_file(each, number) for number, each in enumerate(subject.get("components") or ())]
    serial = str(sbom["serialNumber"]).removeprefix("urn:uuid:")
    audit = [f"{each['name']}: {each['value']}" for each in metadata.get("properties") or ()]
    tools = [f"Tool: {each['name']}-{each['version']}" for each in metadata["tools"]["components"]]
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject["name"],
        "documentNamespace": f"https://spdx.org/spdxdocs/kbuild-{serial}",
        "creationInfo": {"created": metadata["timestamp"].replace("+00:00", "Z"), "creators": tools},
        "comment": "\n".join([*audit, *map(_completeness, sbom.get("compositions") or ())]),
        "packages": [*packages, *files],
        **({"hasExtractedLicensingInfos": licences.extracted} if licences.extracted else {}),
        "relationships": list(_relations(sbom, ids, files)),
    }
    return plain_json(document)


class _Licences:
    """Licences that are no SPDX expression get an id of this document (clause 10)."""

    def __init__(self) -> None:
        self.extracted: list[dict[str, str]] = []
        self._ids: dict[str, str] = {}

    def expression(self, component: Mapping[str, Any]) -> str:
        stated = [self._one(each) for each in component.get("licenses") or ()]
        return " AND ".join(stated) if stated else "NOASSERTION"

    def _one(self, licence: Mapping[str, Any]) -> str:
        if "expression" in licence:
            return str(licence["expression"])
        text = str(licence["license"].get("id") or licence["license"]["name"])
        if is_expression(text):
            return text
        if text not in self._ids:
            self._ids[text] = f"LicenseRef-{len(self._ids)}-{_safe(text)[:60]}"
            # What the text is, the metadata does not say: only its name.
            self.extracted.append({"licenseId": self._ids[text], "extractedText": text, "name": text})
        return self._ids[text]


def _reference(category: str, kind: str, locator: str) -> dict[str, str]:
    return {"referenceCategory": category, "referenceType": kind, "referenceLocator": locator}


def _package(
    component: Mapping[str, Any], spdx_id: str, licences: _Licences, advisories: Sequence[str]
) -> dict[str, Any]:
    places = [each["url"] for each in component.get("externalReferences") or () if each["type"] == "distribution"]
    package: dict[str, Any] = {
        "SPDXID": spdx_id,
        "name": component["name"],
        "downloadLocation": places[0] if places and _LOCATION.fullmatch(places[0]) else "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licences.expression(component),
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": _PURPOSES.get(component["type"], "OTHER"),
    }
    if component.get("version"):
        package["versionInfo"] = component["version"]
    if component.get("hashes"):
        package["checksums"] = [_checksum(each) for each in component["hashes"]]
    references = [_reference("SECURITY", "advisory", f"{_ADVISORY}{quote(each, safe='')}") for each in advisories]
    if component.get("purl"):
        references.insert(0, _reference("PACKAGE-MANAGER", "purl", component["purl"]))
    if references:
        package["externalRefs"] = references
    if component.get("scope") == "excluded":
        package["comment"] = "locked, and left out of the image"
    return package


def _file(component: Mapping[str, Any], number: int) -> dict[str, Any]:
    # What SPDX calls a file needs a SHA1 (clause 8.4), which nobody has taken: it is told as a package of purpose FILE.
    return {
        "SPDXID": f"SPDXRef-file-{number}",
        "name": component["name"],
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "FILE",
        "checksums": [_checksum(each) for each in component.get("hashes") or ()],
    }


def _checksum(each: Mapping[str, str]) -> dict[str, str]:
    return {"algorithm": each["alg"].replace("-", ""), "checksumValue": each["content"]}


def _relations(
    sbom: Mapping[str, Any], ids: Mapping[str, str], files: list[dict[str, Any]]
) -> Iterator[dict[str, str]]:
    yield _relation("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT)
    for each in files:
        yield _relation(_ROOT, "CONTAINS", each["SPDXID"])
    for each in sbom.get("dependencies") or ():
        for needed in each.get("dependsOn") or ():
            yield _relation(ids[each["ref"]], "DEPENDS_ON", ids[needed])


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _completeness(composition: Mapping[str, Any]) -> str:
    about = [*composition.get("assemblies", ()), *composition.get("dependencies", ())]
    return f"{composition['aggregate']}: {', '.join(about)}"


def _safe(text: str) -> str:
    return _NOT_IN_IDS.sub("-", text)
