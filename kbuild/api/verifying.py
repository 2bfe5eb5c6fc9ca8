"""Asking an image what its model was asked in training."""

from __future__ import annotations

from dataclasses import dataclass

from kbuild.answers import EXACT, Tolerance
from kbuild.api.find import found_image
from kbuild.api.session import Session, open_session
from kbuild.digest import Digest
from kbuild.errors import ConfigurationError
from kbuild.offered.given import take_either
from kbuild.offered.shown import html_table
from kbuild.platform import Platform
from kbuild.verify.before_loading import check_image
from kbuild.verify.golden import VerificationReport
from kbuild.verify.judging import judge_image
from kbuild.verify.verdict_tag import write_verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyOptions:
    """How an image is asked: ``timeout`` are the seconds to get ready, and again those to answer.

    ``rtol`` and ``atol`` are the differences that floats may have, the model's own where they are None; ``exact``
    allows none.
    """

    timeout: float = 120.0
    rtol: float | None = None
    atol: float | None = None
    exact: bool = False
    platform: Platform | None = None

    def choose(self, own: Tolerance) -> Tolerance:
        """What counts for a model that was recorded with ``own``."""
        return EXACT if self.exact else own.limited(rtol=self.rtol, atol=self.atol)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedImage:
    """An image that answered, and how. ``image`` is a name for it."""

    image: str
    digest: Digest
    report: VerificationReport

    def _repr_html_(self) -> str:
        rows = {
            "image": self.image,
            "digest": self.digest,
            "verdict": self.report.verdict
            if self.report.compared
            else "answered, with nothing recorded to compare with",
            "largest difference": self.report.largest or "none",
        }
        return html_table(rows)


@take_either
def verify(
    image: str | None = None, options: VerifyOptions | None = None, *, session: Session | None = None
) -> VerifiedImage:
    """Start an image, ask it the model's own input example, compare with the prediction of training, and stop it.

    ``image`` is what ``kbuild run`` takes, None that of the newest trained run; it is built first where it was not. The
    verdict is written to the model's run: ``passed`` by the model's own tolerance only, ``tolerated: within …`` by a
    wider one. Raises ModelNotTrusted for a model that was not recorded here and would do harm, VerificationFailed
    where the answers differ, ContainerFailed where it does not start,
    NothingToAsk for a model without an example.
    """
    asked = options or VerifyOptions()
    if asked.exact and (asked.rtol is not None or asked.atol is not None):
        raise ConfigurationError("exact allows no difference: leave out rtol and atol")
    session = session or open_session()
    tools = session.tools
    with (
        tools.using_cache(),
        found_image(image, session, asked.platform) as (built, reference),
        session.voice("verify") as progress,
    ):
        check_image(built, tools.guard, progress)
        report = judge_image(
            built,
            tools.run,
            cache=tools.cache,
            timeout=asked.timeout,
            progress=progress,
            tell=lambda verdict: tell_untagged(session, write_verdict(built, verdict, tools.store)),
            choose=asked.choose,
        )
        progress.made(
            f"answers as the trained model did, {report.tolerance}"
            if report.compared
            else "answers, compared with nothing"
        )
    return VerifiedImage(image=reference.familiar, digest=built.digest, report=report)


def tell_untagged(session: Session, untagged: str | None) -> None:
    """Say that the run does not have the verdict, and why."""
    if untagged is not None:
        session.voice.complain(f"the verdict is not written to MLflow: {untagged}", style="yellow")
