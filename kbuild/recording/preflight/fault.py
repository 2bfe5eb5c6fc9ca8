"""One thing that was found, and how several are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kbuild.errors import KbuildError, PreflightFailed


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """``about`` is what it is about, in a word; ``error`` what would be raised of it alone, with its remedy."""

    about: str
    error: KbuildError

    def __str__(self) -> str:
        text = f"{self.about}: {self.error.message}"
        return text if self.error.hint is None else f"{text}\n     {self.error.hint}"


def raise_findings(findings: Sequence[Fault]) -> None:
    """Nothing where there are none; the one error where there is one, else a PreflightFailed that lists all."""
    if len(findings) == 1:
        raise findings[0].error
    if findings:
        listed = "\n".join(f"  {number}. {each}" for number, each in enumerate(findings, 1))
        raise PreflightFailed(f"{len(findings)} things would fail this training, so it does not begin:\n{listed}")


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy for a name that is not known."""
    close = difflib.get_close_matches(name, sorted(known), n=2)
    return f"did you mean {' or '.join(map(repr, close))}?" if close else otherwise
