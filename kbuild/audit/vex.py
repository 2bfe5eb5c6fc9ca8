"""What is said of vulnerabilities in documents of VEX, and counts for what is audited: OpenVEX 0.2.0.

Format: https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md. A statement counts for a finding of its vulnerability
in a package that it names by purl, either as a product itself or as a subcomponent of what is audited, named by digest.
Of several the newest counts: ``not_affected`` and ``fixed`` take a finding out, ``affected`` and
``under_investigation`` leave it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from packageurl import PackageURL
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.audit.finding import Finding
from kbuild.audit.policy import JUSTIFICATIONS
from kbuild.errors import ConfigurationError
from kbuild.files import expand_home
from kbuild.managers.debversion import version_key
from kbuild.untrusted import BrokenText, parse_json, read_text

Status = Literal["not_affected", "affected", "fixed", "under_investigation"]
_STATUSES = ("not_affected", "affected", "fixed", "under_investigation")
_CONTEXT = "https://openvex.dev/ns"
_HINT = "kbuild.yml's audit: vex names OpenVEX documents; vexctl and kbuild audit --format openvex write them"
# How purls name what findings call by its package manager.
_TYPES = {"pip": "pypi"}
_DISTRIBUTED = ("deb", "apk")
_HASH = "sha256:"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Component:
    """What a product or a part of one is known by."""

    purls: tuple[PackageURL, ...]
    digests: frozenset[str]
    parts: tuple[_Component, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class VexStatement:
    """One statement; ``reason`` is in its own words, ``source`` the document's path. ``at`` is when it was true."""

    names: frozenset[str]
    status: Status
    products: tuple[_Component, ...]
    at: datetime.datetime
    source: str
    reason: str
    justification: str | None = None

    @property
    def hides(self) -> bool:
        """Whether it takes a finding out."""
        return self.status in ("not_affected", "fixed")

    def speaks_of(self, finding: Finding, digests: Iterable[str], distribution: str | None) -> bool:
        """``digests`` are those of what is audited, ``sha256:…``; ``distribution`` is its base's, ``debian``."""
        if finding.check != "vulnerabilities" or not self.names & {finding.id, *finding.aliases}:
            return False
        audited = {each.removeprefix(_HASH) for each in digests}
        return any(self._covers(product, finding, audited, distribution) for product in self.products)

    def _covers(self, product: _Component, finding: Finding, audited: set[str], distribution: str | None) -> bool:
        whole = bool(product.digests & audited)
        if product.parts:
            return whole and any(self._is_package(part, finding, distribution) for part in product.parts)
        return whole or self._is_package(product, finding, distribution)

    def _is_package(self, component: _Component, finding: Finding, distribution: str | None) -> bool:
        manager, _, name = finding.where.partition(":")
        for purl in component.purls:
            if purl.type != _TYPES.get(manager, manager) or not _same_name(purl.name, name, purl.type):
                continue
            # Distributions call other files by one name and version.
            if manager in _DISTRIBUTED and (distribution is None or purl.namespace != distribution):
                continue
            # What is fixed is so from a version on: one that says none says nothing of the one that is there.
            if purl.version is None and self.status != "fixed":
                return True
            if purl.version is not None and _same_version(purl.version, finding.version or "", purl.type):
                return True
        return False


def newest_statement(
    finding: Finding, digests: Sequence[str], statements: Sequence[VexStatement], distribution: str | None = None
) -> VexStatement | None:
    """The last word on a finding; of two of one time the later in the documents counts."""
    speaking = [each for each in statements if each.speaks_of(finding, digests, distribution)]
    return max(enumerate(speaking), key=lambda each: (each[1].at, each[0]), default=(0, None))[1]


def read_vex(paths: Iterable[str]) -> tuple[VexStatement, ...]:
    """The statements of documents, in their order; raises ConfigurationError for what is none."""
    found: list[VexStatement] = []
    for path in paths:
        try:
            value = parse_json(read_text(expand_home(path)))
            found += _read_document(value, path)
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}", hint=_HINT) from error
        except (BrokenText, _NoVex) as error:
            raise ConfigurationError(f"{path} is not an OpenVEX document: {error}", hint=_HINT) from error
    return tuple(found)


class _NoVex(ValueError):
    """The message names the place and the fault."""


def _read_document(value: Any, source: str) -> Iterator[VexStatement]:
    context = value.get("@context") if isinstance(value, Mapping) else None
    if not isinstance(context, str) or not context.startswith(_CONTEXT):
        raise _NoVex(f"its @context does not begin with {_CONTEXT}")
    listed = value.get("statements")
    if not isinstance(listed, list) or not listed:
        raise _NoVex("it has no statements")
    for number, each in enumerate(listed):
        try:
            yield _read_statement(each, value, source)
        except _NoVex as error:
            raise _NoVex(f"statements[{number}]{error}") from error


def _read_statement(value: Any, document: Mapping[str, Any], source: str) -> VexStatement:
    if not isinstance(value, Mapping):
        raise _NoVex(" is not an object")
    status = value.get("status")
    if status not in _STATUSES:
        raise _NoVex(f".status has to be one of {', '.join(_STATUSES)}")
    justification, impact = (value.get(key) for key in ("justification", "impact_statement"))
    if justification is not None and justification not in JUSTIFICATIONS:
        raise _NoVex(f".justification has to be one of {', '.join(JUSTIFICATIONS)}")
    if status == "not_affected" and not (justification or (isinstance(impact, str) and impact.strip())):
        raise _NoVex(" says not_affected, and has neither justification nor impact_statement")
    products = value.get("products")
    if not isinstance(products, list) or not products:
        raise _NoVex(".products names nothing")
    words = (str(text) for text in (impact or value.get("status_notes"), justification) if text)
    return VexStatement(
        names=frozenset(_names(value.get("vulnerability"))),
        status=cast(Status, status),
        products=tuple(_component(each, f".products[{number}]") for number, each in enumerate(products)),
        at=_time(value, document),
        source=source,
        reason=next(words, str(status)),
        justification=justification,
    )


def _names(value: Any) -> list[str]:
    stated: list[Any] = [value] if isinstance(value, str) else []
    if isinstance(value, Mapping):
        aliases = value.get("aliases") or []
        stated = [value.get("name"), *(aliases if isinstance(aliases, list) else [None])]
    if not stated or not all(isinstance(each, str) and each for each in stated):
        raise _NoVex(".vulnerability has to have a name, and its aliases have to be texts")
    return stated


def _component(value: Any, place: str) -> _Component:
    if isinstance(value, str):  # as before 0.2.0
        value = {"@id": value}
    identifiers = value.get("identifiers") or {} if isinstance(value, Mapping) else None
    hashes = value.get("hashes") or {} if isinstance(value, Mapping) else None
    parts = value.get("subcomponents") or [] if isinstance(value, Mapping) else None
    if not isinstance(identifiers, Mapping) or not isinstance(hashes, Mapping) or not isinstance(parts, list):
        raise _NoVex(f"{place} is not a component")
    named = [value.get("@id"), identifiers.get("purl")]
    if not all(isinstance(each, str | None) for each in (*named, *hashes.values())):
        raise _NoVex(f"{place} is known by what is not text")
    texts = [each for each in named if each]
    if not texts and not hashes:
        raise _NoVex(f"{place} has neither @id nor identifiers nor hashes")
    purls = tuple(_purl(each, place) for each in texts if each.startswith("pkg:"))
    digests = {str(hashes["sha-256"]).lower()} if hashes.get("sha-256") else set()
    digests |= {each.rpartition(_HASH)[2] for each in texts if _HASH in each}
    versions = (each.version or "" for each in purls)
    digests |= {each.removeprefix(_HASH) for each in versions if each.startswith(_HASH)}
    return _Component(
        purls=purls,
        digests=frozenset(digests),
        parts=tuple(_component(each, f"{place}.subcomponents[{number}]") for number, each in enumerate(parts)),
    )


def _purl(text: str, place: str) -> PackageURL:
    try:
        return PackageURL.from_string(text)
    except ValueError as error:
        raise _NoVex(f"{place} has a purl that is none: {text!r:.80}") from error


def _time(value: Mapping[str, Any], document: Mapping[str, Any]) -> datetime.datetime:
    stated = next((each[key] for each in (value, document) for key in ("last_updated", "timestamp") if key in each), "")
    try:
        found = datetime.datetime.fromisoformat(stated)
    except (TypeError, ValueError) as error:
        raise _NoVex(f" has no time, nor has the document: {stated!r:.40}") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)


def _same_name(one: str, other: str, kind: str) -> bool:
    return canonicalize_name(one) == canonicalize_name(other) if kind == "pypi" else one == other


def _same_version(one: str, other: str, kind: str) -> bool:
    if kind == "deb":
        return version_key(one) == version_key(other)  # 1:2.0-1 and 1:2.00-1 are one version to dpkg
    try:
        return one == other or (kind == "pypi" and Version(one) == Version(other))
    except InvalidVersion:
        return False
