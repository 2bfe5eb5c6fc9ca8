"""Signatures of webhooks, by the Standard Webhooks scheme: HMAC-SHA256 over id, time and body, so that old bodies
cannot be replayed (https://www.standardwebhooks.com, "Webhook metadata" and "Signature scheme").

kbuild 0.1 had headers of its own, with an HMAC over ``<timestamp>.<body>``. They are sent beside the others, and taken
where those are absent, for one release more.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from collections.abc import Mapping

from kbuild.errors import SignatureRefused

ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER = "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"
OLD_SIGNATURE_HEADER, OLD_TIMESTAMP_HEADER = "X-Kbuild-Signature-256", "X-Kbuild-Timestamp"
_CODED = "whsec_"


def make_headers(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a body; ``timestamp`` in seconds since 1970.

    A secret ``whsec_…`` is base64, as the scheme has it; any other one is taken as it is, and is given to a receiver's
    library as bytes.
    """
    old = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        ID_HEADER: id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: _sign(secret, id, timestamp, body),
        OLD_TIMESTAMP_HEADER: str(timestamp),
        OLD_SIGNATURE_HEADER: f"sha256={old}",
    }


def check_signature(secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float) -> None:
    """Accept a body or raise SignatureRefused saying why; names of ``headers`` in any case, times in seconds."""
    found = {name.lower(): value.strip() for name, value in headers.items()}
    standard = SIGNATURE_HEADER.lower() in found or OLD_SIGNATURE_HEADER.lower() not in found
    names = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    if not standard:
        names = (OLD_TIMESTAMP_HEADER, OLD_TIMESTAMP_HEADER, OLD_SIGNATURE_HEADER)
    for name in names:
        if name.lower() not in found:
            raise SignatureRefused(f"there is no header {name}")
    id, stamp, signatures = (found[name.lower()] for name in names)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
        raise SignatureRefused(f"{names[1]} is not a number of seconds")
    expected = make_headers(secret, id, int(stamp), body)[names[2]]
    # Several where a secret is being replaced. Bytes, since compare_digest refuses text beyond ASCII, and the header is
    # the sender's.
    given = [each.encode(errors="replace") for each in signatures.split(" ")]
    if not any(hmac.compare_digest(expected.encode(), each) for each in given):
        raise SignatureRefused(
            "the signature is not that of this body and time", hint="both sides need the same secret, and the raw body"
        )
    if abs(now - int(stamp)) > tolerance:
        raise SignatureRefused(
            f"the message is {abs(now - int(stamp)):.0f} s off, more than the {tolerance:.0f} s allowed",
            hint="see that both clocks are right; --tolerance allows more",
        )


def _sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    key = secret.encode()
    if secret.startswith(_CODED):
        with contextlib.suppress(ValueError):  # no base64: it only looks like one of the scheme's
            key = base64.b64decode(secret.removeprefix(_CODED), validate=True)
    signed = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(signed).decode()}"
