"""Findings on real advisories against a second, plain reading of the specification."""

from __future__ import annotations

import os
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.audit.checks.vulnerabilities import VulnerabilityCheck
from kbuild.audit.lockview import view_lock
from kbuild.audit.sources.advisories import read_advisories
from kbuild.audit.subject import Subject

BESIDE = Path(__file__).parents[3] / "shared" / "data" / "pypa-advisories-2024-10-10.tar.gz"
SNAPSHOT = Path(os.environ.get("KBUILD_ADVISORIES", BESIDE))
WANTED = 200


def plain_evaluation(record: dict[str, Any], name: str, text: str) -> bool:
    """The pseudocode of the OSV format, "Evaluation", word for word, for PyPI."""
    version = Version(text)
    if "withdrawn" in record:
        return False
    for affected in record["affected"]:
        if affected["package"]["ecosystem"] != "PyPI" or canonicalize_name(affected["package"]["name"]) != name:
            continue
        for listed in affected.get("versions", []):
            try:
                if Version(listed) == version:
                    return True
            except InvalidVersion:
                pass
        for each in affected.get("ranges", []):
            if each["type"] != "ECOSYSTEM":
                continue
            lowest = Version("0.dev0")
            events = [
                (lowest if value == "0" else Version(value), kind) for e in each["events"] for kind, value in e.items()
            ]
            vulnerable = False
            for at, kind in sorted(events, key=lambda event: event[0]):
                if kind == "introduced" and version >= at:
                    vulnerable = True
                elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
                    vulnerable = False
            if vulnerable:
                return True
    return False


def read_records() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    with tarfile.open(SNAPSHOT) as archive:
        for member in archive:
            if member.name.endswith(".yaml"):
                file = archive.extractfile(member)
                assert file is not None
                record = yaml.load(file.read(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
                found.setdefault(canonicalize_name(record["affected"][0]["package"]["name"]), []).append(record)
    return found


def choose(records: dict[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    """Versions on both sides of the bounds of advisories, of packages all over the alphabet."""
    chosen: list[tuple[str, str]] = []
    for name in sorted(records)[:: max(1, len(records) // (WANTED // 2))]:
        bounds = {
            value
            for record in records[name]
            for affected in record["affected"]
            for each in affected.get("ranges", [])
            if each["type"] == "ECOSYSTEM"
            for event in each["events"]
            for value in event.values()
        }
        listed = {
            v for record in records[name] for affected in record["affected"] for v in affected.get("versions", [])
        }
        try:
            ordered = sorted((bounds | listed) - {"0"}, key=Version)
        except InvalidVersion:
            continue
        chosen += (
            [(name, version) for version in {ordered[0], ordered[len(ordered) // 2], ordered[-1]}] if ordered else []
        )
    return sorted(chosen)[: WANTED * 2]


@pytest.mark.skipif(not SNAPSHOT.is_file(), reason="the advisory snapshot is not beside this repository")
def test_findings_on_real_advisories_equal_what_the_records_say(make_entry: Any, make_lock_bytes: Any) -> None:
    records = read_records()
    chosen = choose(records)
    assert len(chosen) >= WANTED
    database = read_advisories(str(SNAPSHOT))
    assert database.size == sum(map(len, records.values()))
    check = VulnerabilityCheck(database=database, services=(), today=date(2024, 10, 11), max_age=30)
    differing, affected = [], 0
    lock = view_lock(make_lock_bytes(*(make_entry(name, version) for name, version in chosen)), source="chosen")
    result = check.run(Subject(reference="chosen", kind="lock", lock=lock))
    assert result.unchecked == ()
    for name, version in chosen:
        expected = {each["id"] for each in records[name] if plain_evaluation(each, name, version)}
        here = [each for each in result.findings if each.where == f"pip:{name}" and each.version == version]
        named = {each.id for each in here} | {alias for each in here for alias in each.aliases}
        found = named & {each["id"] for each in records[name]}
        affected += bool(expected)
        if found != expected:
            differing.append((name, version, sorted(found ^ expected)))
    print(f"{len(chosen)} package versions, {affected} of them affected, {len(result.findings)} findings")
    assert differing == []
    assert 50 < affected < len(chosen)
