"""How bad an advisory is: from its CVSS vector, or in the words of its database.

Bounds of the words: CVSS v3.1 section 5, "Qualitative Severity Rating Scale".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cvss import CVSS2, CVSS3, CVSS4, CVSSError

from kbuild.audit.finding import SEVERITIES, Severity

UNKNOWN: Severity = "high"
"""What an advisory without a severity counts as: nobody has said that it may wait."""

_CALCULATORS = {"CVSS_V2": CVSS2, "CVSS_V3": CVSS3, "CVSS_V4": CVSS4}
_WORDS: dict[str, Severity] = {"moderate": "medium", "negligible": "low", **{word: word for word in SEVERITIES}}


def read_severity(record: Mapping[str, Any]) -> Severity:
    """The worst that an OSV record states, ``UNKNOWN`` where it states nothing that can be read."""
    stated = [
        *(_score(entry) for entry in _entries(record)),
        *(_word(place.get("database_specific")) for place in (record, *(record.get("affected") or ()))),
    ]
    # A distribution's urgency says how it goes about the fix: it counts where nobody says how bad the fault is.
    urgency = [_word(place.get("ecosystem_specific"), "urgency") for place in record.get("affected") or ()]
    for words in (stated, urgency):
        known = [severity for severity in words if severity is not None]
        if known:
            return max(known, key=SEVERITIES.index)
    return UNKNOWN


def _entries(record: Mapping[str, Any]) -> list[Any]:
    return [
        entry
        for place in (record, *(record.get("affected") or ()))
        for entry in place.get("severity") or ()
        if isinstance(entry, Mapping)
    ]


def _score(entry: Mapping[str, Any]) -> Severity | None:
    if entry.get("type") == "Ubuntu":
        return _WORDS.get(str(entry.get("score")).lower())
    calculator = _CALCULATORS.get(str(entry.get("type")))
    if calculator is None:
        return None
    try:
        score = float(calculator(str(entry.get("score"))).scores()[0])
    except CVSSError:
        return None
    if score >= 9:
        return "critical"
    if score >= 7:
        return "high"
    return "medium" if score >= 4 else "low"


def _word(specific: Any, key: str = "severity") -> Severity | None:
    # Debian marks what it has not looked at itself: "medium**".
    return _WORDS.get(str(specific.get(key)).lower().rstrip("*")) if isinstance(specific, Mapping) else None
