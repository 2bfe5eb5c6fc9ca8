"""Verifying an image: started, asked, compared, stopped."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from kbuild.answers import DEFAULT, Tolerance
from kbuild.errors import InvalidImage
from kbuild.image.engine import BuiltImage
from kbuild.image.run.running import RunningImage
from kbuild.image.run.start import start_image
from kbuild.plan.make import MODEL_PATH
from kbuild.process import Runner, start
from kbuild.progress import Progress
from kbuild.verify.golden import VerificationReport, verify_predictions
from kbuild.verify.scoring import wait_until_ready


def verify_image(
    image: BuiltImage,
    run: Runner,
    *,
    cache: Path,
    timeout: float,
    progress: Progress,
    tolerance: Tolerance = DEFAULT,
) -> VerificationReport:
    """Start the image on a free port, compare its answer to the model's input example, and stop it.

    Raises ContainerFailed or VerificationFailed; the image is stopped either way.
    """
    with tempfile.TemporaryDirectory(prefix="kbuild-verify-") as folder:
        running = start_image(
            image,
            port=None,
            environment={},
            cache=cache,
            log=Path(folder) / "log",
            run=run,
            start=start,
            progress=progress,
        )
        try:
            wait_until_ready(running, timeout=timeout, progress=progress)
            example, prediction = _recorded_files(running)
            return verify_predictions(
                running, model_path=MODEL_PATH, example=example, prediction=prediction, tolerance=tolerance
            )
        finally:
            running.stop()


def read_example(running: RunningImage) -> bytes | None:
    """The body of a request that the model answers: its serving input example, None where it was logged without one."""
    example, _ = _recorded_files(running)
    return None if example is None else running.read_file(f"{MODEL_PATH}/{example}")


def _recorded_files(running: RunningImage) -> tuple[str | None, str | None]:
    """The names of the serving input example and of the recorded prediction, by the MLmodel in the image."""
    content = running.read_file(f"{MODEL_PATH}/MLmodel")
    if content is None:
        raise InvalidImage(f"the image has no model at {MODEL_PATH}", hint="was it built by kbuild?")
    mlmodel = yaml.safe_load(content)
    example = (mlmodel.get("saved_input_example_info") or {}).get("serving_input_path")
    record = (mlmodel.get("metadata") or {}).get("kbuild") or {}
    return example, record.get("prediction")
