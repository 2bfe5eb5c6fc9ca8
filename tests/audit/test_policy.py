from __future__ import annotations

import ast
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from kbuild.audit import finding as finding_module
from kbuild.audit.finding import KINDS, CheckResult, Finding, Unchecked
from kbuild.audit.policy import join_policies, parse_policy
from kbuild.audit.report.report import AuditReport, make_report
from kbuild.audit.subject import Subject
from kbuild.errors import ConfigurationError

TEXT = """
allowed-channels = ["conda-forge"]
allowed-indexes = ["https://pypi.example/"]
advisories = "advisories.tar.gz"
service = "osv"
osv-url = "http://127.0.0.1:1/v1/query"
fail-on = "high"
max-advisory-age = 30
[[ignore]]
id = "CVE-1"
package = "Jinja2"
reason = "the template is our own"
expires = 2026-12-31
[[ignore]]
id = "unchecked"
package = "python"
reason = "looked at by the platform team"
expires = "2026-12-01"
"""


def finding(**changes: Any) -> Finding:
    given = {"id": "PYSEC-1", "check": "v", "severity": "high", "where": "pip:jinja2", "evidence": "e", "remedy": "r"}
    return Finding(**({**given, "aliases": ("CVE-1",)} | changes))


def unchecked(where: str) -> Unchecked:
    return Unchecked(check="v", where=where, reason="r", remedy="m")


def report(*items: Any, today: date = date(2026, 11, 22), fail_on: Any = "low") -> AuditReport:
    result = CheckResult(
        check="v",
        findings=tuple(each for each in items if isinstance(each, Finding)),
        unchecked=tuple(each for each in items if isinstance(each, Unchecked)),
    )
    policy = parse_policy(tomllib.loads(TEXT))
    return make_report(Subject(reference="x", kind="lock"), [result], policy, today=today, fail_on=fail_on)


def test_every_key_is_read() -> None:
    policy = parse_policy(tomllib.loads(TEXT))
    assert policy.allowed_channels == ("conda-forge",)
    assert (policy.service, policy.fail_on, policy.max_advisory_age) == ("osv", "high", 30)
    assert [each.expires for each in policy.ignores] == [date(2026, 12, 31), date(2026, 12, 1)]
    assert parse_policy({}).fail_on == "low"


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({"allowed-chanels": []}, "allowed-chanels is unknown"),
        ({"allowed-channels": "conda-forge"}, "allowed-channels has to be a list"),
        ({"fail-on": "bad"}, "fail-on has to be one of low, medium, high, critical"),
        ({"service": "snyk"}, "service has to be one of"),
        ({"max-advisory-age": True}, "max-advisory-age has to be a number of days"),
        ({"advisories": 1}, "advisories has to be a text"),
        ({"ignore": {"id": "X"}}, "ignore has to be a list of tables"),
        ({"ignore": [{"id": "X", "reason": "r", "expires": "2027-01-01", "package": []}]}, "package names nothing"),
        ({"ignore": [{"id": "X", "reason": "r", "expires": "2027-01-01", "package": [1]}]}, "a name or a list"),
        ({"ignore": [{"id": "X", "reason": "r", "expires": "2027-02-30"}]}, r"ignore\[0\]\.expires has to be a date"),
        ({"ignore": [{"id": "X", "reason": "r", "expires": 20270101}]}, r"ignore\[0\]\.expires has to be a date"),
        ({"ignore": [{"id": "X", "reason": "  ", "expires": "2027-01-01"}]}, r"ignore\[0\]\.reason is missing"),
        ({"ignore": ["X"]}, r"ignore\[0\] has to be a table"),
        ({"ignore": [{"id": "X", "expires": "2027-01-01"}]}, r"ignore\[0\]\.reason is missing"),
        ({"ignore": [{"id": "X", "reason": "r"}]}, r"ignore\[0\]\.expires has to be a date"),
        ({"ignore": [{"id": "X", "reason": "r", "expires": "soon"}]}, r"ignore\[0\]\.expires has to be a date"),
        (
            {"ignore": [{"id": "X", "reason": "r", "expires": "2027-01-01", "who": "me"}]},
            r"ignore\[0\]\.who is unknown",
        ),
    ],
)
def test_every_fault_is_named(table: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigurationError, match=fault) as caught:
        parse_policy(table, source="conf/base/kbuild.yml, audit")
    assert caught.value.message.startswith("conf/base/kbuild.yml, audit: ")


def test_the_policies_of_two_places_are_one() -> None:
    ignore = {"id": "CVE-2", "reason": "r", "expires": "2027-01-01", "package": ["a", "B_c"]}
    policy = join_policies(
        [
            ("kbuild.yml", {"fail-on": "medium", "ignore": [ignore]}),
            ("pyproject.toml", {"fail-on": "high", "service": "osv", "ignore": [{**ignore, "id": "CVE-3"}]}),
        ]
    )
    assert (policy.fail_on, policy.service) == ("medium", "osv")
    assert [(each.id, each.source) for each in policy.ignores] == [("CVE-2", "kbuild.yml"), ("CVE-3", "pyproject.toml")]
    assert join_policies([]) == parse_policy({})
    first = policy.ignores[0]
    assert first.covers(finding(id="CVE-2", where="conda:b-c")) and first.covers(finding(id="CVE-2", where="pip:a"))
    assert not first.covers(finding(id="CVE-2", where="pip:d"))
    with pytest.raises(ConfigurationError, match=r"^pyproject.toml: fail-on"):
        join_policies([("kbuild.yml", {"fail-on": "medium"}), ("pyproject.toml", {"fail-on": "bad"})])


def test_unfixed_covers_what_no_distribution_has_mended_and_nothing_else() -> None:
    [ignore] = parse_policy({"ignore": [{"id": "unfixed", "reason": "r", "expires": "2027-01-01"}]}).ignores
    assert ignore.covers(finding(where="deb:glibc", unfixed=True))
    assert not ignore.covers(finding(where="deb:glibc"))
    assert not ignore.covers(unchecked("deb:glibc"))


def test_an_ignore_covers_ids_aliases_and_unchecked_packages_until_its_day() -> None:
    accepted = report(finding(), unchecked("conda:python"))
    assert (accepted.verdict, accepted.findings, len(accepted.accepted)) == ("clean", (), 2)
    last = report(finding(), today=date(2026, 12, 31))
    assert last.verdict == "clean"
    assert [each.id for each in last.expired] == ["unchecked"]
    expired = report(finding(), today=date(2027, 1, 1))
    assert (expired.verdict, len(expired.findings), len(expired.expired)) == ("findings", 1, 2)
    # What is told with the verdict is what would have changed it.
    assert [each.id for each in expired.lapsed] == ["CVE-1"]


def test_an_ignore_covers_nothing_else() -> None:
    other = report(finding(where="pip:flask"), unchecked("conda:openssl"))
    assert (other.verdict, len(other.findings), len(other.unchecked)) == ("findings", 1, 1)
    assert len(other.unused) == 2


def test_the_verdict() -> None:
    low = finding(id="X", aliases=(), severity="low")
    assert report().verdict == "clean"
    assert report(low).verdict == "findings"
    assert report(low, fail_on="medium").verdict == "clean"
    assert report(low, unchecked("a"), fail_on="medium").verdict == "incomplete"
    assert report(low, unchecked("a")).verdict == "findings"


def test_allowed_pickles_have_a_name_and_a_reason() -> None:
    table = {
        "allowed-pickles": [{"name": "churn.model.Model", "reason": "ours"}, {"name": "lifelines.*", "reason": "r"}]
    }
    assert [each.name for each in parse_policy(table).allowed_pickles] == ["churn.model.Model", "lifelines.*"]
    for wrong in ({"name": "os"}, {"name": "*", "reason": "r"}, {"name": "a.b"}, "a.b", {"name": "a.b", "reason": " "}):
        with pytest.raises(ConfigurationError, match=r"allowed-pickles\[0\]"):
            parse_policy({"allowed-pickles": [wrong]})


def test_a_kind_counts_as_bad_as_the_policy_says() -> None:
    policy = parse_policy({"severities": {"yanked": "critical"}})
    found = [
        Finding(id=id, check="releases", severity="medium", where="pip:x", evidence="e", remedy="r")
        for id in ("yanked", "index-hash")
    ]
    result = CheckResult(check="releases", findings=tuple(found))
    report = make_report(Subject(reference="m", kind="model"), [result], policy, today=date(2026, 1, 1), fail_on="high")
    assert [(each.id, each.severity) for each in report.findings] == [("yanked", "critical"), ("index-hash", "medium")]
    assert report.verdict == "findings"
    for wrong in ({"yanked": "bad"}, ["yanked"], {"yanked": 1}, {"yanked": ["low"]}):
        with pytest.raises(ConfigurationError, match="severities has to be a table of ids"):
            parse_policy({"severities": wrong})


def test_an_advisory_counts_as_bad_as_the_policy_says_by_any_of_its_names() -> None:
    """As an ignore covers it: advisories of Python packages have their CVE as an alias."""

    def counted(**severities: str) -> str:
        policy = parse_policy({"severities": {name.replace("_", "-"): each for name, each in severities.items()}})
        names = ("CVE-2026-1", "PYSEC-2026-9")
        found = Finding(
            id="GHSA-1",
            check="vulnerabilities",
            severity="high",
            where="pip:x",
            evidence="e",
            remedy="r",
            aliases=names,
        )
        results = [CheckResult(check="vulnerabilities", findings=(found,))]
        subject = Subject(reference="m", kind="model")
        return make_report(subject, results, policy, today=date(2026, 1, 1), fail_on="low").findings[0].severity

    assert counted(CVE_2026_1="low") == "low"
    assert counted(CVE_2026_1="low", PYSEC_2026_9="critical") == "critical"
    assert counted(CVE_2026_1="low", GHSA_1="medium") == "medium"
    assert counted(CVE_2026_2="low") == "high"


# Of their databases' own pages.
ADVISORIES = [
    "CVE-2024-1", "GHSA-h75v-3vvj-5mfj", "PYSEC-2014-8", "DSA-5532-1", "DEBIAN-CVE-2024-1", "MAL-2024-1", "USN-1-1",
    "sonatype-2020-0026", "SNYK-PYTHON-JINJA2-6150717", "RHSA-2024:0252", "X",
]  # fmt: skip


def test_ids_that_a_policy_names_are_those_that_findings_have() -> None:
    for id in [*KINDS, *ADVISORIES]:
        parse_policy({"severities": {id: "low"}, "ignore": [{"id": id, "reason": "r", "expires": "2027-01-01"}]})


@pytest.mark.parametrize(
    ("id", "told"),
    [
        ("pickel-unknown", "pickel-unknown is unknown: did you mean pickle-unknown?"),
        ("Yanked", "Yanked is unknown: did you mean yanked?"),
        ("lock-no-sha265", "did you mean lock-no-sha256?"),
        ("secrets", "did you mean secret?"),
        ("cve-2024-1", "did you mean CVE-2024-1?"),
        ("ghsa-h75v-3vvj-5mfj", "did you mean GHSA-h75v-3vvj-5mfj?"),
        ("vulnerability", "vulnerability is unknown"),
    ],
)
def test_an_id_that_no_finding_has_is_an_error_that_names_the_nearest(id: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_policy({"severities": {id: "low"}})
    assert f"severities.{id}" in caught.value.message and told in caught.value.message
    with pytest.raises(ConfigurationError) as caught:
        parse_policy({"ignore": [{"id": id, "reason": "r", "expires": "2027-01-01"}]})
    assert f"ignore[0].id {id}" in caught.value.message and told in caught.value.message


def test_what_an_ignore_alone_names_has_no_severity() -> None:
    for id in ("unchecked", "unfixed"):
        parse_policy({"ignore": [{"id": id, "reason": "r", "expires": "2027-01-01"}]})
        with pytest.raises(ConfigurationError, match=f"severities.{id} is unknown"):
            parse_policy({"severities": {id: "low"}})


@pytest.mark.slow
def test_all_kinds_that_checks_find_are_known() -> None:
    folder = Path(finding_module.__file__).parent
    form = re.compile(r"(base|code|drift|image|index|lock|model|pickle)-[a-z0-9-]+|secret|licence|yanked")
    texts = {
        node.value
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {each for each in texts if form.fullmatch(each)} == KINDS
