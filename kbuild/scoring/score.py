"""One part, from its rows to a file of answers: written whole under its name, or not at all."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kbuild.errors import InvalidModel
from kbuild.scoring.ask import Model, answer_rows, answers_of_all
from kbuild.scoring.errors import RowsFailed, hint_recoding
from kbuild.scoring.job import DONE, REJECTED, Job
from kbuild.scoring.parts import Part
from kbuild.scoring.places import Place
from kbuild.scoring.tables import NOT_UTF8, Batch, Failure, read_batches

_REASONS = 20


def score_part(model: Model, job: Job, part: Part, out: Place, tell: Callable[[int], None]) -> dict[str, Any]:
    """Score a part and return what is recorded of it; one that is finished is left alone.

    ``tell`` hears how many rows more are done. Raises InputRefused, InvalidModel, RowsFailed and OSError.
    """
    name = part.name(job.digest)
    done = out.read(f"{DONE}/{name}.json")
    if done is not None and out.exists(f"{name}.{job.kind}"):
        record: dict[str, Any] = json.loads(done)
        tell(record["rows"])
        return record
    counts = Counter[str]()
    rows = answered = 0
    failures: list[str] = []
    empty: Any = None
    with ExitStack() as stack:
        path = stack.enter_context(out.writing(f"{name}.{job.kind}"))
        writer = stack.enter_context(_Writer(path, job.kind))
        for batch in read_batches(part, model.types, job.batch_rows):
            answer, failed = _answer(model, job, batch)
            _refuse(job, part, failed)
            if answer is not None and len(answer):
                writer.write(answer)
            empty = batch.table.schema.empty_table()
            count = len(batch.numbers) + len(batch.failed)
            rows += count
            answered += count - len(failed)
            counts.update(each.reason for each in failed)
            failures += [_line(part, each) for each in failed]
            tell(count)
        if not writer.begun:
            writer.write(_no_rows(model, job, part, empty))
    if failures:
        out.write(f"{REJECTED}/{name}.jsonl", "".join(failures).encode())
    record = {
        "part": part.number,
        "file": f"{name}.{job.kind}",
        "rows": rows,
        "failed": rows - answered,
        "reasons": dict(counts.most_common(_REASONS)),
    }
    out.write(f"{DONE}/{name}.json", json.dumps(record).encode())
    return record


def _answer(model: Model, job: Job, batch: Batch) -> tuple[Any, list[Failure]]:
    """What is written of a batch, None where that is nothing, and the rows that failed."""
    unfit = dict(batch.unfit)
    good: list[int] = []
    answers = None
    if batch.frame is not None:
        places, answers, failing = answer_rows(model, batch.frame, to_first=job.on_error == "fail")
        good = [batch.places[place] for place in places]
        unfit |= {batch.places[place]: reason for place, reason in failing.items()}
    failed = list(batch.failed)
    for place, reason in sorted(unfit.items()):
        row = {name: _plain(value) for name, value in batch.table.slice(place, 1).to_pylist()[0].items()}
        failed.append(Failure(number=batch.numbers[place], reason=reason, row=row))
    table = batch.table.select(job.kept(batch.table.column_names))
    if job.on_error == "null":
        answers = answers_of_all(model, answers, good, len(batch.table))
    elif answers is None:
        return None, failed
    else:
        order = np.argsort(good, kind="stable")
        answers = answers.take(pa.array(order))
        table = table.take(pa.array(np.array(good)[order])) if unfit else table
    return _side_by_side(table, answers, job), failed


def _no_rows(model: Model, job: Job, part: Part, table: Any) -> Any:
    """What is written of a part without an answer; ``table`` has its columns, None where there is not even a row."""
    if table is None:
        names = next(csv.reader([part.header or ""]), [])
        table = pa.table({name: pa.array([], pa.string()) for name in [*names, *part.source.partitions]})
    kept = table.select(job.kept(table.column_names))
    # The other parts, or else the end of the job, show that there is no answer whose columns are known.
    with suppress(RowsFailed):
        return _side_by_side(kept, model.no_answers(), job)
    return kept


def _side_by_side(table: Any, answers: Any, job: Job) -> Any:
    columns = {name: table.column(name) for name in table.column_names}
    columns |= zip(job.answer_names(answers.column_names, table.column_names), answers.columns, strict=True)
    return pa.table(columns)


def _refuse(job: Job, part: Part, failed: list[Failure]) -> None:
    if failed and job.on_error == "fail":
        first = min(failed, key=lambda each: each.number)
        what = "line" if part.source.kind == "csv" else "row"
        hint = "--on-error null or --on-error reject goes on without it, and writes down why"
        if first.reason.startswith(NOT_UTF8):
            # The header was: no file of UTF-16 comes here.
            hint = f"{hint_recoding(b'', part.source.shown)}; {hint}"
        raise RowsFailed(f"{part.source.shown}, {what} {first.number}: {first.reason}", hint=hint)


def _line(part: Part, failure: Failure) -> str:
    what = "line" if part.source.kind == "csv" else "row"
    told = {"file": part.source.shown, what: failure.number, "reason": failure.reason, "values": failure.row}
    return json.dumps(told, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has none of these
    return value if isinstance(value, str | int | float | bool | type(None)) else str(value)


def _lists_as_json(table: Any) -> Any:
    """The table with its lists and structs as texts that a reader can take back."""
    for place, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            # What JSON does not have is text: dates and bytes as str() gives them, no finite number as null.
            texts = [None if value is None else _json(value) for value in table.column(place).to_pylist()]
            table = table.set_column(place, column.name, pa.array(texts, pa.string()))
    return table


def _json(value: Any) -> str:
    return json.dumps(_finite(value), ensure_ascii=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Writer:
    """A file of Parquet or CSV, written batch by batch."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._parquet: Any = None
        self.begun = False

    def __enter__(self) -> _Writer:
        return self

    def write(self, table: Any) -> None:
        if self._kind == "csv":
            # Else whole numbers beside nothing become floats, which have no room for all of them.
            frame = _lists_as_json(table).to_pandas(integer_object_nulls=True)
            frame.to_csv(self._path, mode="a" if self.begun else "w", header=not self.begun, index=False)
        else:
            if self._parquet is None:
                self._parquet = pq.ParquetWriter(self._path, table.schema)
            try:
                self._parquet.write_table(table.cast(self._parquet.schema) if self.begun else table)
            except (pa.ArrowException, ValueError) as error:
                raise InvalidModel(
                    f"the type of the answer depends on the rows: {' '.join(str(error).split())[:200]}"
                ) from error
        self.begun = True

    def __exit__(self, *_: object) -> None:
        if self._parquet is not None:
            self._parquet.close()
