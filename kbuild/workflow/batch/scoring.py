"""Tables scored by a model's archive: with its own Python, whatever Python asks."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kbuild.errors
import kbuild.scoring.errors
from kbuild.errors import KbuildError, UnexpectedError
from kbuild.image.engines.archive import SCORE
from kbuild.process import last_line
from kbuild.progress import Progress, how_many
from kbuild.scoring.errors import WorkerLost
from kbuild.workflow.batch.packing import unpacked_model
from kbuild.workflow.prepare import ImageRequest
from kbuild.workflow.tools import Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """What is scored, and how: ``kbuild score`` says what each means. None is the scorer's own default."""

    input: str
    output: str
    workers: int | None = None
    on_error: str = "fail"
    keep: str = "all"
    format: str | None = None
    params: str | None = None
    overwrite: bool = False
    part_rows: int | None = None
    batch_rows: int | None = None

    def argv(self) -> list[str]:
        """As the archive's scorer takes it; a path that begins with a dash is a path."""
        named = {
            "workers": self.workers,
            "on-error": self.on_error,
            "keep": self.keep,
            "format": self.format,
            "params": self.params,
            "part-rows": self.part_rows,
            "batch-rows": self.batch_rows,
        }
        options = [f"--{name}={value}" for name, value in named.items() if value is not None]
        return [*options, *(["--overwrite"] if self.overwrite else []), "--", self.input, self.output]


def score_tables(request: ImageRequest, batch: ScoreRequest, tools: Tools) -> dict[str, Any]:
    """Score the batch on this machine; returns its manifest.

    Raises what packing the model raises, InputRefused, RowsFailed, OtherAnswers and WorkerLost.
    """
    with unpacked_model(request, tools) as model, model.tools.phases("score") as progress:
        manifest = ask_scorer(model.folder, batch.argv(), model.tools, progress)
        failed = f", {manifest['failed']:,} without an answer" if manifest["failed"] else ""
        progress.made(f"{how_many(manifest['rows'], 'row')} in {told_parts(manifest)}{failed}")
        return manifest


def told_parts(manifest: Mapping[str, Any]) -> str:
    """``1 part`` or ``24 parts``."""
    number = len(manifest["parts"])
    return f"{number:,} part{'' if number == 1 else 's'}"


def ask_scorer(folder: Path, argv: Sequence[str], tools: Tools, progress: Progress) -> dict[str, Any]:
    """What the archive's scorer prints; raises what it says went wrong, as the class of its exit code."""
    said: list[KbuildError] = []

    def hear(line: str) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            progress.note(line[:200])
            return
        if isinstance(told, dict) and "error" in told:
            said.append(make_error(*told["error"]))
        elif isinstance(told, dict) and "rows" in told:
            left = "" if told["left"] is None else f", {told['left']:.0f} s left"
            if told["rate"]:  # none is known of what the first report says is done
                progress.note(f"{told['rate']:,.0f} rows/s{left}")
            progress.count(told["rows"], told["total"], "rows")

    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    progress.note("loading the model")
    done = tools.run([str(folder / SCORE), "--progress=json", *argv], env=environ, on_line=hear)
    if said:
        raise said[0]
    if done.returncode < 0:
        raise WorkerLost(
            f"the scorer was ended by signal {-done.returncode}", hint="the same command goes on where it was stopped"
        )
    if done.returncode:
        raise UnexpectedError(f"the scorer failed: {last_line(done.stderr, 'it said nothing')}")
    answer: dict[str, Any] = json.loads(last_line(done.stdout))
    return answer


def make_error(code: int, message: str, hint: str | None) -> KbuildError:
    """The error that another process told of, as the class of its exit code."""
    for module in (kbuild.scoring.errors, kbuild.errors):
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, KbuildError) and vars(kind).get("exit_code") == code:
                return kind(message, hint=hint)
    return UnexpectedError(message)
