"""Delta and Iceberg tables: one snapshot, whose data files are what is scored, as the model's packages read them.

``deltalake`` and ``pyiceberg`` know which files a table has (a folder also has those that were deleted from it), what
was deleted of them, and how columns changed. A snapshot never changes, so whoever goes on with a batch reads what its
beginning read. Delta's log: github.com/delta-io/delta, PROTOCOL.md; Iceberg's metadata: iceberg.apache.org/spec.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

from kbuild.scoring.errors import InputRefused
from kbuild.scoring.places import Place, without_queries

KINDS = ("delta", "iceberg")
ICEBERG = "iceberg://"
"""Begins ``iceberg://CATALOG/NAMESPACE.TABLE``, whose catalog pyiceberg's own configuration describes."""
_METADATA = ".metadata.json"
_MOST_FOLDERS = 200  # that are looked at for a table: at a server each is a request or two
_HINT = "version-hint.text"
_VERSION = re.compile(r"(?:Delta version|Iceberg snapshot) (\d+) of ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """``version`` is Delta's version or Iceberg's snapshot id; ``files`` have names and rows; ``schema`` is Arrow's."""

    kind: str
    path: str
    version: str
    table: str
    files: tuple[tuple[str, int], ...]
    schema: Any

    @property
    def content(self) -> str:
        """What tells it from every other."""
        return f"{'Delta version' if self.kind == 'delta' else 'Iceberg snapshot'} {self.version} of {self.table}"


class _NewestUnknown(InputRefused):
    """An Iceberg table whose newest version its catalog knows."""


_LOOKED: dict[tuple[str, str], Snapshot] = {}


def find_snapshot(text: str, begun: Callable[[], Mapping[str, str]]) -> Snapshot | None:
    """The table that ``text`` names in the version of ``begun`` (content by path), else in its newest; None for what
    is not such a table. Raises InputRefused."""
    kind = _kind_of(text)
    if kind is None:
        return None
    path = text if text.startswith(ICEBERG) else Place(text).text
    pinned = _VERSION.match(begun().get(path, ""))
    # In a process of its own: Delta's reader has threads, which processes that are forked later would miss.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        found = pool.submit(_look, kind, path, pinned[1] if pinned else None).result()
    _LOOKED[path, found.version] = found
    return found


def looked_at(path: str, version: str) -> Snapshot:
    """What ``find_snapshot`` found in this process."""
    return _LOOKED[path, version]


def read_files(kind: str, path: str, version: str, files: range, rows: int) -> Iterator[Any]:
    """The rows of these data files as Arrow tables, of Delta's at most so many rows each; raises InputRefused."""
    read = _read_delta if kind == "delta" else _read_iceberg
    try:
        for number in files:
            yield from read(path, version, number, rows)
    except InputRefused:
        raise
    except Exception as error:  # the readers raise what they like
        raise _refused(path, kind, error) from error


def refuse_data_files(given: Place, found: Sequence[str]) -> None:
    """Raises InputRefused where files that a folder or a pattern stands for are of a Delta or Iceberg table.

    Such a table leaves files lie whose rows it has deleted or written anew. A single file that is named is taken.
    """
    if [given.text] == [*found] or re.match("(?i)https?://", given.text):
        return
    folders = {folder for each in found for folder in _folders_above(each)}
    for folder in sorted(folders, key=lambda each: (len(each), each))[:_MOST_FOLDERS]:
        kind, named = _table_in(folder)
        if kind is not None:
            raise InputRefused(
                f"{given.shown} means data files of the {kind.capitalize()} table {folder}, which may have deleted "
                "rows of them",
                hint=f"name the table: {named}",
            )


def _folders_above(path: str) -> Iterator[str]:
    """All that may be a table's own: those that partitions are kept in are none."""
    scheme, separator, rest = path.rpartition("://")
    parts = rest.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        if "=" in parts[depth - 1]:
            return
        yield f"{scheme}{separator}{'/'.join(parts[:depth])}"


def _table_in(folder: str) -> tuple[str | None, str]:
    """The kind of a folder's table, None for none, and how it is named."""
    if not folder.strip("/"):
        return None, folder
    try:
        return _kind_of(folder), folder
    except _NewestUnknown:
        return "iceberg", "iceberg://CATALOG/NAMESPACE.TABLE"
    except InputRefused:
        return None, folder


def _kind_of(text: str) -> str | None:
    if text.startswith(ICEBERG) or text.endswith(_METADATA):
        return "iceberg"
    if any(sign in text for sign in "*?[") or re.match("(?i)https?://", text):
        return None
    try:
        place = Place(text)
        if place.names("_delta_log"):
            return "delta"
        names = place.names("metadata")
    except InputRefused:
        raise
    except Exception as error:  # a url's driver raises what it likes
        raise InputRefused(f"{text} cannot be read: {_line(error)}") from error
    if not any(name.endswith(_METADATA) for name in names):
        return None
    if _HINT not in names:
        raise _NewestUnknown(
            f"{text} is an Iceberg table, and which version of it is the newest its catalog knows",
            hint="name it as iceberg://CATALOG/NAMESPACE.TABLE, as pyiceberg is configured, "
            f"or one version by its file metadata/*{_METADATA}",
        )
    return "iceberg"


def _look(kind: str, path: str, version: str | None) -> Snapshot:
    try:
        return (_look_at_delta if kind == "delta" else _look_at_iceberg)(path, version)
    except InputRefused:
        raise
    except Exception as error:  # the readers raise what they like
        raise _refused(path, kind, error) from error


def _look_at_delta(path: str, version: str | None) -> Snapshot:
    table, dataset, fragments = _delta(path, version)
    return Snapshot(
        kind="delta",
        path=path,
        version=str(table.version()),
        table=str(table.metadata().id),
        files=tuple((each.path, each.count_rows()) for each in fragments),
        schema=dataset.schema,
    )


@cache
def _delta(path: str, version: str | None) -> tuple[Any, Any, list[Any]]:
    try:
        from deltalake import DeltaTable
    except ImportError as error:
        raise _lacks("deltalake", "Delta") from error
    table = DeltaTable(path, version=None if version is None else int(version))
    # Refuses what it would read wrongly, such as deletion vectors.
    dataset = table.to_pyarrow_dataset()
    return table, dataset, sorted(dataset.get_fragments(), key=lambda each: each.path)


def _read_delta(path: str, version: str, number: int, rows: int) -> Iterator[Any]:
    import pyarrow as pa

    _, dataset, fragments = _delta(path, version)
    # One row group after the other: a whole file's would be read ahead.
    for group in fragments[number].split_by_row_group():
        options = {"batch_size": rows, "use_threads": False, "batch_readahead": 1, "fragment_readahead": 1}
        for batch in group.to_batches(schema=dataset.schema, **options):
            yield pa.Table.from_batches([batch])


def _look_at_iceberg(path: str, version: str | None) -> Snapshot:
    table, scan, tasks = _iceberg(path, version)
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    return Snapshot(
        kind="iceberg",
        path=path,
        version=version or str(table.metadata.current_snapshot_id or 0),
        table=str(table.metadata.table_uuid),
        files=tuple((each.file.file_path, each.file.record_count) for each in tasks),
        schema=schema_to_pyarrow(scan.projection(), include_field_ids=False),
    )


@cache
def _iceberg(path: str, version: str | None) -> tuple[Any, Any, list[Any]]:
    try:
        from pyiceberg.catalog import load_catalog
        from pyiceberg.table import StaticTable
    except ImportError as error:
        raise _lacks("pyiceberg", "Iceberg") from error
    if path.startswith(ICEBERG):
        catalog, _, name = path.removeprefix(ICEBERG).partition("/")
        if not catalog or "." not in name:
            raise InputRefused(f"{path} does not name a table", hint="it is iceberg://CATALOG/NAMESPACE.TABLE")
        table = load_catalog(catalog).load_table(name)
    else:
        table = StaticTable.from_metadata(path)
    scan = table.scan(snapshot_id=None if version is None else int(version))
    return table, scan, sorted(scan.plan_files(), key=lambda each: each.file.file_path)


def _read_iceberg(path: str, version: str, number: int, rows: int) -> Iterator[Any]:
    import pyarrow as pa
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow

    table, scan, tasks = _iceberg(path, version)
    wanted = scan.projection()
    schema = schema_to_pyarrow(wanted, include_field_ids=False)
    # pyiceberg holds a data file whole, and gives its texts by types that differ from file to file.
    for batch in ArrowScan(table.metadata, table.io, wanted, AlwaysTrue()).to_record_batches([tasks[number]]):
        whole = pa.Table.from_batches([batch]).cast(schema)
        for start in range(0, len(whole), rows):
            yield whole.slice(start, rows)


def _lacks(package: str, kind: str) -> InputRefused:
    return InputRefused(
        f"the model's packages have no {package}, which reads {kind} tables",
        hint=f"add {package}[pyarrow] to the model's requirements, or name Parquet or CSV files of no such table",
    )


def _refused(path: str, kind: str, error: Exception) -> InputRefused:
    return InputRefused(f"{path} cannot be read as {kind.capitalize()}: {_line(error)}")


def _line(error: Exception) -> str:
    return without_queries(" ".join(str(error).split()))[:300] or type(error).__name__
