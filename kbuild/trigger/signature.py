"""Signatures of webhooks: HMAC-SHA256 (RFC 2104) over ``<timestamp>.<body>``, so that old bodies cannot be replayed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from kbuild.errors import SignatureRefused

SIGNATURE_HEADER = "X-Kbuild-Signature-256"
TIMESTAMP_HEADER = "X-Kbuild-Timestamp"
_PREFIX = "sha256="


def make_signature(secret: str, timestamp: int, body: bytes) -> str:
    """``sha256=<64 hexadecimal characters>``; ``timestamp`` in seconds since 1970."""
    return _PREFIX + hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


def check_signature(secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float) -> None:
    """Accept a body or raise SignatureRefused saying why; names of ``headers`` in any case, times in seconds."""
    found = {name.lower(): value.strip() for name, value in headers.items()}
    for name in (SIGNATURE_HEADER, TIMESTAMP_HEADER):
        if name.lower() not in found:
            raise SignatureRefused(f"there is no header {name}")
    stamp, signature = found[TIMESTAMP_HEADER.lower()], found[SIGNATURE_HEADER.lower()]
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
        raise SignatureRefused(f"{TIMESTAMP_HEADER} is no number of seconds")
    expected = make_signature(secret, int(stamp), body)
    # Bytes, since compare_digest refuses text beyond ASCII, and the header is the sender's.
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        raise SignatureRefused(
            "the signature is not that of this body and time", hint="both sides need the same secret, and the raw body"
        )
    if abs(now - int(stamp)) > tolerance:
        raise SignatureRefused(
            f"the message is {abs(now - int(stamp)):.0f} s off, more than the {tolerance:.0f} s allowed",
            hint="see that both clocks are right; --tolerance allows more",
        )
