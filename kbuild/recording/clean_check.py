"""The clean-process check: a saved model is loaded and asked where only its own files and packages are found."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kbuild.errors import RecordingError
from kbuild.process import run

SERVING_REQUEST = "serving_input_example.json"
RECORDED_PREDICTION = "recorded_prediction.json"

_SCRIPT = Path(__file__).with_name("_clean_process.py")
# What would make the process find more than the image has, or log to somebody's server.
_HIDDEN_VARIABLES = ("PYTHON", "MLFLOW_", "KEDRO_", "VIRTUAL_ENV")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the clean process said: the response's text (None without an example), or why there is none."""

    response: str | None = None
    error: str | None = None
    missing: str | None = None


def ask_in_clean_process(
    model: Path, *, blocked: Iterable[str], shipped: Iterable[str], timeout: float, python: str = sys.executable
) -> Answer:
    """Load a saved model in a new isolated interpreter, in an empty folder, and post it its stored example.

    ``blocked`` are installed modules that the image would not have; ``shipped`` must come from the model's code.
    Raises RecordingError when the process does not end in ``timeout`` seconds or dies without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="kbuild-check-") as folder:
        empty = Path(folder, "empty")
        empty.mkdir()
        answer = Path(folder, "answer.json")
        task = {
            "model": str(model),
            "request": SERVING_REQUEST if (model / SERVING_REQUEST).is_file() else None,
            "blocked": sorted(blocked),
            "shipped": sorted({"kbuild", *shipped}),
            "answer": str(answer),
        }
        job = Path(folder, "task.json")
        job.write_text(json.dumps(task), encoding="utf-8")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN_VARIABLES)}
        variables |= {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONDONTWRITEBYTECODE": "1"}
        # A store in the empty folder, in case something in MLflow asks for one.
        variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{empty}/unused.db"
        try:
            done = run([python, "-I", str(_SCRIPT), str(job)], cwd=empty, env=variables, timeout=timeout)
        except TimeoutError as error:
            raise RecordingError(
                f"the model was not loaded in a clean process within {timeout:g} seconds",
                hint="raise check_timeout in pyproject.toml, [tool.kbuild.training]",
            ) from error
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise RecordingError(f"the clean process that loads the model died with status {done.returncode}: {last}")
        said = json.loads(answer.read_text(encoding="utf-8"))
    return Answer(response=said.get("response"), error=said.get("error"), missing=said.get("missing"))
