"""Parts scored side by side by processes of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from kbuild.scoring.ask import Model
from kbuild.scoring.errors import InputRefused, WorkerLost
from kbuild.scoring.job import Job
from kbuild.scoring.parts import InputTable, Part, records, schema_of
from kbuild.scoring.places import Place
from kbuild.scoring.score import score_part

Tell = Callable[[int, int | None], None]
_CHUNK = 1 << 20
_PR_SET_PDEATHSIG = 1  # of prctl(2)
_EVERY = 1.0
"""Seconds between two words of how far it is."""
# Of the process that scores; those that are forked have it from the one that loaded it.
_STATE: dict[str, Any] = {}


def score_here(
    model: Model, job: Job, parts: Sequence[Part], todo: Sequence[Part], out: Place, workers: int, tell: Tell
) -> None:
    """Score ``todo`` with so many processes, which share the model's memory; ``tell`` hears rows done, and of how many.

    Raises what a part raises, the first; WorkerLost where a process was killed.
    """
    total = sum(part.rows for part in parts)
    ready = total - sum(part.rows for part in todo)
    if workers == 1 or len(todo) == 1:
        done = ready
        last = 0.0

        def count(rows: int) -> None:
            nonlocal done, last
            done += rows
            if time.monotonic() - last >= _EVERY:
                last = time.monotonic()
                tell(done, total)

        for part in todo:
            score_part(model, job, part, out, count)
        tell(total, total)
        return
    context = multiprocessing.get_context("fork")
    counter = context.Value("q", ready)
    _STATE.update(model=model, job=job, out=out.text, counter=counter)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY):
            tell(counter.value, total)

    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
    )
    with pool:
        futures: list[Future[None]] = [pool.submit(_score, part) for part in todo]
        # Not before the processes are forked, which have no other thread than the one that forks.
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((place for place, each in enumerate(futures) if each.done() and each.exception()), len(todo))
            for each in futures[failed + 1 :]:
                each.cancel()
            # What fails in a part before it comes first, though it may come later.
            for each in futures[: failed + 1]:
                each.result()
        except BrokenProcessPool as error:
            raise WorkerLost(
                "a process that scored was killed, perhaps for want of memory",
                hint="the same command goes on where it was stopped; fewer --workers or --batch-rows take less memory",
            ) from error
        finally:
            over.set()
            watcher.join()
            pool.shutdown(cancel_futures=True)
    tell(total, total)


def _end_with(parent: int) -> None:
    """Have this process end when the one that forked it does, however that ends.

    Each holds the queue's other end open for its siblings, so none would notice, and the model would stay in memory.
    """
    with contextlib.suppress(AttributeError, OSError):  # another system than Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(1)


def _score(part: Part) -> None:
    counter = _STATE["counter"]

    def count(rows: int) -> None:
        with counter.get_lock():
            counter.value += rows

    score_part(_STATE["model"], _STATE["job"], part, Place(_STATE["out"]), count)


def one_order(sources: Sequence[InputTable], names: Sequence[list[str]]) -> list[str]:
    """The columns of all, as the first has them; ``names`` are those of each. Raises InputRefused for other columns."""
    for other, theirs in zip(sources[1:], names[1:], strict=True):
        differing = sorted({*names[0]} ^ {*theirs})
        if differing:
            raise InputRefused(
                f"{sources[0].shown} and {other.shown} do not have the same columns: {', '.join(differing[:5])}",
                hint="name a folder as OUT, or the columns to --keep",
            )
    return names[0]


def check_types(sources: Sequence[InputTable], kept: Sequence[str]) -> None:
    """Raises InputRefused for tables whose columns to keep do not fit into one file of Parquet."""
    first = sources[0]
    types = schema_of(first)
    for other in sources[1:]:
        found = schema_of(other)
        for name in kept:
            if not _goes_into(found[name], types[name]):
                raise InputRefused(
                    f"{name} is {types[name]} in {first.shown} and {found[name]} in {other.shown}",
                    hint="name a folder as OUT, or the columns to --keep",
                )


def _goes_into(kind: Any, other: Any) -> bool:
    """Whether all values of an Arrow type are values of another, which Arrow casts them to."""
    from pyarrow import types

    if kind == other or types.is_null(kind):
        return True
    for alike in (types.is_signed_integer, types.is_unsigned_integer, types.is_floating):
        if alike(kind) and alike(other):
            return bool(kind.bit_width <= other.bit_width)
    return bool(_is_text(kind) and _is_text(other))


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def join(job: Job, parts: Sequence[Part], folder: Place, path: Path) -> None:
    """Write the parts' answers into one file, in order; it appears whole, or not at all.

    Raises InputRefused for parts whose columns have other types.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"{part.name(job.digest)}.{job.kind}" for part in parts]
    with Place(str(path)).writing("") as new:
        if job.kind == "csv":
            with new.open("wb") as target:
                begun = False
                for name in names:
                    with Place(f"{folder.text}/{name}").reading() as source:
                        header, chunk = b"".join(next(records(source), [])), source.read(_CHUNK)
                        # A part without an answer may lack the answer's columns.
                        if chunk and not begun:
                            target.write(header)
                            begun = True
                        while chunk:
                            target.write(chunk)
                            chunk = source.read(_CHUNK)
            return
        writer: Any = None
        try:
            for name in names:
                with Place(f"{folder.text}/{name}").reading() as source:
                    reader = pq.ParquetFile(source)
                    if not reader.metadata.num_rows:
                        continue
                    writer = writer or pq.ParquetWriter(new, reader.schema_arrow)
                    for group in range(reader.metadata.num_row_groups):
                        table = reader.read_row_group(group, use_threads=False)
                        try:
                            writer.write_table(table.cast(writer.schema))
                        except (pa.ArrowException, ValueError) as error:
                            reason = " ".join(str(error).split())[:300]
                            raise InputRefused(
                                f"the answers do not fit into one Parquet file: {reason}", hint="name a folder as OUT"
                            ) from error
        finally:
            if writer is not None:
                writer.close()
