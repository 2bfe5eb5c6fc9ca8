from __future__ import annotations

import threading
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from bare_image import bare_image

from kbuild.audit.checks.vulnerabilities import VulnerabilityCheck
from kbuild.audit.finding import CheckResult
from kbuild.audit.image_facts import CondaRecord
from kbuild.audit.lockview import LockView
from kbuild.audit.sources.advisories import AdvisoryDatabase, read_advisories
from kbuild.audit.sources.services import NotKnown, Vulnerability
from kbuild.audit.subject import Subject, Trained

TODAY = date(2026, 11, 22)


def osv(name: str, id: str, fixed: str, ecosystem: str = "PyPI", **more: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": ecosystem, "name": name},
        "ranges": [
            {
                "type": "ECOSYSTEM" if ecosystem == "PyPI" else "SEMVER",
                "events": [{"introduced": "0"}, {"fixed": fixed}],
            }
        ],
    }
    return {"id": id, "modified": "2026-11-01T00:00:00Z", "summary": f"{name} is bad", "affected": [affected]} | more


@pytest.fixture
def database(tmp_path: Path) -> AdvisoryDatabase:
    records = [
        osv("Jinja2", "PYSEC-1", "2.7.2", aliases=["CVE-1"]),
        osv("jinja2", "GHSA-1", "2.7.2", aliases=["CVE-1"], database_specific={"severity": "CRITICAL"}),
        osv("jinja2", "PYSEC-2", "9", withdrawn="2026-11-02T00:00:00Z"),
        osv(
            "torch",
            "PYSEC-3",
            "2.0",
            severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}],
        ),
        osv("python", "BIT-python-1", "3.11.5", ecosystem="Bitnami"),
    ]
    for number, record in enumerate(records):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(record))
    return read_advisories(str(tmp_path))


class FakeService:
    name = "the fake"

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.asked = answers, []

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...] | NotKnown:
        self.asked.append(name)
        return self.answers.get(name, ())


def check(
    lock: LockView | None, database: AdvisoryDatabase | None = None, *services: Any, **subject: Any
) -> CheckResult:
    unavailable = subject.pop("unavailable", None)
    made = VulnerabilityCheck(database=database, services=services, today=TODAY, max_age=90, unavailable=unavailable)
    return made.run(Subject(reference="x", kind="lock", lock=lock, **subject))


def test_records_of_one_vulnerability_make_one_finding(database: Any, make_lock: Any, make_entry: Any) -> None:
    result = check(make_lock(make_entry("jinja2", "2.4.1"), make_entry("six", "1.17.0")), database)
    [finding] = result.findings
    assert {finding.id, *finding.aliases} == {"PYSEC-1", "GHSA-1", "CVE-1"}
    assert (finding.severity, finding.where, finding.version) == ("critical", "pip:jinja2", "2.4.1")
    assert "2.7.2" in finding.remedy
    assert result.unchecked == ()
    assert result.sources[0].date == "2026-11-01"


def test_severity_comes_from_the_vector(database: Any, make_lock: Any, make_entry: Any) -> None:
    [finding] = check(make_lock(make_entry("torch", "1.0")), database).findings
    assert finding.severity == "low"


def test_a_conda_package_is_looked_up_only_under_a_certain_name(database: Any, make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(
        make_entry("jinja2", "2.4.1", "conda", dependencies={"python": ">=3.9"}), make_entry("pytorch", "1.0", "conda")
    )
    by_table = check(lock, database)
    assert [each.id for each in by_table.findings] == ["PYSEC-3"]
    assert [each.where for each in by_table.unchecked] == ["conda:jinja2"]
    trained = Trained(python="3.11.7", versions={"jinja2": "2.4.1"}, direct=frozenset(), whole=True)
    assert {each.where for each in check(lock, database, trained=trained).findings} == {"conda:jinja2", "conda:pytorch"}
    other = Trained(python="3.11.7", versions={"jinja2": "2.5"}, direct=frozenset(), whole=True)
    assert [each.where for each in check(lock, database, trained=other).unchecked] == ["conda:jinja2"]
    record = CondaRecord(
        name="jinja2",
        version="2.4.1",
        build="",
        subdir="",
        sha256=None,
        license=None,
        files=frozenset({"lib/python3.11/site-packages/Jinja2-2.4.1.dist-info/METADATA"}),
    )
    facts = bare_image(conda=(record,))
    assert check(lock, database, image=facts).unchecked == ()
    # As conda-forge's records of 2026 name it; OpenCV's library is two projects' and so no certain one's.
    for purls, where in (
        (("pkg:pypi/jinja2?source=hash-mapping",), []),
        (("pkg:pypi/opencv-python", "pkg:pypi/opencv-python-headless"), ["conda:jinja2"]),
        (("pkg:conda/jinja2", "no url"), ["conda:jinja2"]),
    ):
        stated = replace(facts, conda=(replace(record, files=frozenset(), purls=purls),))
        assert [each.where for each in check(lock, database, image=stated).unchecked] == where


def test_training_tells_a_conda_package_by_the_name_that_drift_compares(make_lock: Any, make_entry: Any) -> None:
    """conda-forge's tzdata is IANA's data and no wheel; its typing_extensions is PyPI's typing-extensions."""
    lock = make_lock(
        make_entry("tzdata", "2025.2", "conda"),
        make_entry("typing_extensions", "4.12.2", "conda", dependencies={"python": ">=3.9"}),
        make_entry("attrs", "24.2.0", "conda", dependencies={"python": ">=3.9"}),
    )
    versions = {"tzdata": "2025.2", "typing-extensions": "4.12.2", "attrs": "24.2.0"}
    trained = Trained(python="3.11.7", versions=versions, direct=frozenset(), whole=True)
    service = FakeService({})
    result = check(lock, None, service, trained=trained)
    assert sorted(service.asked) == ["attrs", "typing-extensions"]
    assert [each.where for each in result.unchecked] == ["conda:tzdata"]


def test_the_interpreter_is_looked_up_where_advisories_of_it_exist(
    database: Any, make_lock: Any, make_entry: Any, tmp_path: Path
) -> None:
    old = check(make_lock(make_entry("python", "3.11.4", "conda")), database)
    assert [each.id for each in old.findings] == ["BIT-python-1"]
    fine = check(make_lock(make_entry("python", "3.11.7", "conda")), database)
    assert (fine.findings, fine.unchecked) == ((), ())
    (tmp_path / "4.yaml").unlink()
    unknown = check(make_lock(make_entry("python", "3.11.7", "conda")), read_advisories(str(tmp_path)))
    assert [each.where for each in unknown.unchecked] == ["conda:python"]


def test_nothing_to_ask_is_never_clean(make_lock: Any, make_entry: Any, database: Any) -> None:
    lock = make_lock(make_entry("six", "1.17.0"))
    assert check(lock).unchecked
    assert check(None, database).unchecked
    assert check(lock, unavailable="the server is down").unchecked[0].reason == "the server is down"


def test_old_advisories_are_told(database: Any, make_lock: Any, make_entry: Any) -> None:
    made = VulnerabilityCheck(database=database, services=(), today=date(2027, 6, 1), max_age=90)
    [unchecked] = made.run(Subject(reference="x", kind="lock", lock=make_lock(make_entry("six", "1")))).unchecked
    assert "2026-11-01, 212 days ago" in unchecked.reason


def test_services_answer_for_one_package_each(make_lock: Any, make_entry: Any) -> None:
    bad = Vulnerability(id="PYSEC-9", aliases=("CVE-9",), summary="bad", fixed=("2",))
    service = FakeService({"a": (bad,), "b": NotKnown(reason="not here")})
    result = check(make_lock(*(make_entry(name, "1") for name in "abc")), None, service)
    assert [(each.id, each.severity) for each in result.findings] == [("PYSEC-9", "high")]
    assert [(each.where, each.reason) for each in result.unchecked] == [("pip:b", "not here")]


def test_a_service_that_is_down_is_asked_once(make_lock: Any, make_entry: Any) -> None:
    service = FakeService({name: NotKnown(reason="down", down=True) for name in "abc"})
    result = check(make_lock(*(make_entry(name, "1") for name in "abc")), None, service)
    assert len(result.unchecked) == 3
    assert service.asked == ["a"]


class MeetingService(FakeService):
    """Answers two questions together, and none alone but the first."""

    def __init__(self) -> None:
        super().__init__({})
        self.together = threading.Barrier(2, timeout=30)

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...] | NotKnown:
        if self.asked:
            self.together.wait()
        return super().query(name, version)


def test_an_index_is_asked_of_several_packages_at_once(make_lock: Any, make_entry: Any) -> None:
    service = MeetingService()
    names = ["jinja2", "six", "torch", "click", "attrs"]
    result = check(make_lock(*(make_entry(name, "1.0") for name in names)), None, service)
    assert result.unchecked == ()
    assert sorted(service.asked) == sorted(names)


def test_an_index_is_asked_once_of_what_several_models_have(make_lock: Any, make_entry: Any) -> None:
    service = FakeService({"torch": NotKnown(reason="it was busy")})
    made = VulnerabilityCheck(database=None, services=[service], today=TODAY, max_age=90)
    for version in ("1.0", "2.0"):
        lock = make_lock(make_entry("six", "1.17.0"), make_entry("torch", "1.0"), make_entry("jinja2", version))
        assert [each.where for each in made.run(Subject(reference="x", kind="lock", lock=lock)).unchecked] == [
            "pip:torch"
        ]
    assert sorted(service.asked) == ["jinja2", "jinja2", "six", "torch", "torch"]


def test_what_a_record_cannot_be_evaluated_for_is_mended_where_it_stands(
    tmp_path: Path, make_lock: Any, make_entry: Any
) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(osv("zipp", "PYSEC-9", "4.x")))
    [missed] = check(make_lock(make_entry("zipp", "4.1")), read_advisories(str(tmp_path))).unchecked
    assert missed.reason.startswith("PYSEC-9 cannot be evaluated: '4.x'")
    assert missed.remedy.startswith("correct that record of --advisories, or accept it")
