"""Webhooks that come in, from MLflow's registry and from ``kbuild trigger``: who sent them, and what they hint at.

MLflow signs as Standard Webhooks do, under headers of its own (``mlflow/webhooks/delivery.py``): ``v1,`` and the base64
HMAC-SHA256 of ``id.timestamp.body``, the key being the secret's own bytes. It tries three times and then forgets, so
nothing is taken from a body but the name of a model to ask the registry about.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from kbuild.errors import SignatureRefused
from kbuild.trigger.event import EVENT_NAME
from kbuild.trigger.signature import ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER, check_signature

MLFLOW_SIGNATURE, MLFLOW_TIMESTAMP, MLFLOW_ID = "X-MLflow-Signature", "X-MLflow-Timestamp", "X-MLflow-Delivery-Id"
TOLERANCE = 300.0
"""Seconds that a delivery's time may be off, as Standard Webhooks' libraries have it."""

_ID = re.compile(r"[\w-]{1,128}", re.ASCII)  # no dot: it parts what is signed


class Replayed(Exception):
    """A delivery that was taken before."""


class NotUnderstood(Exception):
    """A signed body that is not a webhook's."""


@dataclass(kw_only=True)
class Doorkeeper:
    """Lets in what is signed with the secret, is new in time, and was not there before. Safe for threads."""

    secret: str = field(repr=False)
    _seen: dict[str, float] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def admit(self, headers: Mapping[str, str], body: bytes, *, now: float) -> str | None:
        """The registered model that a delivery is about, None for any; ``now`` in seconds since 1970.

        Raises SignatureRefused for what is forged or stale, Replayed for what came before, NotUnderstood for a body
        that is not a webhook's.
        """
        given = {name.lower(): value.strip() for name, value in headers.items()}
        if MLFLOW_SIGNATURE.lower() in given:
            id = check_mlflow(self.secret, given, body, now=now, tolerance=TOLERANCE)
        else:
            kept = {name: given[name.lower()] for name in _STANDARD if name.lower() in given}
            check_signature(self.secret, kept, body, now=now, tolerance=TOLERANCE)
            # Told again by hand it has the same id and another time; the body of a replay has the very same.
            id = f"{given[ID_HEADER.lower()]} {given[TIMESTAMP_HEADER.lower()]}"
        hint = read_hint(body)
        with self._lock:
            self._seen = {each: until for each, until in self._seen.items() if until >= now}
            if id in self._seen:
                raise Replayed("this delivery was taken before")
            # Beyond that it is too old all the same, from whichever side it was off.
            self._seen[id] = now + 2 * TOLERANCE
        return hint


_STANDARD = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)


def check_mlflow(secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float) -> str:
    """The id of a delivery of MLflow's, whose header names are in lower case; raises SignatureRefused saying why."""
    names = (MLFLOW_ID, MLFLOW_TIMESTAMP, MLFLOW_SIGNATURE)
    for name in names:
        if name.lower() not in headers:
            raise SignatureRefused(f"there is no header {name}")
    id, stamp, signature = (headers[name.lower()] for name in names)
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 15):
        raise SignatureRefused(f"{MLFLOW_TIMESTAMP} is not a number of seconds")
    if not _ID.fullmatch(id):
        raise SignatureRefused(f"{MLFLOW_ID} is not a delivery's id")
    signed = hmac.new(secret.encode(), f"{id}.{stamp}.".encode() + body, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(signed).decode()}"
    # Bytes, since compare_digest refuses text beyond ASCII, and the header is the sender's.
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        raise SignatureRefused("the signature is not that of this body, time and id")
    if abs(now - int(stamp)) > tolerance:
        raise SignatureRefused(f"the delivery is {abs(now - int(stamp)):.0f} s off, more than {tolerance:.0f} s")
    return id


def read_hint(body: bytes) -> str | None:
    """The registered model that a body names, None where it names none; raises NotUnderstood."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood("the body is signed, but is not JSON") from error
    if not isinstance(value, dict):
        raise NotUnderstood("the body is signed, but is not a webhook's")
    if value.get("event") == EVENT_NAME:
        return None  # a model that was logged; whether it is registered, and as what, the registry says
    data = value.get("data")
    if not isinstance(value.get("entity"), str) or not isinstance(data, dict):
        raise NotUnderstood("the body is signed, but is not a webhook's of MLflow's registry or of kbuild trigger")
    name = data.get("name")
    return name if isinstance(name, str) and name else None
