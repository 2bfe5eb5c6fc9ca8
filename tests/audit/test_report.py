"""The formats: JSON against its schema, CycloneDX against its own, markdown and the table."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from bare_image import bare_image
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jsonschema import Draft202012Validator

from kbuild.audit.base_facts import ImageBase, InstalledPackage
from kbuild.audit.finding import CheckResult, Finding, Source, Unchecked
from kbuild.audit.policy import parse_policy
from kbuild.audit.report.page import page
from kbuild.audit.report.report import AuditReport, make_report, report_schema
from kbuild.audit.report.sbom import make_sbom
from kbuild.audit.report.text import markdown, summary, summary_table, table
from kbuild.audit.sizes.values import ImageSizes, LayerSize, PackageSize
from kbuild.audit.subject import Subject, read_trained

NASTY = "a | b\n<script>`x`</script> [l](u) \\ *b* _i_ ![i](u)"
POLICY = """
[[ignore]]
id = "CVE-7"
reason = "known"
expires = 2030-01-01
[[ignore]]
id = "unchecked"
package = "xz"
reason = "looked at"
expires = 2030-01-01
[[ignore]]
id = "CVE-8"
reason = "was known"
expires = 2020-01-01
"""


@pytest.fixture
def subject(make_bundle: Any, make_lock: Any, make_entry: Any) -> Subject:
    bundle = make_bundle(files={"code/x.py": b"1", "python_model.pkl": b"2"})
    lock = make_lock(
        make_entry("six", "1.17.0"),
        make_entry("jinja2", "2.4.1", dependencies={"Six": ">=1"}),
        make_entry("python", "3.11.7", "conda"),
        make_entry("odd", "1", hash={}, url="git+https://me:secret@git.example/odd"),
    )
    return Subject(reference="runs:/1", kind="model", bundle=bundle, lock=lock, trained=read_trained(bundle))


@pytest.fixture
def report(subject: Subject) -> AuditReport:
    finding = Finding(
        id="PYSEC-1",
        check="vulnerabilities",
        severity="high",
        where="pip:jinja2",
        version="2.4.1",
        evidence=NASTY,
        remedy="train with jinja2 2.7.2",
        aliases=("CVE-1",),
    )
    result = CheckResult(
        check="vulnerabilities",
        findings=(finding, replace(finding, id="CVE-7", aliases=())),
        unchecked=(
            Unchecked(check="vulnerabilities", where="conda:python", reason="not known", remedy="do"),
            Unchecked(check="vulnerabilities", where="conda:xz", reason="not known", remedy="do"),
        ),
        sources=(Source(name="advisories.tar.gz", date="2026-11-01", records=5),),
        looked_at=4,
    )
    policy = parse_policy(tomllib.loads(POLICY))
    return make_report(subject, [result], policy, today=date(2026, 11, 22), fail_on="low")


def test_json_keeps_to_the_shipped_schema(report: AuditReport) -> None:
    schema = report_schema()
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    value = json.loads(json.dumps(report.to_json()))
    validator.validate(value)
    assert value["verdict"] == "findings"
    assert value["counts"] == {"critical": 0, "high": 1, "medium": 0, "low": 0}
    assert not validator.is_valid({**value, "verdict": "fine"})
    assert not validator.is_valid({**value, "more": 1})
    several = {"format": 1, "verdict": "findings", "reports": [value], "errors": [{"reference": "m", "error": "e"}]}
    validator.validate(several)


def test_the_sbom_is_valid_and_depends_on_no_clock(subject: Subject, report: AuditReport) -> None:
    text = make_sbom(subject, report)
    assert text == make_sbom(subject, report)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    model = bom["metadata"]["component"]
    assert (model["type"], model["name"]) == ("machine-learning-model", "model")
    assert bom["metadata"]["timestamp"] == "2026-11-22T22:26:00+00:00"
    assert {each["name"] for each in model["components"]} == {
        "MLmodel",
        "conda.yaml",
        "constraints.txt",
        "code/x.py",
        "python_model.pkl",
    }
    components = {each["name"]: each for each in bom["components"]}
    assert components["jinja2"]["purl"] == "pkg:pypi/jinja2@2.4.1"
    assert components["python"]["purl"] == (
        "pkg:conda/python@3.11.7?build=h1_0&channel=https://conda.example/forge&subdir=linux-64"
    )
    assert components["six"]["hashes"][0]["alg"] == "SHA-256"
    assert "secret" not in text
    depends = {each["ref"]: each.get("dependsOn", []) for each in bom["dependencies"]}
    assert depends["pip/linux-64/jinja2@2.4.1"] == ["pip/linux-64/six@1.17.0"]
    assert "pip/linux-64/six@1.17.0" not in depends["model"]
    [vulnerability] = bom["vulnerabilities"]
    assert vulnerability["affects"] == [{"ref": "pip/linux-64/jinja2@2.4.1"}]
    properties = {each["name"]: each["value"] for each in bom["metadata"]["properties"]}
    assert properties["kbuild:audit:verdict"] == "findings"


def test_the_sizes_of_an_image_are_in_the_report_and_drawn_on_its_page(subject: Subject, report: AuditReport) -> None:
    package = PackageSize(name="<x>", kind="python", version="1", size=3_000_000, files=2)
    layer = LayerSize(digest=f"sha256:{'0' * 64}", name="deps", packed=1_000_000, packages=(package,))
    sized = replace(report, measured=lambda: ImageSizes(layers=(layer,)))
    Draft202012Validator(report_schema()).validate(json.loads(json.dumps(sized.to_json())))
    html = page([(sized, json.loads(make_sbom(subject, report)))], "findings")
    sized = replace(sized, sizes=(("image", 3_000_000), ("model", 2_000_000)))
    shown = page([(sized, json.loads(make_sbom(subject, report)))], "findings")
    # Beside it kbuild list and a registry tell how large it is packed.
    assert "image 3.0 MB unpacked" in shown and "model 2.0 MB<" in shown
    assert html.count("<svg") == 1 and "&lt;x&gt; 1" in html and "<x>" not in html
    assert "<svg" not in page([(report, json.loads(make_sbom(subject, report)))], "findings")


def test_the_sbom_of_a_slim_image_says_what_is_locked_but_not_in_it(subject: Subject, report: AuditReport) -> None:
    image = bare_image(labels={"io.kbuild.slim.left-out": "Jinja2"})
    bom = json.loads(make_sbom(replace(subject, image=image), report))
    assert [each["name"] for each in bom["components"] if each.get("scope") == "excluded"] == ["jinja2"]
    assert "scope" not in json.loads(make_sbom(subject, report))["components"][0]


def test_the_sbom_names_the_packages_of_the_base(subject: Subject) -> None:
    libc = InstalledPackage(kind="deb", name="glibc", version="2.36-9+deb12u9", parts=("libc6",))
    image = bare_image(base=ImageBase(ecosystem="Debian:12", packages=(libc,)))
    finding = Finding(
        id="DSA-1",
        check="vulnerabilities",
        severity="high",
        where="deb:glibc",
        version="2.36-9+deb12u9",
        evidence="bad",
        remedy="do",
    )
    result = CheckResult(check="vulnerabilities", findings=(finding,))
    subject = replace(subject, image=image)
    made = make_report(subject, [result], parse_policy({}), today=date(2026, 11, 22), fail_on="low")
    bom = json.loads(make_sbom(subject, made))
    [component] = [each for each in bom["components"] if each["name"] == "glibc"]
    # As package-url's definition of deb has it.
    assert component["purl"] == "pkg:deb/debian/glibc@2.36-9%2Bdeb12u9?arch=source&distro=debian-12"
    assert bom["vulnerabilities"][0]["affects"] == [{"ref": component["bom-ref"]}]
    depends = {each["ref"]: each.get("dependsOn", []) for each in bom["dependencies"]}
    assert component["bom-ref"] in depends["model"] and "pip/linux-64/jinja2@2.4.1" in depends["model"]


def test_markdown_cannot_be_broken_out_of(report: AuditReport) -> None:
    text = markdown(report)
    assert text.startswith("### kbuild audit: findings: 1 finding \\(".replace("\\(", "("))
    [row] = [line for line in text.splitlines() if line.startswith("| high")]
    assert row.replace("\\|", "").count("|") == 6
    assert "<script>" not in text.replace("\\<", "")
    assert "accepted until 2030-01-01: CVE-7" in text
    assert "the ignore of CVE-8 expired on 2020-01-01" in text


def test_the_table_says_everything(report: AuditReport) -> None:
    text = table(report, width=200, colour=False)
    for part in (
        "PYSEC-1",
        "pip:jinja2 2.4.1",
        "train with jinja2 2.7.2",
        "not known",
        "newest of 2026-11-01, 5 records",
    ):
        assert part in text
    assert "\x1b" not in text
    assert "\x1b" in table(report, width=200, colour=True)
    assert summary(report) == "findings: 1 finding (1 high), 1 not checked, 2 accepted"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_an_id_stays_in_one_piece(report: AuditReport, width: int) -> None:
    long = replace(report, findings=tuple(replace(each, id="DEBIAN-CVE-2026-12345") for each in report.findings))
    assert "DEBIAN-CVE-2026-12345" in table(long, width=width, colour=False)


def test_a_lock_alone_is_a_subject(make_lock: Any, make_entry: Any) -> None:
    subject = Subject(reference="conda-lock.yml", kind="lock", lock=make_lock(make_entry("six", "1.17.0")))
    empty = make_report(subject, [], parse_policy({}), today=date(2026, 11, 22), fail_on="low")
    Draft202012Validator(report_schema()).validate(empty.to_json())
    assert json.loads(make_sbom(subject, empty))["metadata"]["component"]["name"] == "conda-lock.yml"
    assert summary(empty) == "clean: 0 findings"


def test_what_is_said_of_many_packages_alike_is_one_row(subject: Subject) -> None:
    """A real lock without hashes has one finding a package, all the same."""
    findings = tuple(
        Finding(
            id="lock-no-sha256", check="lock", severity="high", where=f"pip:p{n}", version=f"1.{n}",
            evidence=f"package[{n}]: its sha256 is missing", remedy="make the lock again",
        )
        for n in range(361)
    )  # fmt: skip
    other = replace(findings[0], id="lock-sdist", remedy="choose another version of p0")
    report = make_report(
        subject,
        [CheckResult(check="lock", findings=(*findings, other))],
        parse_policy({}, source="test"),
        today=date(2026, 11, 22),
        fail_on="low",
    )
    for text in (table(report, width=120, colour=False), markdown(report)):
        assert text.count("lock-no-sha256") == text.count("lock-sdist") == 1
        assert "the same of 360 more" in " ".join(text.split()) and "and 351 more" in " ".join(text.split())
    assert "362 findings" in summary(report) and len(report.to_json()["findings"]) == 362


def test_what_a_library_s_models_name_is_one_row(subject: Subject) -> None:
    """One model of spaCy names eighty of its classes and functions: the row says what is typed for all of them."""
    names = [f"spacy.lang.en.C{n}" for n in range(80)] + ["thinc.model.Model", "spacyx.Model"]
    findings = tuple(
        Finding(
            id="pickle-unknown", check="pickles", severity="medium", where="artifacts/model.pkl",
            evidence=f"loading artifacts/model.pkl would import {name}, which is not known to make data",
            remedy=f'see what it is for, or allow it: allowed-pickles: [{{name: "{name}", reason: "…"}}]',
        )
        for name in names
    )  # fmt: skip
    report = make_report(
        subject,
        [CheckResult(check="pickles", findings=findings)],
        parse_policy({}, source="test"),
        today=date(2026, 11, 22),
        fail_on="low",
    )
    shown = table(report, width=200, colour=False)
    for text in (shown, markdown(report)):
        assert text.count("pickle-unknown") == 3 and text.count("model.pkl would import") == 3
        words = " ".join(text.split())
        assert "import 80 names of spacy: spacy.lang.en.C0, spacy.lang.en.C1, " in words
        assert " and 74 more, which are not known" in words
    assert '{name: "spacy.*", reason: "…"}' in " ".join(shown.split())
    assert '{name: "spacyx.Model", reason: "…"}' in " ".join(shown.split())
    assert "82 findings" in summary(report) and len(report.to_json()["findings"]) == 82


def test_a_check_of_one_thing_names_it_once(subject: Subject) -> None:
    unchecked = (
        Unchecked(check="image", where="image", reason="it lies in a registry", remedy="pull it"),
        Unchecked(check="base", where="deb:glibc", reason="nobody knows it", remedy="wait"),
    )
    report = make_report(
        subject,
        [CheckResult(check="image", unchecked=unchecked)],
        parse_policy({}, source="test"),
        today=date(2026, 11, 22),
        fail_on="low",
    )
    text = table(report, width=200, colour=False)
    assert "not checked (image): it lies in a registry; pull it\n" in text
    assert "not checked (base): deb:glibc: nobody knows it; wait\n" in text


def test_what_a_service_said_is_told_once(subject: Subject) -> None:
    said = "the service osv.example does not answer: Connection refused"
    unchecked = Unchecked(check="vulnerabilities", where="pip:six", reason=f"{said}", remedy="give --advisories FILE")
    sources = (
        Source(name="the service osv.example", fault=f"no answer for 1 package: {said}"),
        Source(name="advisories.zip", fault="two records: they are broken"),
    )
    result = CheckResult(check="vulnerabilities", unchecked=(unchecked,), sources=sources)
    report = make_report(subject, [result], parse_policy({}, source="test"), today=date(2026, 11, 22), fail_on="low")
    text = table(report, width=200, colour=False)
    assert text.count(said) == 1
    assert "advisories: the service osv.example; no answer for 1 package\n" in text
    assert "advisories: advisories.zip; two records: they are broken\n" in text


@pytest.mark.parametrize(
    "trick", ["\x1b[2J\x1b]0;clean\x07", "\x9b31m", "\u202eevil", "a\rclean", "\u2028x", "\x08\x08"]
)
def test_no_escape_of_any_input_reaches_a_terminal_or_a_page(subject: Subject, trick: str) -> None:
    nasty = f"x{trick}y"
    finding = Finding(id=nasty, check="lock", severity="high", where=nasty, version=nasty, evidence=nasty, remedy=nasty)
    unchecked = Unchecked(check="lock", where=nasty, reason=nasty, remedy=nasty)
    result = CheckResult(check="lock", findings=(finding,), unchecked=(unchecked,), notes=(nasty,))
    result = replace(result, sources=(Source(name=nasty, fault=nasty),))
    report = make_report(
        replace(subject, reference=nasty),
        [result],
        parse_policy({}, source="test"),
        today=date(2026, 11, 22),
        fail_on="low",
    )
    texts = (
        table(report, width=200, colour=False), markdown(report), json.dumps(report.to_json()),
        make_sbom(subject, report), summary_table([(nasty, nasty)], width=100, colour=False),
    )  # fmt: skip
    for text in texts:
        assert not set(trick) & set(text) - set("[]0;2Jcleanevilxy31m")
        assert set(text) <= {*map(chr, range(32, 127)), "\n", "→", *"─ "}


def test_in_a_pipe_a_line_is_a_line_and_a_terminal_breaks_between_words() -> None:
    reason = "nobody answers for it " * 12
    unchecked = Unchecked(check="releases", where="packages", reason=reason.strip(), remedy="ask again")
    long = make_report(
        Subject(reference="x", kind="lock"), [CheckResult(check="releases", unchecked=(unchecked,))], parse_policy({}),
        today=date(2026, 1, 1), fail_on="low",
    )  # fmt: skip
    [line] = [line for line in table(long, width=60, colour=False).splitlines() if line.startswith("not checked")]
    assert line == f"not checked (releases): packages: {reason.strip()}; ask again"
    shown = re.sub(r"\x1b\[[0-9;]*m", "", table(long, width=60, colour=True)).splitlines()
    assert max(map(len, shown)) <= 60
    assert " ".join(" ".join(shown).split()).count(" nobody answers for it") == 12


def test_a_command_in_a_note_stays_in_one_piece_and_a_note_is_told_from_the_next() -> None:
    note = "base, interpreter and bytecode are what this machine built: kbuild verify --rebuild makes them again"
    said = make_report(
        Subject(reference="x", kind="lock"), [CheckResult(check="releases", notes=(note, "second"))], parse_policy({}),
        today=date(2026, 1, 1), fail_on="low",
    )  # fmt: skip
    shown = re.sub(r"\x1b\[[0-9;]*m", "", table(said, width=75, colour=True)).splitlines()
    assert "  kbuild verify --rebuild makes them again" in shown and "second" in shown


def test_a_packages_name_stays_in_one_piece_at_80_columns() -> None:
    finding = Finding(
        id="PYSEC-2026-1", check="vulnerabilities", severity="high", where="pip:scikit-learn", version="1.9.1",
        evidence="planted " * 9, remedy="replace it",
    )  # fmt: skip
    said = make_report(
        Subject(reference="x", kind="lock"), [CheckResult(check="vulnerabilities", findings=(finding,))],
        parse_policy({}), today=date(2026, 1, 1), fail_on="low",
    )  # fmt: skip
    assert "pip:scikit-learn" in table(said, width=80, colour=True)


def test_an_ignore_of_what_another_model_has_unchecked_is_not_told() -> None:
    entry = {"reason": "r", "expires": "2027-01-01"}
    entries = [
        {"id": "unchecked", "package": ["readline"], **entry},
        {"id": "unchecked", **entry},
        {"id": "CVE-1", "package": "jinja2", **entry},
    ]
    said = make_report(
        Subject(reference="x", kind="lock"), [CheckResult(check="releases")], parse_policy({"ignore": entries}),
        today=date(2026, 1, 1), fail_on="low",
    )  # fmt: skip
    shown = table(said, width=80, colour=False)
    assert "readline" not in shown and len(said.to_json()["unused_ignores"]) == 3
    assert "the ignore of unchecked covers" in shown and "the ignore of CVE-1 of jinja2 covers" in shown
