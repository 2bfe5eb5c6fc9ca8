"""The bill of materials: the locked packages with the model as the component that they are for, in CycloneDX 1.6.

Format: https://cyclonedx.org/docs/1.6/json/; package urls: https://github.com/package-url/purl-spec (types ``pypi``,
``conda``, ``deb``, ``apk``). Written and validated by cyclonedx-python-lib. Nothing in it depends on the clock or on
chance.
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.model.tool import ToolRepository
from cyclonedx.model.vulnerability import (
    BomTarget,
    Vulnerability,
    VulnerabilityRating,
    VulnerabilityReference,
    VulnerabilitySeverity,
    VulnerabilitySource,
)
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.spdx import fixup_id, is_expression
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from kbuild._version import __version__
from kbuild.audit.base_facts import ImageBase, InstalledPackage, Kind
from kbuild.audit.finding import Finding
from kbuild.audit.image_facts import ImageFacts
from kbuild.audit.lockview import LockEntry
from kbuild.audit.report.plain import plain_json
from kbuild.audit.report.report import AuditReport
from kbuild.audit.subject import Subject
from kbuild.digest import canonical_json
from kbuild.errors import UnexpectedError
from kbuild.urls.credentials import without_credentials

# What these could not tell is of what is known of a part, not of which parts there are.
_NOT_OF_PARTS = frozenset({"vulnerabilities", "releases", "licences", "secrets", "pickles"})
_NAMESPACE = uuid.UUID("6f1ff2a1-1d3c-5d0f-9a7e-4b6c0c9e3d52")


def make_sbom(subject: Subject, report: AuditReport) -> str:
    """The document as JSON text, validated. The verdict and its date are properties of its metadata.

    Vulnerabilities are those of the report, accepted ones left out. Raises UnexpectedError when the document does not
    keep to its own schema.
    """
    model = _model(subject)
    licenses = _licenses(subject)
    entries = () if subject.lock is None else subject.lock.entries
    left_out = frozenset() if subject.image is None else subject.image.left_out
    components = {_reference(entry): _package(entry, licenses, left_out) for entry in entries}
    base = (
        []
        if subject.image is None
        else [_distributed(each, subject.image.base) for each in subject.image.base.packages]
    )
    bom = Bom(
        components=[*components.values(), *base],
        serial_number=uuid.uuid5(_NAMESPACE, canonical_json(report.to_json()).decode()),
        metadata=BomMetaData(
            timestamp=_timestamp(subject, report),
            component=model,
            tools=ToolRepository(
                components=[Component(name="kbuild", version=__version__, type=ComponentType.APPLICATION)]
            ),
            properties=[
                Property(name="kbuild:audit:verdict", value=report.verdict),
                Property(name="kbuild:audit:date", value=report.date.isoformat()),
                Property(name="kbuild:audit:unchecked", value=str(len(report.unchecked))),
                *(Property(name=f"kbuild:{name}:digest", value=digest) for name, digest in report.digests),
            ],
        ),
    )
    _connect(bom, model, entries, components)
    bom.register_dependency(model, base)
    for finding in report.findings:
        if finding.check == "vulnerabilities":
            bom.vulnerabilities.add(_vulnerability(finding, entries))
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["compositions"] = _compositions(subject, report, str(model.bom_ref.value))
    text = plain_json(document)
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise UnexpectedError(f"the SBOM does not keep to CycloneDX 1.6: {error.data.message}")
    return text


def _compositions(subject: Subject, report: AuditReport, root: str) -> list[dict[str, Any]]:
    """What of this is all there is. The library has no words for it."""
    image, lock = subject.image, subject.lock
    of_parts = [each for each in report.unchecked if each.check not in _NOT_OF_PARTS]
    whole = image is not None and image.base.fault is None and lock is not None and not of_parts
    doubted = {each.check for each in report.findings} | {each.check for each in report.unchecked}
    locked = lock is not None and "lock" not in doubted
    found: list[dict[str, Any]] = [
        {"aggregate": "complete" if whole else "incomplete", "assemblies": [root]},
        {"aggregate": "complete" if locked else "incomplete", "dependencies": [root]},
    ]
    known = [_vulnerability_reference(each) for each in report.findings if each.check == "vulnerabilities"]
    if known and any(each.check == "vulnerabilities" for each in report.unchecked):
        found.append({"aggregate": "incomplete", "vulnerabilities": sorted(set(known))})
    return found


def _model(subject: Subject) -> Component:
    bundle = subject.bundle
    if bundle is None:
        return Component(name=subject.reference, type=ComponentType.APPLICATION, bom_ref="subject")
    facts = bundle.facts
    stated = {
        "kbuild:run:id": facts.run_id,
        "kbuild:model:uri": facts.uri,
        "kbuild:model:mlflow_version": facts.mlflow_version,
        "kbuild:model:python_version": facts.python_version,
    }
    return Component(
        name=facts.name or "model",
        version=facts.model_id or facts.run_id or str(bundle.digest),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        properties=[Property(name=name, value=value) for name, value in stated.items() if value],
        components=[
            Component(
                name=file.path,
                type=ComponentType.FILE,
                bom_ref=f"model/{file.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=file.digest.hex)],
            )
            for file in bundle.files
        ],
    )


def _package(entry: LockEntry, licenses: Mapping[tuple[str, str], str], left_out: frozenset[str]) -> Component:
    purl = _purl(entry)
    stated = licenses.get((entry.manager, entry.canonical))
    return Component(
        name=entry.name,
        version=entry.version,
        type=ComponentType.LIBRARY,
        # Locked, but not in the slim image that was audited.
        scope=ComponentScope.EXCLUDED if entry.manager == "pip" and entry.canonical in left_out else None,
        bom_ref=_reference(entry),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in _sha256(entry)],
        licenses=[] if stated is None else [_license(stated)],
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(without_credentials(entry.url)))
        ]
        if entry.url
        else [],
        properties=[Property(name="kbuild:lock:manager", value=entry.manager)],
    )


def _purl(entry: LockEntry) -> PackageURL:
    if entry.manager != "conda":
        return PackageURL(type="pypi", name=entry.canonical, version=entry.version)
    # NAME-VERSION-BUILD.conda (conda's docs, "Package naming conventions"); the channel is the url above the subdir.
    stem = entry.filename.removesuffix(".conda").removesuffix(".tar.bz2")
    build = stem.removeprefix(f"{entry.name}-{entry.version}-")
    channel = without_credentials(entry.url or "").rsplit("/", 2)[0]
    stated = {"build": build if build != stem else "", "subdir": entry.subdir, "channel": channel}
    return PackageURL(
        type="conda", name=entry.name, version=entry.version, qualifiers={k: v for k, v in stated.items() if v}
    )


def _distributed(package: InstalledPackage, base: ImageBase) -> Component:
    """A source package of the distribution; its parts are what is installed of it."""
    distribution, _, release = (base.ecosystem or "").partition(":")
    namespace = distribution.lower().replace(" ", "-") or None
    stated = {"arch": "source" if package.kind == "deb" else "", "distro": f"{namespace}-{release}" if release else ""}
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=_base_reference(package.where, package.version),
        purl=PackageURL(
            type=package.kind,
            namespace=namespace,
            name=package.name,
            version=package.version,
            qualifiers={name: value for name, value in stated.items() if value},
        ),
        licenses=[] if package.license is None else [_license(package.license)],
        properties=[Property(name="kbuild:base:part", value=part) for part in package.parts],
    )


def _base_reference(where: str, version: str | None) -> str:
    return f"base/{where.replace(':', '/')}@{version}"


def _reference(entry: LockEntry) -> str:
    return f"{entry.manager}/{entry.subdir}/{entry.name}@{entry.version}"


def _connect(bom: Bom, model: Component, entries: tuple[LockEntry, ...], components: Mapping[str, Component]) -> None:
    """The dependency graph: the model on what nothing else needs, packages on each other as the lock says."""
    by_name: dict[tuple[str, str], list[Component]] = {}
    for entry in entries:
        by_name.setdefault((entry.subdir, canonicalize_name(entry.name)), []).append(components[_reference(entry)])
    needed: set[str] = set()
    for entry in entries:
        found = [
            each for name in entry.dependencies for each in by_name.get((entry.subdir, canonicalize_name(name)), [])
        ]
        needed.update(str(each.bom_ref.value) for each in found)
        bom.register_dependency(components[_reference(entry)], found)
    bom.register_dependency(model, [each for each in components.values() if each.bom_ref.value not in needed])


def _vulnerability(finding: Finding, entries: tuple[LockEntry, ...]) -> Vulnerability:
    hit = [_reference(each) for each in entries if (each.where, each.version) == (finding.where, finding.version)]
    if finding.where.partition(":")[0] in get_args(Kind):
        hit = [_base_reference(finding.where, finding.version)]
    return Vulnerability(
        id=finding.id,
        bom_ref=_vulnerability_reference(finding),
        description=finding.evidence,
        recommendation=finding.remedy,
        ratings=[VulnerabilityRating(severity=VulnerabilitySeverity(finding.severity))],
        references=[
            VulnerabilityReference(id=alias, source=VulnerabilitySource(name=alias.partition("-")[0]))
            for alias in finding.aliases
        ],
        affects=[BomTarget(ref=each) for each in hit],
    )


def _vulnerability_reference(finding: Finding) -> str:
    return f"{finding.id}/{finding.where}@{finding.version}"


def _licenses(subject: Subject) -> dict[tuple[str, str], str]:
    """What the metadata inside the image says; the lock knows no licences."""
    if subject.image is None:
        return {}
    return {key: text for key, text in _stated_licenses(subject.image) if text}


def _stated_licenses(image: ImageFacts) -> Iterator[tuple[tuple[str, str], str | None]]:
    for distribution in image.distributions:
        yield ("pip", distribution.name), distribution.license
    for record in image.conda:
        yield ("conda", canonicalize_name(record.name)), record.license


def _license(text: str) -> DisjunctiveLicense | LicenseExpression:
    known = fixup_id(text)
    if known is not None:
        return DisjunctiveLicense(id=known)
    return LicenseExpression(value=text) if is_expression(text) else DisjunctiveLicense(name=text)


def _timestamp(subject: Subject, report: AuditReport) -> datetime.datetime:
    if subject.bundle is not None and subject.bundle.facts.created:
        return datetime.datetime.fromtimestamp(subject.bundle.facts.created, datetime.UTC)
    return datetime.datetime.combine(report.date, datetime.time(), datetime.UTC)


def _sha256(entry: LockEntry) -> list[str]:
    return [entry.sha256] if entry.sha256 is not None and re.fullmatch("[0-9a-f]{64}", entry.sha256) else []
