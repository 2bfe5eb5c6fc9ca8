"""Which packages of a lock a requirement or an advisory means."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.audit.fleet import Question, read_requirement
from kbuild.errors import ConfigurationError
from kbuild.workflow.audit.fleet import make_question


def advisory(ecosystem: str, name: str, **affected: Any) -> dict[str, Any]:
    return {"id": "X-1", "affected": [{"package": {"ecosystem": ecosystem, "name": name}, **affected}]}


@pytest.mark.parametrize(
    ("asked", "packages", "unsure"),
    [
        ("Jinja2<3", ["pip:jinja2 2.4.1"], []),
        ("jinja2", ["pip:jinja2 2.4.1"], []),
        ("jinja2>=3", [], []),
        ("torch>=2", ["conda:pytorch 2.1.0", "pip:torch 2.1.0+cpu"], []),
        ("openssl<3", [], ["conda:openssl 1.1.1w-x"]),
        ("pre<2", [], []),  # PEP 440: what comes before a release is not less than it
        ("pre<=2", ["pip:pre 2.0rc1"], []),
    ],
)
def test_a_requirement(make_lock: Any, make_entry: Any, asked: str, packages: list[str], unsure: list[str]) -> None:
    lock = make_lock(
        make_entry("jinja2", "2.4.1"),
        make_entry("torch", "2.1.0+cpu"),
        make_entry("pre", "2.0rc1"),
        make_entry("pytorch", "2.1.0", "conda"),
        make_entry("openssl", "1.1.1w-x", "conda"),
    )
    found = Question(requirement=read_requirement(asked)).ask(lock.entries)
    assert (list(found.packages), list(found.unsure)) == (packages, unsure)


def test_an_advisory(make_lock: Any, make_entry: Any) -> None:
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.7.2"}]}]
    lock = make_lock(make_entry("Jinja2", "2.4.1"), make_entry("six", "1"), make_entry("jinja2", "2.4.1", "conda"))
    found = Question(records=[advisory("PyPI", "jinja2", ranges=ranges)]).ask(lock.entries)
    assert found.packages == ("pip:Jinja2 2.4.1",)
    assert found.unsure == ("conda:jinja2 2.4.1",)  # nobody says that it is the same
    fixed = make_lock(make_entry("jinja2", "2.7.2"), make_entry("six", "1"))
    assert Question(records=[advisory("PyPI", "jinja2", ranges=ranges)]).ask(fixed.entries).packages == ()
    odd = Question(records=[advisory("PyPI", "jinja2", ranges=[{**ranges[0], "events": [{"introduced": "x"}]}])])
    assert odd.ask(fixed.entries).unsure == ("pip:jinja2 2.7.2",)


def test_an_advisory_with_an_entry_that_names_no_package(make_lock: Any, make_entry: Any) -> None:
    """OSV's schema has ``package`` optional: an entry may name a repository alone."""
    record = advisory("PyPI", "jinja2", versions=["2.4.1"])
    for nobody in ({}, {"package": None}, {"ranges": [{"type": "GIT", "repo": "https://x.example/r"}]}):
        question = Question(records=[{**record, "affected": [nobody, *record["affected"]]}])
        found = question.ask(make_lock(make_entry("jinja2", "2.4.1"), make_entry("jinja2", "2.4.1", "conda")).entries)
        assert (found.packages, found.unsure) == (("pip:jinja2 2.4.1",), ("conda:jinja2 2.4.1",))


def test_what_cannot_be_asked_of_locks() -> None:
    with pytest.raises(ConfigurationError, match="X-1 is of Debian packages, which locks do not name"):
        Question(records=[advisory("Debian:12", "glibc")])
    for text in ("jinja2 3", "jinja2 @ https://x.example/y.whl", "CVE 2024", "jinja2[x]<3", "\x1b[2J"):
        with pytest.raises(ConfigurationError):
            read_requirement(text)


def test_a_package_in_capitals_is_no_advisory(make_lock: Any, make_entry: Any) -> None:
    policy = SimpleNamespace(advisories=None, service="none")
    request: Any = SimpleNamespace(lock=SimpleNamespace(names=()), policy=policy, offline=True)
    lock = make_lock(make_entry("my-package", "1"))
    assert make_question("MY-PACKAGE", request).ask(lock.entries).packages == ("pip:my-package 1",)
    for text in ("CVE-2024-1", "PYSEC-2021-66", "GHSA-g3rq-g295-4j3m", "DEBIAN-CVE-2024-1", "USN-7-1"):
        with pytest.raises(ConfigurationError, match=f"{text} cannot be looked up"):
            make_question(text, request)
