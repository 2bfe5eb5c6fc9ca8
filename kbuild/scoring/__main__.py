"""``bin/kbuild-score`` of an archive: score the tables of IN into OUT with the archive's own model."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from kbuild.errors import KbuildError
from kbuild.scoring.shared import serve_shared
from kbuild.serving.process.cpus import count_cpus, limit_pools
from kbuild.serving.process.forks import find_lost_threads

_records: TextIO | None = None
"""Where it is told if not on stdout."""


def main(argv: list[str], *, own_stdout: bool = False) -> int:
    """Returns the exit code; the manifest is printed as one line of JSON, everything else goes to stderr.

    ``own_stdout`` is for a process of its own: nothing but this is on its stdout, whatever the model prints.
    """
    asked = _parser().parse_args(argv)
    # What scores side by side are processes; call it before numpy is imported.
    limit_pools(os.environ)
    _have_home()
    if asked.pipe:
        return serve_shared(_load, partial(_serve, own_stdout=own_stdout))
    if asked.input is None or asked.output is None:
        _parser().error("IN and OUT are needed")
    if own_stdout:
        _keep_stdout()
    return _tell_errors(partial(_score, asked), out=asked.output, as_json=asked.progress == "json")


def _have_home() -> None:
    """Libraries ask for a home as they are imported, even for a row: a user that is only a number has none."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/tmp"  # noqa: S108  as an image has it


def _tell_errors(work: Callable[[], int], *, out: str | None = None, as_json: bool = False) -> int:
    try:
        return work()
    except KbuildError as error:
        return _tell_error(error, as_json=as_json)
    except OSError as error:
        where = error.filename or out
        # Arrow's has no number and no file: "Error writing bytes to file. Detail: [errno 28] No space left on device".
        reason = error.strerror or re.sub(r"(?i)^.*\[errno \d+\] ", "", str(error))
        told = KbuildError(f"{reason} ({where})" if where else reason)
        told.exit_code = 42  # what cannot be written has this code everywhere
        return _tell_error(told, as_json=as_json)


def _parser() -> argparse.ArgumentParser:
    from kbuild.scoring.settings import add_options

    parser = argparse.ArgumentParser(prog="kbuild-score", description=(__doc__ or "").replace("`", ""))
    parser.add_argument(
        "input",
        metavar="IN",
        nargs="?",
        help="a Parquet or CSV file, a folder, a pattern, a url, a Delta or Iceberg table",
    )
    parser.add_argument("output", metavar="OUT", nargs="?", help="a folder, or a file that ends with .parquet or .csv")
    add_options(parser)
    return parser


def _score(asked: argparse.Namespace) -> int:
    from kbuild.scoring import job as jobs
    from kbuild.scoring.ask import Model
    from kbuild.scoring.local import check_types, one_order, score_here
    from kbuild.scoring.parts import columns_of, find_sources, split
    from kbuild.scoring.settings import facts, model_folder, parse_keep, parse_params
    from kbuild.scoring.target import ScoreOutput

    target = ScoreOutput.of(asked.output)
    out = target.out
    sources = find_sources(asked.input, dict if asked.overwrite else target.unfinished_input)
    kind = target.kind(asked.format, sources)
    target.refuse_input(asked.input, sources, kind)
    params = parse_params(asked.params)
    model = Model(model_folder(), params)
    names = [columns_of(source) for source in sources]
    keep = parse_keep(asked.keep)
    if target.single is not None and len(sources) > 1:
        # One file has one order of columns, whatever that of each table is.
        keep = one_order(sources, names) if keep is None else keep
    job = jobs.Job(
        facts=facts(),
        content=jobs.content_of(sources),
        on_error=asked.on_error,
        keep=keep,
        kind=kind,
        params=params,
        part_rows=asked.part_rows,
        batch_rows=asked.batch_rows,
    )
    known = target.manifest(job.digest)
    if known is not None:
        print("nothing has changed since this was scored", file=sys.stderr)
        target.tidy()
        _tell(known)
        return 0
    parts = split(sources, asked.part_rows)
    for source, theirs in zip(sources, names, strict=True):
        model.check_columns(theirs, source.shown)
        job.kept(theirs)
    if target.single is not None and len(sources) > 1 and kind == "parquet":
        check_types(sources, job.kept(names[0]))
    rows_alone = model.check_rows_alone()
    if asked.only != "finish":
        target.clear(job.digest, overwrite=asked.overwrite)
    jobs.begin(job, parts, out)
    todo = jobs.unfinished(job, parts, out)
    if asked.only == "plan":
        out.remove(jobs.FAILED)
        _tell({"job": job.to_json([]), "out": out.text, "todo": [each.to_json() for each in todo]})
        return 0
    if asked.only is None and todo:
        workers = _count_processes(min(asked.workers or count_cpus(), len(todo)))
        score_here(model, job, parts, todo, out, workers, _Progress(asked.progress))
    manifest = target.complete(job, parts, jobs.finish(job, parts, out, rows_alone))
    _tell(manifest)
    return 0


def _count_processes(wanted: int) -> int:
    """How many score side by side, once the model is loaded; said where fewer than ``wanted``."""
    lost = find_lost_threads() if wanted > 1 else None
    if lost is None:
        return wanted
    print(f"one process in place of {wanted}: no fork has the threads: {lost}", file=sys.stderr, flush=True)
    return 1


def _load() -> Any:
    """The model, None where it does not load: whoever asks it then is told why."""
    from kbuild.scoring.ask import Model
    from kbuild.scoring.settings import model_folder

    try:
        return Model(model_folder())
    except KbuildError:
        return None


def _serve(model: Any, *, own_stdout: bool) -> int:
    if own_stdout:
        _keep_stdout()
    return _tell_errors(partial(_pipe, model))


def _pipe(loaded: Any) -> int:
    """Score the parts that come as lines of JSON; answers a line each with what was recorded of it."""
    from kbuild.scoring.ask import Model
    from kbuild.scoring.job import FAILED, Job
    from kbuild.scoring.parts import Part
    from kbuild.scoring.places import Place
    from kbuild.scoring.score import score_part
    from kbuild.scoring.settings import model_folder

    model = None
    for line in sys.stdin:
        asked = json.loads(line)
        job, _ = Job.from_json(asked["job"])
        out = Place(asked["out"])
        if out.exists(FAILED):
            _tell({"left out": asked["part"]["number"]})
            continue
        try:
            model = model or (loaded or Model(model_folder())).asked_with(job.params)
            record = score_part(model, job, Part.from_json(asked["part"]), out, lambda rows: None)
        except KbuildError as error:
            # A value, so that the engine does not try again what would fail again; the other parts are left out.
            record = {"error": [error.exit_code, error.message, error.hint]}
            out.write(FAILED, json.dumps(record).encode())
        _tell(record)
    return 0


class _Progress:
    """A line on stderr now and then: rows, rows a second, time left."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._begin = time.monotonic()
        self._first: int | None = None
        self._told: tuple[int, int | None] | None = None

    def __call__(self, done: int, total: int | None) -> None:
        if self._told == (done, total):
            return
        self._told = done, total
        took = time.monotonic() - self._begin
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / took if took > 0 else 0.0
        left = None if not total or not rate else (total - done) / rate
        if self._how == "json":
            print(json.dumps({"rows": done, "total": total, "rate": rate, "left": left}), file=sys.stderr, flush=True)
        elif self._how == "plain":
            fast = f", {rate:,.0f} rows/s" if rate else ""  # none is known of what the first report says is done
            ahead = "" if left is None else f", {left:.0f} s left"
            print(f"{done:,}/{total or 0:,} rows{fast}{ahead}", file=sys.stderr, flush=True)


def _tell_error(error: KbuildError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": [error.exit_code, error.message, error.hint]}), file=sys.stderr)
    else:
        print(f"kbuild-score: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


def _keep_stdout() -> None:
    """Leave stdout to what is told here: what a model prints, by whatever library, goes to stderr."""
    global _records
    sys.stdout.flush()
    _records = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)


def _tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=_records or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], own_stdout=True))
