"""OpenVEX documents of others: what they say of a vulnerability counts where they speak of this package or image."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vexipy

from kbuild.audit.finding import CheckResult, Finding
from kbuild.audit.policy import parse_policy
from kbuild.audit.report.openvex import openvex
from kbuild.audit.report.report import AuditReport, _distribution, make_report
from kbuild.audit.subject import Subject
from kbuild.audit.vex import newest_statement, read_vex
from kbuild.errors import ConfigurationError

FOUND = Finding(
    id="PYSEC-1",
    aliases=("CVE-2026-1",),
    check="vulnerabilities",
    severity="high",
    where="pip:jinja2",
    version="3.1.2",
    evidence="jinja2 3.1.2 is affected",
    remedy="take 3.1.3",
)
LOCK = "sha256:" + "ab" * 32
JINJA = {"@id": "pkg:pypi/jinja2@3.1.2"}


def statement(**given: Any) -> dict[str, Any]:
    stated = {
        "vulnerability": {"name": "CVE-2026-1"},
        "products": [JINJA],
        "status": "not_affected",
        "justification": "vulnerable_code_not_in_execute_path",
        **given,
    }
    return {key: value for key, value in stated.items() if value is not None}


def document(*statements: Any, **given: Any) -> dict[str, Any]:
    return {
        "@context": "https://openvex.dev/ns/v0.2.0",
        "@id": "https://example.com/vex/1",
        "author": "somebody",
        "timestamp": "2026-01-01T00:00:00Z",
        "version": 1,
        "statements": list(statements),
        **given,
    }


def written(folder: Path, *documents: Any) -> list[str]:
    paths = [folder / f"{number}.openvex.json" for number in range(len(documents))]
    for path, each in zip(paths, documents, strict=True):
        path.write_text(each if isinstance(each, str) else json.dumps(each), "utf-8")
    return [str(path) for path in paths]


def report(folder: Path, *documents: Any, finding: Finding = FOUND) -> AuditReport:
    for each in documents:
        vexipy.Document.from_json(json.dumps(each))  # what is read here is OpenVEX to others too
    lock: Any = type("Lock", (), {"digest": LOCK, "entries": (), "content": b""})()
    policy = parse_policy({"vex": written(folder, *documents)})
    result = CheckResult(check=finding.check, findings=(finding,))
    return make_report(
        Subject(reference="x", kind="lock", lock=lock),
        [result],
        policy,
        today=date(2026, 6, 1),
        fail_on="low",
        vex=read_vex(policy.vex),
    )


IMAGE = {"@id": f"urn:kbuild:lock:{LOCK}"}
HASHED = {"@id": "https://example.com/a", "hashes": {"sha-256": "ab" * 32}}
HIDES = {
    "by its purl": statement(),
    "by an alias": statement(vulnerability={"name": "GHSA-1", "aliases": ["PYSEC-1"]}),
    "by its identifier": statement(products=[{"@id": "https://x", "identifiers": {"purl": "pkg:pypi/Jinja2@3.1.2"}}]),
    "any version": statement(products=[{"@id": "pkg:pypi/jinja2"}]),
    "by digest": statement(products=[IMAGE]),
    "by hash and part": statement(products=[{**HASHED, "subcomponents": [{"@id": "pkg:pypi/jinja2"}]}]),
    "of an image's purl": statement(products=[{"@id": f"pkg:oci/model@{LOCK.replace(':', '%3A')}"}]),
    "with an impact": statement(justification=None, impact_statement="it is never called"),
    "fixed": statement(status="fixed", justification=None),
}
LEAVES = {
    "under investigation": statement(status="under_investigation", justification=None),
    "affected": statement(status="affected", justification=None, action_statement="update"),
    "another vulnerability": statement(vulnerability={"name": "CVE-2026-2"}),
    "another version": statement(products=[{"@id": "pkg:pypi/jinja2@3.1.1"}]),
    "another package": statement(products=[{"@id": "pkg:pypi/flask@3.1.2"}]),
    "another manager": statement(products=[{"@id": "pkg:npm/jinja2@3.1.2"}]),
    "another image": statement(products=[{"@id": "urn:kbuild:image:sha256:" + "cd" * 32}]),
    "another part": statement(products=[{**HASHED, "subcomponents": [{"@id": "pkg:pypi/flask"}]}]),
    "a part of another image": statement(products=[{"@id": "pkg:oci/x", "subcomponents": [JINJA]}]),
    "fixed in no version": statement(status="fixed", justification=None, products=[{"@id": "pkg:pypi/jinja2"}]),
}


@pytest.mark.filterwarnings("ignore:The use of an impact statement")
@pytest.mark.parametrize("stated", HIDES.values(), ids=HIDES)
def test_what_does_no_harm_is_accepted(tmp_path: Path, stated: dict[str, Any]) -> None:
    made = report(tmp_path, document(stated))
    assert made.findings == () and [each.item for each in made.accepted] == [FOUND]
    assert "by " in made.accepted[0].reason and made.accepted[0].expires is None


@pytest.mark.parametrize("stated", LEAVES.values(), ids=LEAVES)
def test_what_says_nothing_of_it_hides_nothing(tmp_path: Path, stated: dict[str, Any]) -> None:
    assert report(tmp_path, document(stated)).findings == (FOUND,)


def test_only_vulnerabilities_are_spoken_of(tmp_path: Path) -> None:
    other = replace(FOUND, check="pickles")
    assert report(tmp_path, document(statement()), finding=other).findings == (other,)


def test_the_newest_statement_counts(tmp_path: Path) -> None:
    early, late = {"timestamp": "2026-02-01T00:00:00Z"}, {"timestamp": "2026-03-01T00:00:00+01:00"}
    asked = {"status": "under_investigation", "justification": None}
    assert report(tmp_path, document(statement(**late)), document(statement(**asked, **early))).findings == ()
    assert report(tmp_path, document(statement(**early), statement(**asked, **late))).findings == (FOUND,)
    assert report(tmp_path, document(statement(**early)), document(statement(**asked))).findings == ()
    assert report(tmp_path, document(statement()), document(statement(**asked))).findings == (FOUND,)


def test_what_this_audit_writes_is_read_and_told_again(tmp_path: Path) -> None:
    for stated, status in ((HIDES["by its purl"], "not_affected"), (HIDES["fixed"], "fixed")):
        text = openvex(report(tmp_path, document(stated)), {})
        assert text is not None
        (again,) = vexipy.Document.from_json(text).statements
        assert str(again.status.value) == status
    assert read_vex(written(tmp_path, text))[0].status == "fixed"


@pytest.mark.parametrize("where, kinds", [("deb:openssl", ["image"]), ("pip:jinja2", ["image", "lock", "model"])])
def test_a_package_of_the_base_is_stated_of_the_image_alone(tmp_path: Path, where: str, kinds: list[str]) -> None:
    digests = tuple((kind, LOCK) for kind in ("image", "lock", "model"))
    text = openvex(replace(report(tmp_path, finding=replace(FOUND, where=where)), digests=digests), {})
    (told,) = json.loads(text or "")["statements"]
    assert [each["@id"].split(":")[2] for each in told["products"]] == kinds


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting"),
        ("[]", "@context"),
        (document(statement()) | {"@context": "https://spdx.org"}, "@context"),
        (document(), "no statements"),
        (document(statement(), 3), r"statements\[1\] is not an object"),
        (document(statement(status="harmless")), r"statements\[0\].status"),
        (document(statement(justification="because")), "justification has to be one of"),
        (document(statement(justification=None)), "neither justification nor impact_statement"),
        (document(statement(products=[])), "products names nothing"),
        (document(statement(products=[{}])), r"products\[0\] has neither"),
        (document(statement(products=[3])), r"products\[0\] is not a component"),
        (document(statement(products=[{"@id": "pkg:"}])), "purl that is none"),
        (document(statement(products=[{"@id": "x", "subcomponents": [{"@id": 3}]}])), r"subcomponents\[0\]"),
        (document(statement(vulnerability={})), "vulnerability has to have a name"),
        (document(statement(timestamp="yesterday")), "no time"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_document_that_is_none_is_one_error(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_vex(written(tmp_path, content))
    assert "0.openvex.json" in refused.value.message and "\n" not in refused.value.message


def test_a_document_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigurationError, match=str(path)):
            read_vex([str(path)])
    with pytest.raises(ConfigurationError, match="vex has to be a list of texts"):
        parse_policy({"vex": "a.json"})


@pytest.mark.parametrize(
    ("purl", "hides"),
    [
        ("pkg:deb/debian/openssl@3.0.1-1", True),
        ("pkg:deb/debian/openssl@0%3A3.0.1-1", True),  # the same to dpkg
        ("pkg:deb/debian/openssl@3.0.01-1", True),
        ("pkg:deb/debian/openssl@3.0.1-1~", False),
        ("pkg:deb/debian/openssl@1%3A3.0.1-1", False),
        ("pkg:deb/debian/openssl", True),
        ("pkg:deb/ubuntu/openssl@3.0.1-1", False),
        ("pkg:deb/openssl@3.0.1-1", False),
        ("pkg:deb/debian/openssl@3.0.1.post1", False),  # the same to PEP 440
    ],
)
@pytest.mark.parametrize("ecosystem", ["Debian:12", None])
def test_what_one_distribution_says_is_of_its_own_packages(
    purl: str, hides: bool, ecosystem: str | None, tmp_path: Path
) -> None:
    finding = replace(FOUND, where="deb:openssl", version="3.0.1-1")
    image: Any = SimpleNamespace(base=SimpleNamespace(ecosystem=ecosystem), digest=None)
    stated = read_vex(written(tmp_path, document(statement(products=[{"@id": purl}]))))
    said = newest_statement(finding, (), stated, _distribution(Subject(reference="x", kind="image", image=image)))
    assert (said is not None) is (hides and ecosystem is not None)
