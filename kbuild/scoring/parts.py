"""What is scored at a time: a run of a Parquet file's row groups, of a CSV file's records, of a snapshot's data files.

The parts follow from the input and the options alone, not from who scores them: whoever starts again finds the same.
CSV is what RFC 4180 says: comma, double quotes, the first record is the header; UTF-8.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from kbuild.scoring import snapshots
from kbuild.scoring.errors import InputRefused, hint_recoding, hint_unpacking, no_table, not_parquet
from kbuild.scoring.places import Place, without_queries, without_query

ENDINGS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}
PART_ROWS = 250_000
RECORD_BYTES = 64 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputTable:
    """A table to score; ``content`` tells it from every other, ``stamp`` is that of its file when it was looked at.
    ``partitions`` are columns that the names of its folders say."""

    path: str
    kind: str
    content: str
    stamp: str
    partitions: dict[str, str | None] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What may be written down of its path."""
        return without_query(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """``start`` and ``end`` are row groups of Parquet, bytes of CSV, data files of a snapshot; ``first`` is the number
    of the first row, of CSV that of its first line, both from 1; ``rows`` is how many there are, of CSV as many lines.
    """

    number: int
    source: InputTable
    start: int
    end: int
    first: int
    rows: int
    header: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Part:
        """The inverse."""
        return cls(**{**value, "source": InputTable(**value["source"])})

    def name(self, job: str) -> str:
        """What its files are called in the job of this digest."""
        spec = json.dumps([job, self.to_json() | {"source": self.source.content}], sort_keys=True)
        return f"part-{self.number:05d}-{hashlib.sha256(spec.encode()).hexdigest()[:12]}"


def find_sources(text: str, begun: Callable[[], Mapping[str, str]] = dict) -> list[InputTable]:
    """The tables that ``text`` means: a file, a folder, a pattern, a Delta or Iceberg table.

    Of the last two it is the version that ``begun`` names (content by path), else the newest. Raises InputRefused.
    """
    found_snapshot = snapshots.find_snapshot(text, begun)
    if found_snapshot is not None:
        each = found_snapshot
        return [InputTable(path=each.path, kind=each.kind, content=each.content, stamp=each.version)]
    place = Place(text)
    try:
        found = place.tables(tuple(ENDINGS))
    except Exception as error:  # a url's driver raises what it likes
        raise InputRefused(f"{place.shown} cannot be read: {_reason(error)}") from error
    if not found:
        raise no_table(f"{place.shown} {place.lacks()}", ENDINGS, place.text)
    snapshots.refuse_data_files(given := place, found)
    sources = []
    for path in found:
        place, partitions = Place(path), given.partitions(path)
        # Of a url its path counts, or else the end of its query, which may name the file.
        kind = _kind_of(place.shown) or _kind_of(path)
        if kind is None:
            hint = hint_unpacking(place.shown) or f"files end with {', '.join(ENDINGS)}"
            raise InputRefused(f"{place.shown} is not a table that can be read", hint=hint)
        try:
            told = {"stamp": place.stamp(), "content": place.content()}
        except Exception as error:  # the same
            raise InputRefused(f"{place.shown} cannot be read: {_reason(error)}") from error
        sources.append(InputTable(path=path, kind=kind, partitions=partitions, **told))
    return sources


def _kind_of(path: str) -> str | None:
    return next((kind for ending, kind in ENDINGS.items() if path.lower().endswith(ending)), None)


def split(sources: list[InputTable], rows: int = PART_ROWS) -> list[Part]:
    """The parts of all, of about so many rows each. Raises InputRefused for what is no such table, or has no rows."""
    parts: list[Part] = []
    for source in sources:
        divide = {"parquet": _row_groups, "csv": _records}.get(source.kind, _data_files)
        for start, end, first, count, header in divide(source, rows):
            parts.append(
                Part(number=len(parts), source=source, start=start, end=end, first=first, rows=count, header=header)
            )
    if not parts:
        raise InputRefused(f"{sources[0].shown}{' and others have' if len(sources) > 1 else ' has'} no rows")
    return parts


def columns_of(source: InputTable) -> list[str]:
    """The names of a table's columns, in order. Raises InputRefused."""
    if source.kind in snapshots.KINDS:
        return list(snapshots.looked_at(source.path, source.stamp).schema.names)
    with _naming(source), Place(source.path).reading() as file:
        if source.kind == "parquet":
            names = list(_open_parquet(file, source).schema_arrow.names)
            _refuse_twice(names, source)
        else:
            names = read_header(file, source)[1]
        return list(dict.fromkeys([*names, *source.partitions]))


def schema_of(source: InputTable) -> dict[str, Any]:
    """The Arrow types of a table's columns by name; those of CSV are texts. Raises InputRefused."""
    import pyarrow as pa

    if source.kind in snapshots.KINDS:
        return {field.name: field.type for field in snapshots.looked_at(source.path, source.stamp).schema}
    texts = dict.fromkeys(source.partitions if source.kind == "parquet" else columns_of(source), pa.string())
    if source.kind != "parquet":
        return texts
    with Place(source.path).reading() as file:
        return texts | {field.name: field.type for field in _open_parquet(file, source).schema_arrow}


def read_header(file: IO[bytes], source: InputTable) -> tuple[bytes, list[str]]:
    """The header's bytes, and the names in it; ``file`` is then at the first record."""
    import csv

    raw = b"".join(next(records(file), []))
    try:
        names = next(csv.reader([raw.removeprefix(_BOM).decode()], strict=True), [])
        if not names:
            raise InputRefused(f"{source.shown} has no header: its first line is empty")
        if "\0" in names[0][:2]:
            raise UnicodeDecodeError("utf-8", raw, 1, 2, "every other byte is 0")
    except (UnicodeDecodeError, csv.Error) as error:
        hint = None if isinstance(error, csv.Error) else hint_recoding(raw, source.shown)
        raise InputRefused(f"the header of {source.shown} cannot be read: {error}", hint=hint) from error
    _refuse_twice(names, source)
    return raw, names


def _refuse_twice(names: list[str], source: InputTable) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputRefused(f"{source.shown} has columns twice: {', '.join(twice)}")


def records(lines: Iterator[bytes] | IO[bytes], first: int = 1) -> Iterator[list[bytes]]:
    """Each record as the lines that it is on: more than one where a line ends inside of quotes.

    ``first`` is the number of the first line. Raises InputRefused for a record of more than RECORD_BYTES: most likely a
    quote that nobody closed, of which all that follows would be one field.
    """
    pending: list[bytes] = []
    inside, size, begin = False, 0, first
    for line in lines:
        if not inside and b'"' not in line:
            begin += 1
            yield [line]
            continue
        pending.append(line)
        size += len(line)
        inside = _ends_inside(line, inside)
        if not inside:
            begin += len(pending)
            yield pending
            pending, size = [], 0
        elif size > RECORD_BYTES:
            raise InputRefused(
                f"line {begin} begins a record of more than {RECORD_BYTES:,} bytes: is a quote not closed?"
            )
    if pending:
        yield pending


def _ends_inside(line: bytes, inside: bool) -> bool:
    """Whether a line ends inside of quotes that it began in, or that a field of it began with.

    A quote in a field that began without one is a letter like others.
    """
    place, start = 0, not inside
    while place < len(line):
        if inside:
            end = line.find(b'"', place)
            if end < 0:
                return True
            if line[end + 1 : end + 2] == b'"':
                place = end + 2
                continue
            inside, place, start = False, end + 1, False
            continue
        if start and line[place : place + 1] == b'"':
            inside, place = True, place + 1
            continue
        comma = line.find(b",", place)
        if comma < 0:
            return False
        place, start = comma + 1, True
    return inside


def _open_parquet(file: IO[bytes], source: InputTable) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputRefused("the model's packages have no pyarrow, which reads Parquet", hint="score CSV") from error
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise not_parquet(source.shown, _line(error)) from error


def _row_groups(source: InputTable, rows: int) -> Iterator[tuple[int, int, int, int, str | None]]:
    with Place(source.path).reading() as file:
        metadata = _open_parquet(file, source).metadata
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    start = first = count = 0
    for number, size in enumerate(sizes):
        count += size
        if count >= rows or (number == len(sizes) - 1 and count):
            yield start, number + 1, first + 1, count, None
            start, first, count = number + 1, first + count, 0


def _data_files(source: InputTable, rows: int) -> Iterator[tuple[int, int, int, int, str | None]]:
    files = snapshots.looked_at(source.path, source.stamp).files
    start = first = count = 0
    for number, (_, size) in enumerate(files):
        count += size
        if count >= rows or (number == len(files) - 1 and count):
            yield start, number + 1, first + 1, count, None
            start, first, count = number + 1, first + count, 0


def _records(source: InputTable, rows: int) -> Iterator[tuple[int, int, int, int, str | None]]:
    with _naming(source), Place(source.path).reading() as file:
        raw, _ = read_header(file, source)
        header = raw.removeprefix(_BOM).decode().rstrip("\r\n")
        start = end = len(raw)
        first = line = 1 + raw.count(b"\n")
        count = 0
        for record in records(file, line):
            end += sum(map(len, record))
            line += len(record)
            count += 1
            if count == rows:
                yield start, end, first, count, header
                start, first, count = end, line, 0
        if count:
            yield start, end, first, count, header


@contextmanager
def _naming(source: InputTable) -> Iterator[None]:
    """Name the file in what is said of a line of it, or of reading it."""
    try:
        yield
    except InputRefused as error:
        if source.shown in error.message:
            raise
        raise InputRefused(f"{source.shown}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise InputRefused(f"{source.shown} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.strerror is None and error.__cause__ is not None:
        return _line(error.__cause__)  # of fsspec's own error the words are the url alone
    return getattr(error, "strerror", None) or _line(error) or type(error).__name__


def _line(error: BaseException) -> str:
    return without_queries(" ".join(str(error).split()))[:300]
