from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.managers.debversion import version_key

# Ascending, each pair as `dpkg --compare-versions` has it.
ASCENDING = [
    "0~~", "0~~a", "0~", "0", "0a", "0.1", "1.0~beta1~svn1245", "1.0~beta1", "1.0", "1.0-1", "1.0-1+b1", "1.0-1.1",
    "1.0-2", "1.0+dfsg-1", "1.2", "1.10", "1:0.1", "2:0",
]  # fmt: skip
VERSIONS = st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~]{0,6}(-[A-Za-z0-9.+~]{1,4})?", fullmatch=True)


@pytest.mark.parametrize(("older", "newer"), list(pairwise(ASCENDING)))
def test_order(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.0-0"), ("0:1", "1"), ("1.00", "1.0"), ("1.a", "1.a0")])
def test_equal(one: str, other: str) -> None:
    assert version_key(one) == version_key(other)


@given(VERSIONS)
def test_a_tilde_sorts_before_and_a_letter_after(version: str) -> None:
    assert version_key(f"{version}~") < version_key(version)
    assert version_key(version) < version_key(f"{version}a")
