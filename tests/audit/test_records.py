from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from kbuild.audit.checks.vulnerabilities import VulnerabilityCheck
from kbuild.audit.sources.advisories import read_advisories
from kbuild.audit.sources.records import record_fault
from kbuild.audit.subject import Subject
from kbuild.errors import ConfigurationError

RECORD = {
    "id": "GHSA-1",
    "modified": "2026-11-30T00:00:00Z",
    "aliases": ["CVE-1"],
    "upstream": ["CVE-1"],
    "summary": "s",
    "details": "d",
    "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
    "database_specific": {"severity": "HIGH"},
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "pandas"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "4"}]}],
            "versions": ["3.1.1"],
            "ecosystem_specific": {"urgency": "low"},
        }
    ],
}
FIXED = "affected[0].ranges[0].events[1].fixed is not a version"
ODD: list[Any] = [None, "x", 5, -1.5, True, "", [], {}, ["x"], [None], [5], [[]], {"x": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    record: Any = copy.deepcopy(RECORD)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return dict(record)


@pytest.mark.parametrize("path", list(places(RECORD)), ids=str)
def test_a_damaged_record_is_a_finding_or_is_told_and_never_ends_the_audit(
    path: tuple[Any, ...], tmp_path: Path, make_lock: Any, make_entry: Any
) -> None:
    subject = Subject(reference="x", kind="lock", lock=make_lock(make_entry("pandas", "3.1.1")))
    for odd in ODD:
        (tmp_path / "a.json").write_text(json.dumps(changed(path, odd)))
        try:
            database = read_advisories(str(tmp_path))
        except ConfigurationError as error:
            assert "a.json" in error.message or "no advisory" in error.message
            continue
        check = VulnerabilityCheck(database=database, services=[], today=date(2026, 12, 1), max_age=90)
        result = check.run(subject)
        assert result.findings or result.unchecked or path[-1] in ("name", "ecosystem"), (path, odd)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("modified",), "soon", "modified is not a date"),
        (("modified",), None, "modified is not a date"),
        (("aliases",), "CVE-1", "aliases is not a list"),
        (("affected", 0, "ranges"), {}, "affected[0].ranges is not a list"),
        (("affected", 0, "ranges", 0, "events", 1), "4", "affected[0].ranges[0].events[1] is not an object"),
        (("affected", 0, "ranges", 0, "events", 1, "fixed"), [], FIXED),
        (("affected", 0, "package", "name"), None, "affected[0].package.name is not a text"),
        (("affected", 0, "versions", 0), 3.1, None),
        (("affected", 0, "package"), None, None),
        (("withdrawn",), None, None),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_place(path: tuple[Any, ...], value: Any, fault: str | None) -> None:
    assert record_fault(changed(path, value)) == fault
