from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from kbuild.audit.sources.osv import PackageVersion, Undecidable, fixed_versions, is_affected


def record(
    *events: dict[str, str], kind: str = "ECOSYSTEM", versions: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": "PyPI", "name": "Some.Package"},
        "ranges": [{"type": kind, "events": list(events)}] if events else [],
        "versions": list(versions),
    }
    return {"id": "X-1", "modified": "2026-01-01T00:00:00Z", "affected": [affected], **more}


def package(version: str, name: str = "some-package", ecosystem: str = "PyPI") -> PackageVersion:
    return PackageVersion(ecosystem=ecosystem, name=name, version=version)


FIXED = ({"introduced": "1.0"}, {"fixed": "1.5"})
LAST = ({"introduced": "0"}, {"last_affected": "2.0"})
TWICE = ({"introduced": "2.0"}, {"fixed": "2.3"}, {"introduced": "0"}, {"fixed": "1.4"})
LIMITED = ({"introduced": "0"}, {"limit": "3"}, {"fixed": "4"})


@pytest.mark.parametrize(
    ("events", "version", "affected"),
    [
        (FIXED, "0.9", False),
        (FIXED, "1.0", True),
        (FIXED, "1.0.0", True),
        (FIXED, "1.5rc1", True),
        (FIXED, "1.5", False),
        (FIXED, "1.5.0", False),
        (FIXED, "1.5.post1", False),
        (LAST, "2.0", True),
        (LAST, "2.0.post1", False),
        (LAST, "0.0.dev1", True),
        (TWICE, "1.3", True),
        (TWICE, "1.4", False),
        (TWICE, "2.2", True),
        (TWICE, "2.3", False),
        (LIMITED, "2.9", True),
        (LIMITED, "3", False),
        (({"introduced": "0"},), "1!99", True),
        (({"introduced": "0"}, {"limit": "*"}), "7", True),
    ],
)
def test_ranges_follow_the_specification(events: tuple[dict[str, str], ...], version: str, affected: bool) -> None:
    assert is_affected(record(*events), package(version)) is affected


def test_a_listed_version_counts_whatever_the_ranges_say() -> None:
    assert is_affected(record(*FIXED, versions=("7.0",)), package("7.0.0"))
    assert is_affected(record({"introduced": "abc"}, kind="GIT", versions=("0.1-odd",)), package("0.1-odd"))
    assert not is_affected(record({"introduced": "0"}, kind="GIT"), package("1.0"))


def test_withdrawn_and_other_packages_do_not_count() -> None:
    everything = ({"introduced": "0"},)
    assert not is_affected(record(*everything, withdrawn="2026-02-01T00:00:00Z"), package("1"))
    assert not is_affected(record(*everything), package("1", name="some-package2"))
    assert not is_affected(record(*everything), package("1", ecosystem="npm"))


def test_what_cannot_be_compared_is_told_not_guessed() -> None:
    odd = record({"introduced": "0"}, {"fixed": "2019-x-12"}, versions=("1.0",))
    assert is_affected(odd, package("1.0"))
    with pytest.raises(Undecidable, match="2019-x-12"):
        is_affected(odd, package("1.1"))


@pytest.mark.parametrize(
    ("version", "affected"),
    [("1.0.0-alpha.1", False), ("1.0.0-alpha.beta", True), ("1.0.0-beta.11", True), ("1.0.0", True), ("1.0.1", False)],
)
def test_semantic_versions_have_their_own_order(version: str, affected: bool) -> None:
    value = record({"introduced": "1.0.0-alpha.2"}, {"fixed": "1.0.1"}, kind="SEMVER")
    value["affected"][0]["package"] = {"ecosystem": "Bitnami", "name": "python"}
    assert is_affected(value, PackageVersion(ecosystem="Bitnami", name="python", version=version)) is affected


def test_fixes_are_those_above_the_version() -> None:
    assert fixed_versions(record(*TWICE), package("2.1")) == ("2.3",)
    assert fixed_versions(record(*TWICE), package("1.0")) == ("1.4", "2.3")


versions = st.builds(
    lambda release, suffix: ".".join(map(str, release)) + suffix,
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.sampled_from(["", "a1", "rc2", ".dev1", ".post1"]),
)


@pytest.mark.slow
@given(st.lists(versions, min_size=2, max_size=8, unique_by=Version), versions, st.randoms())
def test_half_open_intervals(bounds: list[str], version: str, shuffler: Any) -> None:
    ordered = sorted(bounds, key=Version)
    events = [{"introduced" if number % 2 == 0 else "fixed": each} for number, each in enumerate(ordered)]
    inside = any(Version(low) <= Version(version) < Version(high) for low, high in list(pairwise(ordered))[::2]) or (
        len(ordered) % 2 == 1 and Version(version) >= Version(ordered[-1])
    )
    shuffler.shuffle(events)
    assert is_affected(record(*events), package(version)) is inside
