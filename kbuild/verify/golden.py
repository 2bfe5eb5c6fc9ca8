"""Golden predictions: the image answers the stored input example as the model did when it was trained."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kbuild.answers import DEFAULT, Comparison, Difference, Tolerance, compare
from kbuild.errors import NothingToAsk, VerificationFailed
from kbuild.image.run.running import RunningImage
from kbuild.verify.scoring import post_invocations

_NOT_TOLERATED = (
    "no tolerance covers texts, whole numbers, types or what is missing: see which clock, chance, file or variable "
    "the model's code asks"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationReport:
    """What was asked and answered; ``expected`` is None where the model recorded no prediction.

    ``largest`` is the largest difference between two floats, None where all are equal or nothing was compared.
    ``fault`` is the first difference that ``tolerance`` does not allow; ``own`` is the tolerance that the model was
    recorded with, ``kept`` says whether the answer keeps that.
    """

    url: str
    runtime: str
    prediction: Any
    expected: Any
    compared: bool
    largest: Difference | None
    tolerance: Tolerance
    own: Tolerance = DEFAULT
    fault: Difference | None = None
    kept: bool = True

    @property
    def verdict(self) -> str:
        """What is remembered, by the model's own tolerance: nobody passes by allowing more.

        ``passed``, ``answered`` where there was nothing to compare with, ``failed``, or ``tolerated: within …`` where
        only the wider tolerance that somebody asked with allows it.
        """
        if not self.compared:
            return "answered"
        if self.kept:
            return "passed"
        return "failed" if self.fault else f"tolerated: {self.tolerance}"

    def check(self) -> None:
        """Raises VerificationFailed for an answer that is not the recorded one, by the tolerance that was asked for."""
        if self.fault is None:
            return
        values = (self.fault.expected, self.fault.got)
        if all(isinstance(each, float) and math.isfinite(each) for each in values):
            hint = "kbuild verify --rtol and --atol allow more, where that is the model's own noise"
        else:
            hint = _NOT_TOLERATED
        raise VerificationFailed(
            f"the image does not predict what the trained model did ({self.tolerance}): {self.fault}",
            hint=f"the model's own tolerance is {self.own}, and that it keeps" if self.kept else hint,
        )


def verify_predictions(
    running: RunningImage,
    *,
    model_path: str,
    example: str | None,
    prediction: str | None,
    tolerance: Tolerance,
    own: Tolerance,
    timeout: float,
) -> VerificationReport:
    """Post the input example and compare the answer with the recorded prediction, value by value.

    ``example`` and ``prediction`` are file names below ``model_path``. Raises VerificationFailed when the answer is
    an error, NothingToAsk when the model has no input example to ask with.
    """
    question = None if example is None else running.read_file(f"{model_path}/{example}")
    if question is None:
        raise NothingToAsk(
            "the model stores no input example, so there is nothing to ask it",
            hint="log it with input_example=…; kbuild's hook does",
        )
    recorded = None if prediction is None else running.read_file(f"{model_path}/{prediction}")
    answer = post_invocations(running.url, question, timeout=timeout)
    if answer.status != 200:
        text = " ".join(answer.body.decode(errors="replace").split())[:500]
        raised = _raised(running.logs())
        if raised is not None:
            text = f"{text}; in the image: {raised[:300]}"
        raise VerificationFailed(f"/invocations answered {answer.status} to the model's input example: {text}")
    got = json.loads(answer.body)
    expected = None if recorded is None else json.loads(recorded)
    compared = Comparison() if recorded is None else compare(expected, got, tolerance)
    return VerificationReport(
        url=running.url,
        runtime=running.describe(),
        prediction=got,
        expected=expected,
        compared=recorded is not None,
        largest=compared.largest,
        tolerance=tolerance,
        own=own,
        fault=compared.fault,
        kept=recorded is None or compare(expected, got, own).same,
    )


def _raised(log: str) -> str | None:
    """The last error that the image's server wrote down, which its answer keeps from who asks; None without one."""
    for line in reversed(log.splitlines()):
        with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError):
            return str(json.loads(line)["traceback"].rstrip().splitlines()[-1])
    return None
