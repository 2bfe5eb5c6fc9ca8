"""OSV's protocol against a server that speaks it, well and badly."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from advisory_server import AdvisoryServer, serving

from kbuild.audit.checks.vulnerabilities import VulnerabilityCheck
from kbuild.audit.sources.osv import PackageVersion
from kbuild.audit.sources.osv_api import Answer, OsvApi, Record
from kbuild.audit.sources.services import NotKnown, Vulnerability
from kbuild.audit.subject import Subject

JINJA = PackageVersion(ecosystem="PyPI", name="jinja2", version="2.4.1")
SIX = PackageVersion(ecosystem="PyPI", name="six", version="1.17.0")
PYTHON = PackageVersion(ecosystem="Bitnami", name="python", version="3.11.4")
# Made in the shape of OSV's records, with the ids of real ones; dates and words are not theirs.
RECORDS: dict[str, dict[str, Any]] = {
    "GHSA-8r7q-cvjq-x353": {
        "id": "GHSA-8r7q-cvjq-x353",
        "modified": "2024-09-20T00:00:00Z",
        "aliases": ["CVE-2014-1402", "PYSEC-2014-8"],
        "summary": "Incorrect Privilege Assignment in Jinja2",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": "jinja2"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.7.2"}]}],
            }
        ],
        "database_specific": {"severity": "MODERATE"},
    },
    "PYSEC-2014-8": {
        "id": "PYSEC-2014-8",
        "modified": "2021-07-05T00:00:00Z",
        "aliases": ["CVE-2014-1402"],
        "affected": [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "versions": ["2.4", "2.4.1"]}],
    },
    "BIT-python-2023-40217": {
        "id": "BIT-python-2023-40217",
        "modified": "2024-01-01T00:00:00Z",
        "aliases": ["CVE-2023-40217"],
        "affected": [
            {
                "package": {"ecosystem": "Bitnami", "name": "python"},
                "ranges": [{"type": "SEMVER", "events": [{"introduced": "3.11.0"}, {"fixed": "3.11.5"}]}],
            }
        ],
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:L/I:N/A:N"}],
    },
}


@pytest.fixture
def server() -> Iterator[AdvisoryServer]:
    """OSV, naming a record a page."""
    with serving(AdvisoryServer(records=dict(RECORDS), page=1)) as running:
        yield running


def found(answer: Answer) -> tuple[Record, ...]:
    assert not isinstance(answer, NotKnown)
    return answer


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/query"])
def test_all_packages_are_one_request_and_each_record_one(server: AdvisoryServer, suffix: str) -> None:
    answer = OsvApi(server.url + suffix).query([JINJA, SIX, PYTHON, SIX])
    assert [record["id"] for record in found(answer[JINJA])] == ["GHSA-8r7q-cvjq-x353", "PYSEC-2014-8"]
    assert [record["id"] for record in found(answer[PYTHON])] == ["BIT-python-2023-40217"]
    assert answer[SIX] == ()
    # Two pages of names, then three records.
    assert server.seen.count(("POST", "/v1/querybatch")) == 2
    assert sorted(server.seen[2:]) == sorted(("GET", f"/v1/vulns/{id}") for id in RECORDS)


def test_withdrawn_records_affect_nothing(server: AdvisoryServer) -> None:
    server.records["BIT-python-2023-40217"] = {**RECORDS["BIT-python-2023-40217"], "withdrawn": "2025-01-01T00:00:00Z"}
    assert OsvApi(server.url).query([PYTHON]) == {PYTHON: ()}


@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        ({}, 500, "status 500"),
        (b"<html>", 200, "not JSON"),
        (b'{"results": [{"vulns": [', 200, "not JSON"),
        ([], 200, "not an object"),
        ({"results": []}, 200, "one for each query"),
        ({"results": [7]}, 200, "not an object"),
        ({"results": [{"vulns": "x"}]}, 200, "not a list"),
        ({"results": [{"vulns": [{"id": None}]}]}, 200, "no id"),
        ({"results": [{"next_page_token": 7}]}, 200, "next_page_token"),
        ({"results": [{"next_page_token": "again"}]}, 200, "does not end"),
        ({"results": [{"vulns": [{"id": "../gone"}]}]}, 200, "../gone concerns this version, but cannot be read"),
    ],
)
def test_no_answer_is_not_taken_for_none(server: AdvisoryServer, value: Any, status: int, reason: str) -> None:
    server.answer, server.osv_status = lambda _: value, status
    answer = OsvApi(server.url).query([SIX])[SIX]
    assert isinstance(answer, NotKnown)
    assert reason in answer.reason


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"affected": 7},
        {"affected": [7]},
        {"affected": [{"package": "python"}]},
        {"affected": [{"ranges": ["x"]}]},
        {"affected": [{"ranges": 7}]},
        {"affected": [{"ranges": [{"events": [7]}]}]},
        {"affected": [{"severity": "high"}]},
        {"severity": "high"},
        {"aliases": "CVE-1"},
    ],
)
def test_a_record_of_wrong_types_is_told(server: AdvisoryServer, change: dict[str, Any]) -> None:
    server.records["BIT-python-2023-40217"] = {**RECORDS["BIT-python-2023-40217"], **change}
    server.answer = lambda _: {"results": [{"vulns": [{"id": "BIT-python-2023-40217"}]}]}
    answer = OsvApi(server.url).query([PYTHON])[PYTHON]
    assert isinstance(answer, NotKnown)
    assert "BIT-python-2023-40217" in answer.reason


def test_an_ecosystem_that_is_new_to_the_service_spoils_no_other(server: AdvisoryServer) -> None:
    new = PackageVersion(ecosystem="MinimOS", name="openssl", version="3.5.0-r0")
    server.unknown = frozenset({"MinimOS"})
    answer = OsvApi(server.url).query([JINJA, new, SIX, PYTHON])
    assert len(found(answer[JINJA])) == 2 and len(found(answer[PYTHON])) == 1 and answer[SIX] == ()
    refused = answer[new]
    assert isinstance(refused, NotKnown) and "status 400" in refused.reason
    server.unknown = frozenset({"MinimOS", "PyPI", "Bitnami"})
    server.seen.clear()
    assert all(isinstance(each, NotKnown) for each in OsvApi(server.url).query([JINJA, new, SIX, PYTHON]).values())
    assert len(server.seen) == 4


def test_a_dead_service_is_told() -> None:
    answer = OsvApi("http://127.0.0.1:9").query([SIX])[SIX]
    assert isinstance(answer, NotKnown)
    assert "127.0.0.1:9 does not answer" in answer.reason


class Index:
    """An index that keeps no advisories."""

    name = "the index"

    def query(self, name: str, version: str) -> NotKnown:
        return NotKnown(reason=f"the index does not know {name}")


def test_what_the_index_does_not_answer_osv_does(server: AdvisoryServer, make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(
        make_entry("jinja2", "2.4.1"), make_entry("six", "1.17.0"), make_entry("python", "3.11.4", manager="conda")
    )

    def run(url: str) -> Any:
        check = VulnerabilityCheck(
            database=None, services=[Index()], osv=OsvApi(url), today=date(2026, 1, 1), max_age=90
        )
        return check.run(Subject(reference="x", kind="lock", lock=lock))

    result = run(server.url)
    assert result.unchecked == ()
    assert [(each.where, each.severity) for each in result.findings] == [
        ("pip:jinja2", "high"),  # PYSEC-2014-8 states no severity
        ("conda:python", "medium"),
    ]
    assert "3.11.5" in next(each.remedy for each in result.findings if each.where == "conda:python")

    server.records.clear()
    clean = run(server.url)
    assert (clean.findings, clean.unchecked, clean.looked_at) == ((), (), 3)
    down = run("http://127.0.0.1:9")
    assert {each.where for each in down.unchecked} == {"pip:jinja2", "pip:six", "conda:python"}
    assert all("127.0.0.1:9 does not answer" in each.reason and "osv-url" in each.remedy for each in down.unchecked)


class Answering:
    """An index that knows of no vulnerability."""

    name = "the index"

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...]:
        return ()


def audit(lock: Any, url: str) -> Any:
    check = VulnerabilityCheck(
        database=None, services=[Answering()], osv=OsvApi(url), today=date(2026, 1, 1), max_age=90
    )
    return check.run(Subject(reference="x", kind="lock", lock=lock))


def test_a_dead_osv_is_told_where_the_index_answered_too(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(make_entry("six", "1.17.0"), make_entry("python", "3.11.4", manager="conda"))
    result = audit(lock, "http://127.0.0.1:9")
    # The index covers wheels; nobody but OSV covers the interpreter.
    assert [each.where for each in result.unchecked] == ["conda:python"]
    fault = {source.name: source.fault for source in result.sources}
    assert fault["the index"] is None
    assert "no answer for 2 packages: the service 127.0.0.1:9 does not answer" in str(fault["the service 127.0.0.1:9"])


def test_an_advisory_that_cannot_be_read_is_not_made_good_by_the_index(
    server: AdvisoryServer, make_lock: Any, make_entry: Any
) -> None:
    server.answer = lambda queries: {"results": [{"vulns": [{"id": "PYSEC-2014-8"}]}, *({} for _ in queries[1:])]}
    server.records.clear()
    result = audit(make_lock(make_entry("jinja2", "2.4.1"), make_entry("six", "1.17.0")), server.url)
    [unchecked] = result.unchecked
    assert unchecked.where == "pip:jinja2"
    assert "PYSEC-2014-8 concerns this version, but cannot be read" in unchecked.reason
