"""Golden predictions: the image answers the stored input example as the model did when it was trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kbuild.errors import VerificationFailed
from kbuild.image.running import RunningImage
from kbuild.verify.scoring import post_invocations


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationReport:
    """What was asked and answered; ``expected`` is None where the model recorded no prediction."""

    url: str
    runtime: str
    prediction: Any
    expected: Any
    compared: bool


def verify_predictions(
    running: RunningImage, *, model_path: str, example: str | None, prediction: str | None
) -> VerificationReport:
    """Post the input example and compare the answer with the recorded prediction, value by value, floats exactly.

    ``example`` and ``prediction`` are file names below ``model_path``. Raises VerificationFailed when the answer is
    an error or differs, or when the model has no input example to ask with.
    """
    question = None if example is None else running.read_file(f"{model_path}/{example}")
    if question is None:
        raise VerificationFailed(
            "the model stores no input example, so there is nothing to ask it",
            hint="log it with input_example=…; kbuild's hook does",
        )
    recorded = None if prediction is None else running.read_file(f"{model_path}/{prediction}")
    answer = post_invocations(running.url, question)
    if answer.status != 200:
        text = " ".join(answer.body.decode(errors="replace").split())
        raise VerificationFailed(f"/invocations answered {answer.status} to the model's input example: {text[:500]}")
    got = json.loads(answer.body)
    expected = None if recorded is None else json.loads(recorded)
    if recorded is not None and got != expected:
        raise VerificationFailed(
            f"the image does not predict what the trained model did: {first_difference(expected, got)}"
        )
    return VerificationReport(
        url=running.url, runtime=running.describe(), prediction=got, expected=expected, compared=recorded is not None
    )


def first_difference(expected: Any, got: Any, where: str = "") -> str:
    """Where two JSON values differ first: ``predictions[0].value: expected 1.0, got 2.0``."""
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        for key in expected:
            if expected[key] != got[key]:
                return first_difference(expected[key], got[key], f"{where}.{key}" if where else str(key))
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, (one, other) in enumerate(zip(expected, got, strict=True)):
            if one != other:
                return first_difference(one, other, f"{where}[{index}]")
    return f"{where or 'the answer'}: expected {_short(expected)}, got {_short(got)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"
