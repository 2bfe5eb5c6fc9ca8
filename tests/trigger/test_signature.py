from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbuild.errors import SignatureRefused
from kbuild.trigger.signature import (
    ID_HEADER,
    OLD_SIGNATURE_HEADER,
    OLD_TIMESTAMP_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    check_signature,
    make_headers,
)

KEY = "s"
BODY = b'{"event":"model.logged"}'
OLD = (OLD_SIGNATURE_HEADER, OLD_TIMESTAMP_HEADER)


def headers(secret: str = KEY, at: int = 1000, body: bytes = BODY) -> dict[str, str]:
    """The standard's alone."""
    return {name: text for name, text in make_headers(secret, "id-1", at, body).items() if name not in OLD}


def old_headers(secret: str = KEY, at: int = 1000, body: bytes = BODY) -> dict[str, str]:
    return {name: text for name, text in make_headers(secret, "id-1", at, body).items() if name in OLD}


def test_it_is_the_signature_of_the_scheme_s_own_example() -> None:
    """Of standardwebhooks' libraries, which all have it in their tests."""
    made = make_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert made[SIGNATURE_HEADER] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (made[ID_HEADER], made[TIMESTAMP_HEADER]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


def test_the_headers_of_before_are_sent_too() -> None:
    expected = hmac.new(b"s", b"1000." + BODY, hashlib.sha256).hexdigest()
    assert old_headers() == {"X-Kbuild-Signature-256": f"sha256={expected}", "X-Kbuild-Timestamp": "1000"}


@given(
    secret=st.text(min_size=1) | st.text(min_size=1).map("whsec_".__add__), at=st.integers(0, 2**40), body=st.binary()
)
def test_what_was_signed_is_accepted(secret: str, at: int, body: bytes) -> None:
    for made in (headers(secret, at, body), old_headers(secret, at, body)):
        found = {name.lower(): value for name, value in made.items()}
        check_signature(secret, found, body, now=at + 299.5, tolerance=300)


def test_of_several_signatures_one_is_enough() -> None:
    both = headers() | {SIGNATURE_HEADER: f"{headers('other')[SIGNATURE_HEADER]} {headers()[SIGNATURE_HEADER]}"}
    check_signature(KEY, both, BODY, now=1000, tolerance=300)


def test_a_right_old_signature_does_not_stand_in_for_a_wrong_one() -> None:
    with pytest.raises(SignatureRefused, match="not that of this body"):
        check_signature(KEY, old_headers() | headers("other"), BODY, now=1000, tolerance=300)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("change", "body", "secret", "now", "match"),
    [
        ({}, BODY + b" ", "s", 1000, "not that of this body"),
        ({}, BODY, "other", 1000, "not that of this body"),
        ({"time": "1001"}, BODY, "s", 1000, "not that of this body"),
        ({}, BODY, "s", 1301, "301 s off"),
        ({}, BODY, "s", 699, "301 s off"),
        ({"time": "soon"}, BODY, "s", 1000, "not a number"),
        ({"time": "٣"}, BODY, "s", 1000, "not a number"),
        ({"time": "-5"}, BODY, "s", 1000, "not a number"),
        ({"time": "9" * 400}, BODY, "s", 1000, "not a number"),
        ({"signature": "sha256=ü"}, BODY, "s", 1000, "not that of this body"),
        ({"signature": ""}, BODY, "s", 1000, "not that of this body"),
    ],
)
def test_what_is_not_right_is_refused(
    change: dict[str, str], body: bytes, secret: str, now: float, match: str, old: bool
) -> None:
    names = dict(zip(("signature", "time"), OLD if old else (SIGNATURE_HEADER, TIMESTAMP_HEADER), strict=True))
    found = (old_headers() if old else headers()) | {names[name]: text for name, text in change.items()}
    with pytest.raises(SignatureRefused, match=match) as caught:
        check_signature(secret, found, body, now=now, tolerance=300)
    mended = {
        "not that of this body": "both sides need the same secret, and the raw body",
        "301 s off": "see that both clocks are right; --tolerance allows more",
    }
    assert caught.value.hint == mended.get(match)


def test_another_id_is_another_message() -> None:
    with pytest.raises(SignatureRefused, match="not that of this body"):
        check_signature(KEY, headers() | {ID_HEADER: "id-2"}, BODY, now=1000, tolerance=300)


@pytest.mark.parametrize("name", [ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, OLD_TIMESTAMP_HEADER])
def test_a_missing_header_is_named(name: str) -> None:
    found = old_headers() if name in OLD else headers()
    del found[name]
    with pytest.raises(SignatureRefused, match=name):
        check_signature("s", found, BODY, now=1000, tolerance=300)
