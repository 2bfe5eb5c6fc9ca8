"""The demo: the shipped project trained, locked, built, run and asked, by the same functions as the commands."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.errors import OutputError, RecordingError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.shorthand import SHORT_ID
from kbuild.process import Runner
from kbuild.progress import Progress
from kbuild.resources import data_path
from kbuild.verify.judging import judge_image
from kbuild.verify.verdict_tag import write_verdict
from kbuild.workflow import Delivery, ImageRequest, ImageResult, Tools, build_image

IMAGE = ImageReference.parse("diabetes:demo")
REQUEST_NAME = "request.json"
# How rich frames a traceback, and what it writes at the right end of a log line.
_BOX = ("│", "╭", "╰", "┃", "┏", "┗", "|", "+-")
_MARGIN = re.compile(r"\s{2,}[\w./-]+\.py:\d+\s*$")
_ERROR = re.compile(r"((\w+\.)*\w*(Error|Exception|Interrupt|Exit)\b|[Ee]rror:)")
_LOGGED = re.compile(r"Logged model models:/(?P<model>m-[0-9a-f]+) in run (?P<run>[0-9a-f]{32})")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """What ``kbuild demo`` reports; predictions as the scoring protocol has them."""

    folder: Path
    run_id: str
    image: ImageResult
    prediction: Any
    expected: Any
    runtime: str


def copy_project(folder: Path) -> None:
    """Copy the demo project to ``folder``, which must be new, empty, or an earlier demo.

    Raises OutputError for anything else: nobody's files are written over.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _is_demo(folder))):
        raise OutputError(f"{folder} is there and is not a demo of kbuild", hint="name another folder with --dir")
    try:
        shutil.copytree(
            data_path("demo"), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )
    except (OSError, shutil.Error) as error:
        raise OutputError(f"the demo project cannot be copied to {folder}: {error}") from error


def train(folder: Path, run: Runner, progress: Progress) -> str:
    """``kedro run`` in the project; returns the MLflow run's id. Raises RecordingError when training fails.

    A request to try the served model with is left in the project as ``request.json``.
    """
    # The demo keeps everything in its folder, whatever server this shell is set to.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = run(
        [sys.executable, "-m", "kedro", "run"],
        cwd=folder,
        # Wide, so that no line of an error is broken where a terminal would end.
        env={**environment, "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore", "COLUMNS": "1000"},
        on_line=progress.note,
    )
    logged = _LOGGED.search(done.stdout) or _LOGGED.search(done.stderr)
    if done.returncode != 0 or logged is None:
        why = find_last_words(done.stderr, done.stdout)
        raise RecordingError(f"kedro run failed: {why}", hint=f"see for yourself: cd {folder}; kedro run")
    model = folder / "mlartifacts" / "models" / logged["model"] / "artifacts"
    shutil.copyfile(model / "serving_input_example.json", folder / REQUEST_NAME)
    return logged["run"]


def find_last_words(stderr: str, stdout: str) -> str:
    """The line that says what went wrong: the last that names an error, outside the box that rich draws a traceback in.

    Where none does, the last line that was said; rich's margin, which names a source file, is left off.
    """
    lines = [
        _MARGIN.sub("", line).strip() for line in (stdout + "\n" + stderr).splitlines() if not line.startswith(_BOX)
    ]
    named = [line for line in lines if _ERROR.match(line)]
    said = named or [line for line in lines if line] or ["it said nothing"]
    return said[-1]


def score(result: ImageResult, tools: Tools, progress: Progress) -> tuple[Any, Any, str]:
    """The served prediction, the recorded one and what ran the image; raises VerificationFailed if they differ.

    What ``kbuild list`` and the run tell of it is as after ``kbuild verify``.
    """

    def tell(verdict: str) -> None:
        write_verdict(result.image, verdict, tools.store)

    with tools.using_cache():
        report = judge_image(result.image, tools.run, cache=tools.cache, timeout=180, progress=progress, tell=tell)
    return report.prediction, report.expected, report.runtime


def run_demo(
    folder: Path, make_request: Callable[[str], ImageRequest], make_tools: Callable[[Path], Tools]
) -> DemoResult:
    """All of it. ``make_tools`` is asked once the project has a store."""
    tools = make_tools(folder)
    with tools.phases("project") as progress:
        progress.note(f"copying the demo project to {folder}")
        copy_project(folder)
    with tools.phases("train") as progress:
        progress.note("kedro run")
        run_id = train(folder, tools.run, progress)
        progress.made(f"run {run_id[:SHORT_ID]}, logged with its model")
    result = build_image(make_request(run_id), Delivery(tag=IMAGE.familiar), tools)
    with tools.phases("verify") as progress:
        prediction, expected, runtime = score(result, tools, progress)
        progress.made("answers as the trained model did")
    return DemoResult(
        folder=folder, run_id=run_id, image=result, prediction=prediction, expected=expected, runtime=runtime
    )


def _is_demo(folder: Path) -> bool:
    marker = Path("src", "diabetes", "pipeline_registry.py")
    return (folder / marker).is_file()
