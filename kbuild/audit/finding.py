"""What a check answers: findings, and what it could not look at. Both are values; neither is ever dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["low", "medium", "high", "critical"]
SEVERITIES: tuple[Severity, ...] = ("low", "medium", "high", "critical")

UNCHECKED_ID = "unchecked"
"""The id by which an ignore accepts that a package cannot be checked."""
UNFIXED_ID = "unfixed"
"""The id by which an ignore accepts what the distribution of the base has published no fix for."""

_KINDS = """
base-unsigned
code-bytecode code-kbuild code-name
drift-base drift-files drift-image drift-interpreter drift-lock drift-missing drift-model drift-not-locked
drift-not-trained drift-trained drift-unowned
image-annotation image-base image-bytecode image-config image-device image-diff-id image-digest image-entrypoint
image-env image-hard-link image-healthcheck image-label image-layer image-layer-added image-layer-missing
image-manifest image-over image-platform image-port image-setuid image-startup image-through-link image-user
image-whiteout image-world-writable
index-hash
licence secret yanked
lock-built lock-conflict lock-credentials lock-edited lock-extra lock-gap lock-no-sha256 lock-no-url lock-origin
lock-other-file lock-path lock-plain-http lock-platform lock-sdist lock-stale lock-twice lock-url lock-vcs
model-code model-code-outside model-credentials model-loader model-remote-code
pickle-code pickle-dangerous pickle-unknown
"""
KINDS = frozenset(_KINDS.split())
"""All ids of findings that are no advisory's."""


def is_at_least(severity: Severity, threshold: Severity) -> bool:
    """Whether ``severity`` is as bad as ``threshold`` or worse."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(threshold)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something wrong.

    ``id`` names the kind (``lock-edited``) or the advisory (``PYSEC-2024-1``), ``aliases`` its other names. ``where``
    is a package (``pip:jinja2``, ``deb:glibc``) or a file of the model. ``evidence`` is what was seen, ``remedy`` what
    to do. ``unfixed`` tells that the distribution of the base has published no fix.
    """

    id: str
    check: str
    severity: Severity
    where: str
    version: str | None = None
    evidence: str
    remedy: str
    aliases: tuple[str, ...] = ()
    unfixed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Unchecked:
    """Something that could not be looked at, and so is not known to be good."""

    check: str
    where: str
    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a check got its knowledge. ``date`` is the day of the newest entry, for what is not asked live.

    ``fault`` tells that it did not answer as it should, even where others made up for it.
    """

    name: str
    date: str | None = None
    records: int | None = None
    fault: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """The answer of one check; ``looked_at`` counts what it checked (packages or files).

    ``notes`` are lines on what was seen and counts neither as a finding nor as unchecked. ``imports`` are the packages
    that loading the pickles would import.
    """

    check: str
    findings: tuple[Finding, ...] = ()
    unchecked: tuple[Unchecked, ...] = ()
    sources: tuple[Source, ...] = ()
    looked_at: int = 0
    notes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
