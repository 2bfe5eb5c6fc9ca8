from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import SignatureRefused
from kbuild.trigger.signature import SIGNATURE_HEADER, TIMESTAMP_HEADER, check_signature, make_signature

KEY = "s"
BODY = b'{"event":"model.logged"}'


def headers(secret: str = KEY, at: int = 1000, body: bytes = BODY) -> dict[str, str]:
    return {SIGNATURE_HEADER: make_signature(secret, at, body), TIMESTAMP_HEADER: str(at)}


def test_it_is_the_hmac_that_the_documentation_says() -> None:
    expected = hmac.new(b"s", b"1000." + BODY, hashlib.sha256).hexdigest()
    assert make_signature("s", 1000, BODY) == f"sha256={expected}"


@given(secret=st.text(min_size=1), at=st.integers(0, 2**40), body=st.binary())
def test_what_was_signed_is_accepted(secret: str, at: int, body: bytes) -> None:
    found = {name.lower(): value for name, value in headers(secret, at, body).items()}
    check_signature(secret, found, body, now=at + 299.5, tolerance=300)


@pytest.mark.parametrize(
    ("change", "body", "secret", "now", "match"),
    [
        ({}, BODY + b" ", "s", 1000, "not that of this body"),
        ({}, BODY, "other", 1000, "not that of this body"),
        ({TIMESTAMP_HEADER: "1001"}, BODY, "s", 1000, "not that of this body"),
        ({}, BODY, "s", 1301, "301 s off"),
        ({}, BODY, "s", 699, "301 s off"),
        ({TIMESTAMP_HEADER: "soon"}, BODY, "s", 1000, "no number"),
        ({TIMESTAMP_HEADER: "٣"}, BODY, "s", 1000, "no number"),
        ({TIMESTAMP_HEADER: "-5"}, BODY, "s", 1000, "no number"),
        ({TIMESTAMP_HEADER: "9" * 400}, BODY, "s", 1000, "no number"),
        ({SIGNATURE_HEADER: "sha256=ü"}, BODY, "s", 1000, "not that of this body"),
        ({SIGNATURE_HEADER: ""}, BODY, "s", 1000, "not that of this body"),
    ],
)
def test_what_is_not_right_is_refused(change: dict[str, str], body: bytes, secret: str, now: float, match: str) -> None:
    with pytest.raises(SignatureRefused, match=match):
        check_signature(secret, headers() | change, body, now=now, tolerance=300)


@pytest.mark.parametrize("name", [SIGNATURE_HEADER, TIMESTAMP_HEADER])
def test_a_missing_header_is_named(name: str) -> None:
    found = headers()
    del found[name]
    with pytest.raises(SignatureRefused, match=name):
        check_signature("s", found, BODY, now=1000, tolerance=300)
