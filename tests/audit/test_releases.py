from __future__ import annotations

from typing import Any

from kbuild.audit.checks.releases import Lookup, ReleaseCheck
from kbuild.audit.finding import CheckResult
from kbuild.audit.subject import Subject
from kbuild.environment.index.package_indexes import IndexFile
from kbuild.errors import IndexUnavailable


def run(lock: Any, lookup: Lookup | None) -> CheckResult:
    return ReleaseCheck(lookup).run(Subject(reference="x", kind="lock", lock=lock))


def test_yanked_files_and_other_bytes_are_found(make_lock: Any, make_entry: Any) -> None:
    lock = make_lock(*(make_entry(name, "1") for name in ("fine", "pulled", "swapped", "unlisted")))
    hashes = {entry.name: entry.sha256 for entry in lock.entries}

    def lookup(name: str) -> list[IndexFile]:
        file = f"{name}-1-py3-none-any.whl"
        other = IndexFile(filename=f"{name}-2-py3-none-any.whl", sha256="0" * 64, yanked="the other one")
        sha256 = "1" * 64 if name == "swapped" else hashes[name]
        mine = IndexFile(filename=file, sha256=sha256, yanked="broken" if name == "pulled" else None)
        return [other] if name == "unlisted" else [other, mine]

    result = run(lock, lookup)
    assert [(each.id, each.where, each.severity) for each in result.findings] == [
        ("yanked", "pip:pulled", "medium"),
        ("index-hash", "pip:swapped", "critical"),
    ]
    assert "broken" in result.findings[0].evidence
    assert [each.where for each in result.unchecked] == ["pip:unlisted"]
    assert result.looked_at == 4


def test_a_dead_index_is_asked_once(make_lock: Any, make_entry: Any) -> None:
    asked = []

    def lookup(name: str) -> list[IndexFile]:
        asked.append(name)
        raise IndexUnavailable("the index is down")

    result = run(make_lock(*(make_entry(name, "1") for name in "abc")), lookup)
    assert [each.reason for each in result.unchecked] == ["the index is down"] * 3
    assert asked == ["a"]


def test_nobody_to_ask_and_nothing_to_ask(make_lock: Any, make_entry: Any) -> None:
    assert run(make_lock(make_entry("a", "1")), None).unchecked
    assert run(make_lock(make_entry("xz", "1", "conda")), None) == CheckResult(check="releases")
    assert run(None, None) == CheckResult(check="releases")
