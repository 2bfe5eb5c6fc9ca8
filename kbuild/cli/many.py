"""The part of ``kbuild image`` that takes many models: which ones, what is shown, what is told at the end."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from kbuild.cache.limit import parse_size
from kbuild.cli.show import Show, amount
from kbuild.errors import (
    AmbiguousModel,
    ConfigurationError,
    InvalidReference,
    ModelNotFound,
    OutputError,
    RunWithoutModel,
    SomeFailed,
)
from kbuild.model.model_reference import FORMS, ModelReference
from kbuild.progress import Progress, how_many
from kbuild.untrusted import LARGEST, BrokenText, read_text, why
from kbuild.workflow import Delivery, ImageRequest, ImageResult, Outcome, Phases, Tools, build_many, has_placeholder
from kbuild.workflow.fleet.report import make_entry, status_of

REPORT_FORMAT = 1
_MOST_FAULTS = 20
# At the start or after a blank: a folder's name may hold the sign.
_COMMENT = re.compile(r"(^|\s)#.*")
_ToJson = Callable[[ImageResult, dict[str, float]], dict[str, Any]]


def read_references(source: str, named: Callable[[str], str] | None = None) -> dict[str, int | None]:
    """The references of a file, or of stdin for ``-``: one a line; blank lines and comments are left out.

    ``named`` tells the reference of what is none but may be a run's name, @latest or the beginning of an id; it raises
    as ``take_model`` does. After a tab a line may say how large its model is, in bytes or as ``1.5 GB``. Raises
    InvalidReference that names every line that is none, and ConfigurationError for what cannot be read.
    """
    try:
        text = sys.stdin.read(LARGEST + 1) if source == "-" else read_text(Path(source))
        if len(text) > LARGEST:
            raise BrokenText(f"it has more than {LARGEST >> 20} MiB")
    except (OSError, BrokenText, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else why(error)
        raise ConfigurationError(f"cannot read {source}: {reason}", hint="--from-file - reads from a pipe") from error
    found: dict[str, int | None] = {}
    bad: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stated, _, size = (part.strip() for part in _COMMENT.sub("", line).strip().partition("\t"))
        if not stated:
            continue
        try:
            model = _reference(stated, named)
            found[model] = parse_size(size) if size else found.get(model)
        except (InvalidReference, ConfigurationError, ModelNotFound, AmbiguousModel, RunWithoutModel) as error:
            bad.append(f"line {number}: {error.message}")
            if len(bad) > _MOST_FAULTS:
                break  # what is no list of models has as many faults as lines
    if bad:
        many = f"more than {_MOST_FAULTS} lines" if len(bad) > _MOST_FAULTS else how_many(len(bad), "line")
        shown = "; ".join(bad[:_MOST_FAULTS])
        names = "names" if len(bad) == 1 else "name"
        raise InvalidReference(f"{source} has {many} that {names} no model: {shown}", hint=FORMS)
    return found


def _reference(stated: str, named: Callable[[str], str] | None) -> str:
    try:
        ModelReference.parse(stated)
    except InvalidReference:
        if named is None:
            raise
        return named(stated)
    return stated


def check_delivery(models: Sequence[str], delivery: Delivery) -> None:
    """Refuse what only one model can have; raises click's UsageError."""
    if delivery.output is not None:
        raise click.UsageError("--output is of one model; --push takes many")
    for option, text in (("--tag", delivery.tag), ("--push", delivery.push)):
        if text is not None and len(models) > 1 and not has_placeholder(text):
            raise click.UsageError(
                f"{option} {text} would be the name of {len(models)} images: write {{name}}, {{version}}, {{run_id}} "
                "or {model_id} in it"
            )


def image_many(
    requests: Sequence[ImageRequest],
    delivery: Delivery,
    tools: Tools,
    show: Show,
    *,
    jobs: int,
    builders: Sequence[str],
    reuse: bool,
    report: Path | None,
    to_json: _ToJson | None,
    shared: Mapping[str, Any] | None = None,
) -> None:
    """Build all, print a line for each that is done, write the report; raises SomeFailed when any failed.

    ``shared`` is what the report says of the share that these are.
    """
    models = [request.model for request in requests]
    done: dict[str, Outcome] = {}
    watcher = Lines(show, len(models))
    try:
        outcomes = build_many(requests, delivery, tools, watcher=watcher, jobs=jobs, builders=builders, reuse=reuse)
        with closing(outcomes):
            for outcome in outcomes:
                done[outcome.model] = outcome
                if outcome.result is not None:
                    click.echo(_line(outcome, outcome.result, to_json))
    finally:
        told = [done.get(model, Outcome(model=model)) for model in models]
        if report is not None:
            write_report([make_entry(outcome) for outcome in told], report, shared or {})
    failed = {outcome.model: outcome.error for outcome in told if outcome.error is not None}
    for reason, untagged in _told_why(told, lambda result: result.untagged).items():
        show.complain(f"not tagged with their images: {', '.join(untagged)}: {reason}", style="yellow")
    for reason, unverified in _told_why(
        told, lambda result: result.verified.reason if result.verified else None
    ).items():
        show.complain(f"not verified: {', '.join(unverified)}: {reason}", style="yellow")
    for model, error in failed.items():
        show.complain(f"{model}: {error.message.removeprefix(model + ': ')}")
    if failed:
        built = len(told) - len(failed)
        raise SomeFailed(
            f"{len(failed)} of {how_many(len(told), 'model')} have no image",
            hint=f"the other {built} have; run it again when that is mended: what is built is not built again"
            if built
            else None,
        )


def _told_why(outcomes: Iterable[Outcome], why: Callable[[ImageResult], str | None]) -> dict[str, list[str]]:
    """The models of whose images something was not done, by the reason."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        reason = None if outcome.result is None else why(outcome.result)
        if reason is not None:
            found.setdefault(reason, []).append(outcome.model)
    return found


def _line(outcome: Outcome, result: ImageResult, to_json: _ToJson | None) -> str:
    if to_json is None:
        return f"{outcome.model}\t{result.reference}"
    return json.dumps({"model": outcome.model, **to_json(result, {"all": round(outcome.seconds, 3)})})


def write_report(entries: Sequence[Mapping[str, Any]], path: Path, shared: Mapping[str, Any]) -> None:
    """Write what became of each; raises OutputError."""
    value = {"format": REPORT_FORMAT, **shared, "models": list(entries)}
    try:
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


class Lines:
    """A line on stderr for each model that is done; what takes long tells its phase now and then.

    A ``Watcher``; ``total`` None where nobody knows how many there will be.
    """

    _SILENCE = 10.0

    def __init__(self, show: Show, total: int | None = None) -> None:
        self._show, self._total = show, total
        self._lock = threading.Lock()
        self._done = 0
        self._spoke = time.monotonic()
        self._told: set[str] = set()

    def begin(self, model: str) -> Phases:
        return _ModelPhases(self, model)

    def end(self, outcome: Outcome) -> None:
        text = status_of(outcome)
        if outcome.result is not None:
            text += f" {outcome.result.reference}"
        if outcome.error is not None:
            text += f": {outcome.error.message}"
        with self._lock:
            self._done += 1
            self._spoke = time.monotonic()
            count = f"{self._done}/{self._total}" if self._total is not None else self._done
            self._show.say(f"[{count}] {outcome.model} {text} ({outcome.seconds:.1f} s)")
            for each in () if outcome.result is None else outcome.result.yanked:
                if each not in self._told:
                    self._told.add(each)
                    self._show.say(each, style="yellow")

    def say(self, model: str, phase: str, text: str) -> None:
        """Say what has to be known, once: many models share an environment."""
        with self._lock:
            if text not in self._told:
                self._told.add(text)
                self._spoke = time.monotonic()
                self._show.say(f"{model} {phase}: {text}")

    def tell(self, model: str, phase: str, text: str) -> None:
        """Say what is being done where nothing was said for a while."""
        with self._lock:
            if time.monotonic() - self._spoke >= self._SILENCE:
                self._spoke = time.monotonic()
                self._show.say(f"{model} {phase}: {text}")


class _ModelPhases:
    def __init__(self, watcher: Lines, model: str) -> None:
        self._watcher, self._model = watcher, model

    @contextmanager
    def __call__(self, phase: str) -> Iterator[Progress]:
        yield _ModelProgress(self._watcher, self._model, phase)


class _ModelProgress:
    def __init__(self, watcher: Lines, model: str, phase: str) -> None:
        self._watcher, self._model, self._phase = watcher, model, phase
        self._note = ""

    def note(self, text: str) -> None:
        self._note = text
        self._watcher.tell(self._model, self._phase, text)

    def tell(self, text: str) -> None:
        self._watcher.say(self._model, self._phase, text)

    def made(self, text: str) -> None:
        """The model's own line tells what came of it."""

    def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
        self._watcher.tell(self._model, self._phase, f"{self._note} {amount(done, total, unit)}".strip())
