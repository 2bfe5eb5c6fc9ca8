"""Which checks an audit makes, and whom they ask, by the policy and the request."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kbuild.audit.licences import LicencePolicy
from kbuild.audit.lockview import view_lock
from kbuild.audit.policy import AllowedPickle, Policy
from kbuild.audit.subject import CheckResult, Subject
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.locking.wanted import LockRequest
from kbuild.progress import Silent
from kbuild.workflow.audit import run_checks
from kbuild.workflow.audit.request import AuditRequest

INDEXES = Indexes(urls=("file:///srv/wheels", "https://me:secret@index.example/simple", "https://other.example"))
OSV, INDEX = "the service osv.example", "the index index.example"
RECORD = {
    "id": "PYSEC-2014-8",
    "modified": "2026-10-01T00:00:00Z",
    "affected": [{"package": {"ecosystem": "PyPI", "name": "jinja2"}, "versions": ["2.4.1"]}],
}


def look(
    folder: Path, *, offline: bool = False, indexes: Indexes | None = INDEXES, lock: Any = None, **policy: Any
) -> CheckResult:
    """What the check of vulnerabilities says; with no lock it has nobody to ask anything."""
    request = AuditRequest(
        policy=Policy(osv_url="https://osv.example", **policy),
        today=date(2026, 11, 1),
        fail_on="low",
        lock=LockRequest(platforms=()),
        offline=offline,
        record=False,
    )
    network = run_checks.Network(indexes=indexes, reason="none", environ={})
    checks = {each.id: each for each in run_checks.make_checks(request, network, Silent(), downloads=folder)}
    assert set(checks) >= {"vulnerabilities", "releases", "pickles", "drift"}
    return checks["vulnerabilities"].run(Subject(reference="x", kind="lock", lock=lock))


@pytest.fixture
def advisories(tmp_path: Path) -> str:
    (tmp_path / "advisories.json").write_text(json.dumps(RECORD))
    return str(tmp_path / "advisories.json")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, [INDEX, OSV]),
        ({"service": "all"}, [INDEX, OSV]),
        ({"service": "osv"}, [OSV]),
        ({"service": "pypi"}, [INDEX]),
        ({"service": "none"}, []),
        ({"offline": True}, []),
        ({"offline": True, "service": "all"}, []),
        ({"indexes": None}, [OSV]),
        ({"indexes": Indexes(urls=("file:///srv/wheels",))}, [OSV]),
        ({"pypi_url": "https://mirror.example/simple"}, ["the index mirror.example", OSV]),
    ],
)
def test_who_is_asked(tmp_path: Path, given: dict[str, Any], asked: list[str]) -> None:
    assert [each.name for each in look(tmp_path, **given).sources] == asked


def test_each_check_is_given_what_it_is_to_go_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, dict[str, Any]] = {}
    named = ("Integrity", "Closure", "Vulnerability", "Release", "Pickle", "Code", "Licence", "Secret")
    for name in (f"{each}Check" for each in named):
        note = lambda *args, name=name, **more: given.update({name: more | {"first": args}})  # noqa: E731
        monkeypatch.setattr(run_checks, name, note)
    allowed = (AllowedPickle(name="shop.Basket", reason="ours"),)
    licences = LicencePolicy(allow=frozenset({"MIT"}))
    policy = Policy(allowed_pickles=allowed, licences=licences, max_advisory_age=7, service="none")
    request = AuditRequest(
        policy=policy,
        today=date(2026, 11, 1),
        fail_on="low",
        lock=LockRequest(platforms=(), channels=("https://mirror.example/conda",)),
        offline=True,
        record=False,
    )
    indexes = Indexes(urls=("https://index.example/simple",), find_links=("/srv/wheels",))
    network = run_checks.Network(indexes=indexes, reason="", environ={})
    run_checks.make_checks(request, network, Silent(), downloads=tmp_path)
    integrity, vulnerable = given["IntegrityCheck"], given["VulnerabilityCheck"]
    assert integrity["first"] == (policy,) and integrity["lookup"] is None, "offline nobody is asked"
    assert integrity["indexes"] == ("https://index.example/simple", "/srv/wheels")
    assert integrity["channels"] == ("https://mirror.example/conda",)
    assert (vulnerable["today"], vulnerable["max_age"], vulnerable["offline"]) == (date(2026, 11, 1), 7, True)
    assert given["PickleCheck"]["allowed"] == given["CodeCheck"]["allowed"] == ("shop.Basket",)
    assert [given[f"{each}Check"]["downloads"] for each in ("Closure", "Pickle", "Licence")] == [tmp_path] * 3
    assert given["ReleaseCheck"]["first"] == (None,) and "--offline" in given["ReleaseCheck"]["unasked"][0]
    assert (vulnerable["services"], vulnerable["osv"], vulnerable["database"]) == ([], None, None)
    assert given["LicenceCheck"]["first"] == (licences,)


def test_advisories_of_ones_own_are_asked_alone_unless_a_service_is_named(tmp_path: Path, advisories: str) -> None:
    (only,) = look(tmp_path, advisories=advisories).sources
    assert (only.date, only.records) == ("2026-10-01", 1)
    assert [each.name for each in look(tmp_path, advisories=advisories, service="osv").sources][1:] == [OSV]


def test_the_indexs_password_is_no_part_of_the_address_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    make = run_checks.make_pypi_service

    def watched(url: str, **options: Any) -> Any:
        asked.append(url)
        assert options["credentials"]("https://index.example/simple/six/") == ("me", "secret")
        assert options["credentials"]("https://elsewhere.example/") is None
        return make(url, **options)

    monkeypatch.setattr(run_checks, "make_pypi_service", watched)
    look(tmp_path)
    assert asked == ["https://index.example/simple"]


LOCK = b"""\
version: 1
metadata: {channels: [], platforms: [linux-64]}
package:
- {name: jinja2, version: 2.4.1, manager: pip, platform: linux-64, url: 'https://files.example/jinja2-2.4.1-py3-none-any.whl',
   hash: {sha256: '0000000000000000000000000000000000000000000000000000000000000000'}}
"""


@pytest.mark.parametrize(("allowed", "old"), [(30, True), (31, False)])
def test_advisories_are_as_old_as_the_policy_lets_them_be(
    tmp_path: Path, advisories: str, allowed: int, old: bool
) -> None:
    found = look(tmp_path, advisories=advisories, max_advisory_age=allowed, lock=view_lock(LOCK, source="x"))
    assert [each.id for each in found.findings] == ["PYSEC-2014-8"]
    assert any("31 days ago" in each.reason for each in found.unchecked) is old


def test_advisories_that_do_not_answer_are_told_and_nothing_is_clean(tmp_path: Path) -> None:
    found = look(tmp_path, advisories="http://127.0.0.1:9/all.zip", lock=view_lock(LOCK, source="x"))
    assert any("cannot be fetched" in each.reason for each in found.unchecked)


def test_pickles_may_name_what_the_policy_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    check = run_checks.PickleCheck

    def watched(**options: Any) -> Any:
        given.update(options)
        return check(**options)

    monkeypatch.setattr(run_checks, "PickleCheck", watched)
    look(tmp_path, allowed_pickles=(AllowedPickle(name="churn.Model", reason="ours"),))
    assert given == {"downloads": tmp_path, "allowed": ("churn.Model",)}


def test_a_models_own_indexes_are_those_that_its_lock_is_made_from(tmp_path: Path) -> None:
    pip = ["six==1.17.0", "--extra-index-url https://own.example/simple", "--find-links https://own.example/links/"]
    facts = Mock(conda_env={"dependencies": ["python=3.11.7", {"pip": pip}]}, python_version="3.11.7")
    network = run_checks.Network(indexes=Indexes(urls=("https://index.example",)), reason="", environ={})
    (own,) = network.of_model(Mock(root=tmp_path, facts=facts), LockRequest(platforms=()))
    assert own.urls == ("https://index.example", "https://own.example/simple")
    assert own.find_links == ("https://own.example/links/",)
    facts.conda_env = {"dependencies": "none"}
    assert network.of_model(Mock(root=tmp_path, facts=facts), LockRequest(platforms=())) == ()


@pytest.mark.parametrize("own", [False, True])
def test_files_are_looked_up_in_the_models_own_indexes_else_in_pips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    asked: list[Any] = []
    sessions: list[Any] = []

    def find(name: str, indexes: Indexes, *, environ: Any, session: Any) -> list[str]:
        asked.append((name, indexes))
        sessions.append(session)
        assert environ == {"A": "b"}
        return [f"{name} of {indexes.urls[0]}"]

    looks: list[Any] = []
    check = run_checks.ReleaseCheck
    monkeypatch.setattr(run_checks, "find_files", find)
    monkeypatch.setattr(run_checks, "configure", lambda session, environ: sessions.append((session, environ)))
    monkeypatch.setattr(run_checks, "ReleaseCheck", lambda look, **more: looks.append(look) or check(look, **more))
    network = run_checks.Network(indexes=INDEXES, reason="", environ={"A": "b"})
    request = AuditRequest(
        policy=Policy(), today=date(2026, 11, 1), fail_on="low", lock=LockRequest(platforms=()), record=False,
        offline=False,
    )  # fmt: skip
    run_checks.make_checks(request, network, Silent(), downloads=tmp_path)
    others = Indexes(urls=("https://own.example/simple",)), Indexes(urls=("https://two.example/simple",))
    [look] = looks
    found = look("six", *(others if own else ()))
    places = others if own else (INDEXES,)
    assert asked == [("six", each) for each in places] and found == [f"six of {each.urls[0]}" for each in places]
    (session, environ), *used = sessions
    assert environ == {"A": "b"} and all(each is session for each in used)
