"""Whether an advisory speaks of a package version: the evaluation of the OSV format, exactly.

Format and algorithm: https://ossf.github.io/osv-schema/ (``affected`` fields and "Evaluation"). Ranges of type GIT
are about commits: a version is found through the record's ``versions`` instead, as the format says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.managers.debversion import version_key

PYPI = "PyPI"
_DPKG = ("Debian", "Ubuntu")
_EVENTS = ("introduced", "fixed", "last_affected", "limit")
_SEMVER = re.compile(r"v?(?P<core>\d+(\.\d+){0,2})(?:-(?P<pre>[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?")
_Key = tuple[Any, ...]
_EARLIEST: _Key = (0,)
_LATEST: _Key = (2,)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageVersion:
    """What is looked up: a name and version in one of OSV's ecosystems."""

    ecosystem: str
    name: str
    version: str


class Undecidable(ValueError):
    """The record cannot be evaluated for this version; the text says why."""


def is_affected(record: Mapping[str, Any], package: PackageVersion) -> bool:
    """``IsVulnerable`` of the specification; a withdrawn record affects nothing.

    Raises Undecidable where only a comparison could tell and a version in it is none of its ecosystem.
    """
    if record.get("withdrawn"):
        return False
    undecided: Undecidable | None = None
    for affected in record.get("affected") or ():
        if not names_package(affected, package):
            continue
        if any(_equal(package, str(version)) for version in affected.get("versions") or ()):
            return True
        try:
            if _in_ranges(package, affected.get("ranges") or ()):
                return True
        except Undecidable as error:
            undecided = error
    if undecided is not None:
        raise undecided
    return False


def names_package(affected: Mapping[str, Any], package: PackageVersion) -> bool:
    """Whether an ``affected`` entry is about this package; PyPI's names compare normalised.

    A distribution's package is of one release (``Debian:12``); what other releases did says nothing of it.
    """
    stated = affected.get("package") or {}
    if not of_ecosystem(str(stated.get("ecosystem", "")), package.ecosystem):
        return False
    name = str(stated.get("name", ""))
    if package.ecosystem == PYPI:
        return canonicalize_name(name) == canonicalize_name(package.name)
    return name == package.name


def of_ecosystem(stated: str, asked: str) -> bool:
    """Whether a record's ecosystem is the one asked for: with its release where one is asked for.

    Ubuntu's variants (``Ubuntu:Pro:22.04:LTS``) are of the same release, as OSV's own service takes them.
    """
    if ":" not in asked:
        return stated.partition(":")[0] == asked
    return stated.replace(":Pro", "").replace(":LTS", "") == asked.replace(":LTS", "")


def is_unimportant(record: Mapping[str, Any], package: PackageVersion) -> bool:
    """Whether Debian's own security team calls it no security matter for this package.

    https://security-team.debian.org/security_tracker.html#severity-levels
    """
    named = [each for each in record.get("affected") or () if names_package(each, package)]
    return bool(named) and all(_urgency(each) == "unimportant" for each in named)


def _urgency(affected: Mapping[str, Any]) -> str:
    specific = affected.get("ecosystem_specific")
    return str(specific.get("urgency")) if isinstance(specific, Mapping) else ""


def fixed_versions(record: Mapping[str, Any], package: PackageVersion) -> tuple[str, ...]:
    """The versions above this one in which the record says it is fixed, the lowest first.

    Where the order of versions is not known, those that the record names, in its order.
    """
    found: dict[_Key, str] = {}
    unordered: list[str] = []
    for affected in record.get("affected") or ():
        if not names_package(affected, package):
            continue
        for each in affected.get("ranges") or ():
            if each.get("type") == "GIT":
                continue
            stated = [str(event["fixed"]) for event in each.get("events") or () if "fixed" in event]
            try:
                key = _keys(package, str(each.get("type")))
                fixes = {key(text): text for text in stated}
                found |= {order: text for order, text in fixes.items() if order > key(package.version)}
            except Undecidable:
                unordered += stated
    return tuple(text for _, text in sorted(found.items())) or tuple(dict.fromkeys(unordered))


def _in_ranges(package: PackageVersion, ranges: Sequence[Mapping[str, Any]]) -> bool:
    undecided: Undecidable | None = None
    for each in ranges:
        kind = str(each.get("type"))
        if kind == "GIT":
            continue
        try:
            if _in_range(_keys(package, kind), package.version, each.get("events") or ()):
                return True
        except Undecidable as error:
            undecided = error
    if undecided is not None:
        raise undecided
    return False


def _in_range(key: Callable[[str], _Key], version: str, events: Sequence[Mapping[str, Any]]) -> bool:
    here = key(version)
    sorted_events = sorted(_events(events, key), key=lambda event: event[0])
    limits = [at for at, name in sorted_events if name == "limit"]
    if limits and not any(here < limit for limit in limits):
        return False
    vulnerable = False
    for at, name in sorted_events:
        if name == "introduced" and here >= at:
            vulnerable = True
        elif (name == "fixed" and here >= at) or (name == "last_affected" and here > at):
            vulnerable = False
    return vulnerable


def _events(events: Sequence[Mapping[str, Any]], key: Callable[[str], _Key]) -> Iterator[tuple[_Key, str]]:
    for event in events:
        for name in _EVENTS:
            if name not in event:
                continue
            text = str(event[name])
            if name == "introduced" and text == "0":
                yield _EARLIEST, name
            elif name == "limit" and text == "*":
                yield _LATEST, name
            else:
                yield key(text), name


def _keys(package: PackageVersion, kind: str) -> Callable[[str], _Key]:
    if kind == "SEMVER":
        return _semver_key
    if kind == "ECOSYSTEM" and package.ecosystem == PYPI:
        return _pypi_key
    if kind == "ECOSYSTEM" and package.ecosystem.partition(":")[0] in _DPKG:
        return lambda text: (1, version_key(text))
    raise Undecidable(f"how versions of {package.ecosystem} follow each other in a {kind} range is not known")


def _pypi_key(text: str) -> _Key:
    try:
        return (1, Version(text))
    except InvalidVersion as error:
        raise Undecidable(f"{text!r} is not a version of Python packages (PEP 440)") from error


def _semver_key(text: str) -> _Key:
    """Semantic Versioning 2.0, section 11; what has less than three numbers is filled with zeros."""
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise Undecidable(f"{text!r} is not a semantic version")
    numbers = tuple(map(int, match["core"].split(".")))
    core = numbers + (0,) * (3 - len(numbers))
    if match["pre"] is None:
        return (1, core, 1, ())
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in match["pre"].split("."))
    return (1, core, 0, parts)


def _equal(package: PackageVersion, listed: str) -> bool:
    if listed == package.version:
        return True
    if package.ecosystem != PYPI:
        return False
    try:
        return Version(listed) == Version(package.version)
    except InvalidVersion:
        return False
