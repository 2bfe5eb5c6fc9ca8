"""Batches of a part: bounded in rows and bytes, each with what the model reads and what is kept beside the answer.

CSV is parsed as the scoring server parses it (``kbuild.serving.answer.columns``: pandas, by the signature's types), so
a number has the same bits here and there. Texts that are no such number are rows that fail, not files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from kbuild.scoring import snapshots
from kbuild.scoring.errors import InputRefused
from kbuild.scoring.parts import InputTable, Part, records
from kbuild.scoring.places import Place, without_queries
from kbuild.serving.answer.columns import CSV_TYPES
from kbuild.serving.answer.limits import with_line_feeds

_ARROW = {
    "double": pa.float64(),
    "float": pa.float32(),
    "long": pa.int64(),
    "integer": pa.int32(),
    "boolean": pa.bool_(),
    "datetime": pa.timestamp("us"),
}
NOT_UTF8 = "the row is not UTF-8"
BATCH_ROWS = 50_000
BATCH_BYTES = 64 << 20
"""At most so much of a table is in memory at a time, as it is stored; Parquet by the average of its row groups."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A row without an answer: its number in the file from 1, of CSV its line; ``row`` is what was read of it."""

    number: int
    reason: str
    row: dict[str, Any] | str


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """``table`` has all columns as they were (CSV's as texts), ``numbers`` those of its rows; ``frame`` what the model
    is asked, for the rows of the table at ``places``. ``unfit`` are places of rows of which that could not be made:
    why; ``failed`` are lines that are no row at all.
    """

    table: Any
    numbers: Sequence[int]
    frame: Any
    places: Sequence[int]
    unfit: dict[int, str] = field(default_factory=dict)
    failed: list[Failure] = field(default_factory=list)


def read_batches(part: Part, types: dict[str, str], rows: int = BATCH_ROWS) -> Iterator[Batch]:
    """The batches of a part, in order; ``types`` are MLflow's by column. Raises InputRefused."""
    if part.source.kind in snapshots.KINDS:
        yield from _snapshot(part, types, rows)
        return
    place = Place(part.source.path)
    try:
        if place.stamp() != part.source.stamp:
            raise InputRefused(f"{part.source.shown} changed while it was being scored", hint="score again")
        with place.reading() as file:
            yield from (_parquet if part.source.kind == "parquet" else _csv)(file, part, types, rows)
    except FileNotFoundError as error:
        raise InputRefused(f"{part.source.shown} is not there any more") from error
    except (pa.ArrowException, OSError) as error:
        reason = without_queries(" ".join(str(error).split()))[:300]
        raise InputRefused(f"{part.source.shown} cannot be read: {reason}") from error


def _parquet(file: Any, part: Part, types: dict[str, str], rows: int) -> Iterator[Batch]:
    reader = pq.ParquetFile(file)
    groups = range(part.start, part.end)
    size = sum(reader.metadata.row_group(number).total_byte_size for number in groups)
    rows = max(1, min(rows, BATCH_BYTES * part.rows // max(1, size)))
    first = part.first
    # Threads would read ahead as many row groups as there are.
    for batch in reader.iter_batches(batch_size=rows, row_groups=list(groups), use_threads=False):
        table = _with_partitions(pa.Table.from_batches([batch]), part.source, types)
        numbers = range(first, first + len(table))
        yield Batch(table=table, numbers=numbers, frame=_to_pandas(table, types), places=range(len(table)))
        first += len(table)


def _snapshot(part: Part, types: dict[str, str], rows: int) -> Iterator[Batch]:
    source, first = part.source, part.first
    for read in snapshots.read_files(source.kind, source.path, source.stamp, range(part.start, part.end), rows):
        step = max(1, min(rows, BATCH_BYTES * len(read) // max(1, read.nbytes)))
        for start in range(0, len(read), step):
            table = read.slice(start, step)
            numbers = range(first, first + len(table))
            yield Batch(table=table, numbers=numbers, frame=_to_pandas(table, types), places=range(len(table)))
            first += len(table)


def _with_partitions(table: Any, source: InputTable, types: dict[str, str]) -> Any:
    """The table with the columns that the names of its folders say, and it does not have."""
    for name in source.partitions:
        if name not in table.column_names:
            table = table.append_column(name, _said(source, name, types, len(table)))
    return table


def _said(source: InputTable, name: str, types: dict[str, str], rows: int) -> Any:
    """A column of what a folder says, of the type that the model reads, else as text."""
    text, kind = source.partitions[name], types.get(name)
    try:
        value = pa.scalar(text, pa.string()).cast(_ARROW.get(kind or "", pa.string()))
    except pa.ArrowException as error:
        raise InputRefused(f"{source.shown}: {name}={text} is not {kind}") from error
    return pa.repeat(value, rows)


def _to_pandas(table: Any, types: dict[str, str]) -> Any:
    for place, column in enumerate(table.schema):
        if pa.types.is_decimal(column.type) and types.get(column.name) != "string":
            table = table.set_column(place, column.name, table.column(place).cast(pa.float64()))
    # Whole numbers beside nothing would become floats, which have no room for all of them.
    frame = table.to_pandas(use_threads=False, integer_object_nulls=True)
    # What pandas wrote of an index is a column of the file like the others.
    frame = frame.reset_index() if frame.index.names != [None] else frame.reset_index(drop=True)
    for column in table.schema:
        name = column.name
        if pa.types.is_integer(column.type) and types.get(name) not in ("long", "integer") and frame[name].dtype == "O":
            frame[name] = frame[name].astype("float64")  # as pandas gives it the model elsewhere
    return frame


def _csv(file: Any, part: Part, types: dict[str, str], rows: int) -> Iterator[Batch]:
    file.seek(part.start)
    reader = _CsvReader(part.header or "", types)
    left, line = part.end - part.start, part.first
    pending: list[bytes] = []
    numbers: list[int] = []
    size = 0
    for record in records(file):
        text = b"".join(record)
        # pandas passes over lines that are empty.
        if text.strip():
            pending.append(text)
            numbers.append(line)
            size += len(text)
        left -= len(text)
        line += len(record)
        if len(pending) >= rows or size >= BATCH_BYTES or (left <= 0 and pending):
            batch = reader.read(pending, numbers)
            table = _with_partitions(batch.table, part.source, {})
            added = table.column_names[batch.table.num_columns :]
            frame = batch.frame
            if frame is not None:
                said = {
                    name: _said(part.source, name, types, len(frame)).to_pandas() for name in added if name in types
                }
                frame = frame.assign(**said)
            yield replace(batch, table=table, frame=frame)
            pending, numbers, size = [], [], 0
        if left <= 0:
            return


class _CsvReader:
    def __init__(self, header: str, types: dict[str, str]) -> None:
        self._header = header.encode() + b"\n"
        self._names = next(csv.reader([header]), [])
        self._said = types
        self._read_by = [name for name in self._names if name in types] or self._names
        self._types = {name: CSV_TYPES[types[name]] for name in self._names if types.get(name) in CSV_TYPES}
        self._types |= {name: "int32" for name in self._names if types.get(name) == "integer"}
        self._dates = [name for name in self._names if types.get(name) == "datetime"]

    def read(self, rows: list[bytes], numbers: list[int]) -> Batch:
        """The batch of these records."""
        failed: list[Failure] = []
        texts: list[Any] = []
        whole = _halving(rows, range(len(rows)), self._texts, texts, failed, numbers)
        rows, numbers = [rows[place] for place in whole], [numbers[place] for place in whole]
        frames: list[Any] = []
        unread: list[Failure] = []
        places = _halving(rows, range(len(rows)), self._typed, frames, unread, range(len(rows)))
        text = pd.concat(texts, ignore_index=True) if texts else pd.DataFrame(columns=self._names, dtype=str)
        return Batch(
            table=pa.Table.from_pandas(text, preserve_index=False, nthreads=1),
            numbers=numbers,
            frame=pd.concat(frames, ignore_index=True) if frames else None,
            places=places,
            unfit={each.number: each.reason for each in unread},
            failed=failed,
        )

    def _texts(self, rows: list[bytes]) -> Any:
        """Every column as the text that it is: pandas would make numbers of it, or nothing of "NA"."""
        return self._parse(rows, dtype=str, na_filter=False)

    def _typed(self, rows: list[bytes]) -> Any:
        try:
            frame = self._parse(rows, dtype=self._types, parse_dates=self._dates)[self._read_by]
        except (ValueError, OverflowError) as error:
            if len(rows) == 1:
                self._name_wrong(rows)
            raise error from None
        for name in self._dates:
            if frame[name].dtype.kind != "M":
                raise ValueError(f"{name} is not a date and time without a zone")
        return frame

    def _name_wrong(self, rows: list[bytes]) -> None:
        """Raises ValueError with the column that keeps a row from being read: pandas tells its number, or nothing."""
        for name, kind in self._types.items():
            try:
                self._parse(rows, dtype={name: kind}, usecols=[name])
            except (ValueError, OverflowError) as error:
                raise ValueError(f"{name} is not {self._said[name]}: {error}") from error

    def _parse(self, rows: list[bytes], **how: Any) -> Any:
        table = self._header + b"".join(rows)
        if with_line_feeds(table) != table:
            raise ValueError("the row has a carriage return outside of quotes, which ends a line")
        try:
            text = table.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{NOT_UTF8}: it has the byte {table[error.start]:#04x}") from error
        frame = pd.read_csv(io.StringIO(text), **how)
        # More fields than the header has make the first one an index.
        if not isinstance(frame.index, pd.RangeIndex) or len(frame) != len(rows):
            raise ValueError(f"the row has more than the {len(self._names)} fields of the header")
        return frame


def _halving(
    rows: list[bytes],
    places: Sequence[int],
    parse: Callable[[list[bytes]], Any],
    frames: list[Any],
    failed: list[Failure],
    numbers: Sequence[int],
) -> list[int]:
    """The places of rows that ``parse`` takes, added to ``frames``; where it does not take all, halves are tried."""
    try:
        frames.append(parse([rows[place] for place in places]))
        return list(places)
    except (ValueError, OverflowError) as error:  # pandas' ParserError is a ValueError
        if len(places) <= 1:
            for place in places:
                text = rows[place].decode(errors="replace").rstrip("\r\n")
                failed.append(Failure(number=numbers[place], reason=" ".join(str(error).split())[:300], row=text))
            return []
        half = len(places) // 2
        first = _halving(rows, places[:half], parse, frames, failed, numbers)
        return first + _halving(rows, places[half:], parse, frames, failed, numbers)
