"""Verifying an image: started, asked, compared, stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from kbuild.answers import Tolerance
from kbuild.errors import InvalidImage
from kbuild.image.engine import BuiltImage
from kbuild.image.run.running import RunningImage
from kbuild.image.run.start import start_image
from kbuild.plan.make import MODEL_PATH
from kbuild.process import Runner
from kbuild.progress import Progress, telling
from kbuild.untrusted import BrokenText, parse_yaml
from kbuild.verify.golden import VerificationReport, verify_predictions
from kbuild.verify.scoring import wait_until_ready

STOPPING = "stopping it, and removing its files"
"""What is done with an image that ran, which takes some seconds on a busy disk."""


def verify_image(
    image: BuiltImage,
    run: Runner,
    *,
    cache: Path,
    timeout: float,
    progress: Progress,
    option: str = "--timeout",
    choose: Callable[[Tolerance], Tolerance] = lambda own: own,
) -> VerificationReport:
    """Start the image on a free port, compare its answer to the model's input example, and stop it.

    ``timeout`` are the seconds to get ready, and again those to answer; ``option`` is what sets them, for hints.
    ``choose`` is given the tolerance that the model was recorded with, and says which one counts. Raises
    ContainerFailed, and VerificationFailed for an answer that is an error; the image is stopped either way.
    """
    with tempfile.TemporaryDirectory(prefix="kbuild-verify-") as folder:
        running = start_image(
            image,
            port=None,
            cache=cache,
            log=Path(folder) / "log",
            run=run,
            progress=progress,
        )
        try:
            wait_until_ready(running, timeout=timeout, progress=progress, option=option)
            example, prediction, own = _recorded(running)
            return verify_predictions(
                running,
                model_path=MODEL_PATH,
                example=example,
                prediction=prediction,
                tolerance=choose(own),
                own=own,
                timeout=timeout,
            )
        finally:
            with telling(progress, STOPPING):
                running.stop()


def read_example(running: RunningImage) -> bytes | None:
    """The body of a request that the model answers: its serving input example, None where it was logged without one."""
    example, *_ = _recorded(running)
    return None if example is None else running.read_file(f"{MODEL_PATH}/{example}")


def _recorded(running: RunningImage) -> tuple[str | None, str | None, Tolerance]:
    """The names of the serving input example and of the recorded prediction, and how near an answer has to be to it, by
    the MLmodel in the image."""
    content = running.read_file(f"{MODEL_PATH}/MLmodel")
    if content is None:
        raise InvalidImage(f"the image has no model at {MODEL_PATH}", hint="was it built by kbuild?")
    try:
        mlmodel = parse_yaml(content)
        example = (mlmodel.get("saved_input_example_info") or {}).get("serving_input_path")
        record = (mlmodel.get("metadata") or {}).get("kbuild") or {}
        prediction, tolerance = record.get("prediction"), record.get("tolerance")
    except (BrokenText, AttributeError) as error:
        reason = error if isinstance(error, BrokenText) else "it is not a mapping, or holds none where one has to be"
        raise InvalidImage(f"{MODEL_PATH}/MLmodel of the image cannot be read: {reason}") from error
    try:
        return example, prediction, Tolerance.from_json(tolerance)
    except ValueError as error:
        raise InvalidImage(f"the tolerance in {MODEL_PATH}/MLmodel cannot be read: {error}") from error
