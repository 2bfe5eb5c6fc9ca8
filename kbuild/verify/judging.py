"""The verdict on an image: worked out and remembered in one place, whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kbuild.answers import Tolerance
from kbuild.errors import ContainerFailed, NothingToAsk, VerificationFailed
from kbuild.image.engine import BuiltImage
from kbuild.image.store.verdicts import Verdicts
from kbuild.process import Runner
from kbuild.progress import Progress
from kbuild.verify.golden import VerificationReport
from kbuild.verify.verify_image import verify_image

NOTHING = "nothing to ask"
"""Remembered of an image whose model has no input example; its run is told nothing."""


def judge_image(
    image: BuiltImage,
    run: Runner,
    *,
    cache: Path,
    timeout: float,
    progress: Progress,
    tell: Callable[[str], None],
    option: str = "--timeout",
    choose: Callable[[Tolerance], Tolerance] = lambda own: own,
) -> VerificationReport:
    """Verify an image, remember the verdict on this machine and ``tell`` it; the report's answer is the recorded one.

    ``choose`` is as ``verify_image`` has it: it decides what is raised, and only a wider tolerance than the model's
    own is a verdict of its own (``VerificationReport.verdict``). Raises VerificationFailed or ContainerFailed for an
    image that does not do what its model did, NothingToAsk for a model without an example.
    """
    verdicts = Verdicts(cache / "images")

    def remember(verdict: str) -> None:
        verdicts.write(image.digest, verdict)
        tell(verdict)

    try:
        report = verify_image(image, run, cache=cache, timeout=timeout, progress=progress, option=option, choose=choose)
    except NothingToAsk:
        verdicts.write(image.digest, NOTHING)
        raise
    except (VerificationFailed, ContainerFailed):
        remember("failed")
        raise
    remember(report.verdict)
    report.check()
    return report
