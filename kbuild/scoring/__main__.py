"""``bin/kbuild-score`` of an archive: score the tables of IN into OUT with the archive's own model."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from kbuild.errors import KbuildError
from kbuild.serving.process.cpus import count_cpus, limit_pools


def main(argv: list[str]) -> int:
    """Returns the exit code; the manifest is printed as one line of JSON, everything else goes to stderr."""
    asked = _parser().parse_args(argv)
    # What scores side by side are processes; call it before numpy is imported.
    limit_pools(os.environ)
    try:
        if asked.pipe:
            return _pipe()
        if asked.input is None or asked.output is None:
            _parser().error("IN and OUT are needed")
        return _score(asked)
    except KbuildError as error:
        return _tell_error(error, as_json=asked.progress == "json")
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        told = KbuildError(f"{error.strerror or error}{where}")
        told.exit_code = 42  # what cannot be written has this code everywhere
        return _tell_error(told, as_json=asked.progress == "json")


def _parser() -> argparse.ArgumentParser:
    from kbuild.scoring.settings import add_options

    parser = argparse.ArgumentParser(prog="kbuild-score", description=__doc__)
    parser.add_argument("input", metavar="IN", nargs="?", help="a Parquet or CSV file, a folder, a pattern, a url")
    parser.add_argument("output", metavar="OUT", nargs="?", help="a folder, or a file that ends with .parquet or .csv")
    add_options(parser)
    return parser


def _score(asked: argparse.Namespace) -> int:
    from kbuild.scoring import job as jobs
    from kbuild.scoring.ask import Model
    from kbuild.scoring.local import check_types, join, one_order, score_here
    from kbuild.scoring.parts import columns_of, find_sources, split
    from kbuild.scoring.places import Place
    from kbuild.scoring.settings import facts, model_folder, parse_keep, parse_params

    single = Path(asked.output) if asked.output.endswith((".parquet", ".csv")) else None
    out = Place(asked.output) if single is None else Place(str(single.with_name(f".{single.name}.kbuild")))
    if single is not None and ("://" in asked.output or single.is_dir()):
        single, out = None, Place(asked.output)
    sources = find_sources(asked.input)
    kind = asked.format or (single.suffix[1:] if single else sources[0].kind)
    params = parse_params(asked.params)
    model = Model(model_folder(), params)
    names = [columns_of(source) for source in sources]
    keep = parse_keep(asked.keep)
    if single is not None and len(sources) > 1:
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
    manifest_of = Place(str(single.parent)) if single is not None else out
    manifest_name = f"{single.name}.manifest.json" if single is not None else jobs.MANIFEST
    known = manifest_of.read(manifest_name)
    if known is not None and json.loads(known)["job"] == job.digest and _is_whole(out, single, json.loads(known)):
        print("nothing has changed since this was scored", file=sys.stderr)
        print(json.dumps(json.loads(known)))
        return 0
    if asked.overwrite:
        _overwrite(out, jobs.HOME)
    elif single is not None and single.exists() and asked.only != "finish":
        from kbuild.scoring.errors import OtherAnswers

        raise OtherAnswers(f"{single} is there already", hint="name another file, or --overwrite it")
    parts = split(sources, asked.part_rows)
    for source, theirs in zip(sources, names, strict=True):
        model.check_columns(theirs, source.path)
        job.kept(theirs)
    if single is not None and len(sources) > 1 and kind == "parquet":
        check_types(sources, job.kept(names[0]))
    rows_alone = model.check_rows_alone()
    jobs.begin(job, parts, out)
    todo = jobs.unfinished(job, parts, out)
    if asked.only == "plan":
        out.remove(jobs.FAILED)
        print(json.dumps({"job": job.to_json([]), "out": out.text, "todo": [each.to_json() for each in todo]}))
        return 0
    if asked.only is None and todo:
        score_here(model, job, parts, todo, out, asked.workers or count_cpus(), _Progress(asked.progress))
    manifest = jobs.finish(job, parts, out, rows_alone)
    if single is not None:
        join(job, parts, out, single)
        if manifest["failed"]:
            manifest["rejected"] = f"{single.name}.rejected.jsonl"
            rejected = [out.read(f"{jobs.REJECTED}/{name}") or b"" for name in out.names(jobs.REJECTED)]
            Place(str(single.with_name(manifest["rejected"]))).write("", b"".join(rejected))
        Place(str(single.with_name(manifest_name))).write("", json.dumps(manifest, indent=2).encode() + b"\n")
        out.remove()
    print(json.dumps(manifest))
    return 0


def _is_whole(out: Any, single: Path | None, manifest: dict[str, Any]) -> bool:
    if single is not None:
        return single.is_file()
    there = set(out.names())
    return all(part["file"] in there for part in manifest["parts"])


def _overwrite(out: Any, home: str) -> None:
    """Remove what an earlier job wrote there, and nothing else."""
    from kbuild.scoring import job as jobs

    if out.read(f"{home}/job.json") is not None:
        job, parts = jobs.read(out)
        out.remove(jobs.MANIFEST)
        for part in parts:
            out.remove(f"{part.name(job.digest)}.{job.kind}")
        out.remove(home)


def _pipe() -> int:
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
            print(json.dumps({"left out": asked["part"]["number"]}), flush=True)
            continue
        try:
            model = model or Model(model_folder(), job.params)
            record = score_part(model, job, Part.from_json(asked["part"]), out, lambda rows: None)
        except KbuildError as error:
            # A value, so that the engine does not try again what would fail again; the other parts are left out.
            record = {"error": [error.exit_code, error.message, error.hint]}
            out.write(FAILED, json.dumps(record).encode())
        print(json.dumps(record), flush=True)
    return 0


class _Progress:
    """A line on stderr now and then: rows, rows a second, time left."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._begin = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        took = time.monotonic() - self._begin
        self._first = done if self._first is None else self._first
        rate = (done - self._first) / took if took > 0 else 0.0
        left = None if not total or not rate else (total - done) / rate
        if self._how == "json":
            print(json.dumps({"rows": done, "total": total, "rate": rate, "left": left}), file=sys.stderr, flush=True)
        elif self._how == "plain":
            ahead = "" if left is None else f", {left:.0f} s left"
            print(f"{done:,}/{total or 0:,} rows, {rate:,.0f} rows/s{ahead}", file=sys.stderr, flush=True)


def _tell_error(error: KbuildError, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": [error.exit_code, error.message, error.hint]}), file=sys.stderr)
    else:
        print(f"kbuild-score: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
