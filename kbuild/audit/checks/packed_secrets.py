"""Secrets in what is packed: compressed data, archives, arrays, the tables of Parquet; and behind names in pickles.

Text that is packed is opened as it is for pickles, and told with the place that it lies in.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kbuild.audit.pickled.containers import open_container
from kbuild.audit.pickled.effort import Effort, TooMuch, Unreadable
from kbuild.audit.secrets import find_in_chunks, is_named_secret

_CHUNK = 8 << 20
_MAX_DEPTH = 8
_PARQUET = b"PAR1"
_EXPANDED, _TIMES = 1 << 30, 64  # bytes that a table may take as it is read, and more for each byte of the file
_AT_ONCE = 1 << 16  # rows
# Texts of pickles that follow each other: a name of a mapping or of a state, and its value.
_MEMO = rb"(?:\x94|q[\0-\xff]|r[\0-\xff]{4})?"
_NAME = rb"(?:\x8c[\x02-\x40]|X[\x02-\x40]\0\0\0)([\w.\-]{2,64})" + _MEMO
_VALUE = re.compile(_NAME + rb"(?:\x8c([\x06-\xff])|X([\x06-\xff][\0-\x0f])\0\0)(?=([\x20-\x7e]{6,4096}))")
_OLDEST = re.compile(rb"V([\w.\-]{2,64})\n(?:p\d{1,9}\n)?V([\x20-\x7e]{6,4096})\n")


Fits = Callable[[bytes, int], bool]
"""Whether a table of Parquet can be read in so many bytes of memory."""


def find_in_packed(data: bytes, *, name: str, fits: Fits | None = None) -> Iterator[tuple[str, dict[str, int]]]:
    """Places in a file with the kinds of secrets there; ``""`` is the file itself, whose own bytes are looked at by
    others. Raises TooMuch for what was not looked at to its end: without ``fits`` tables are not."""
    yield from _in(data, name, "", _Way(effort=Effort(len(data)), fits=fits))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    effort: Effort
    fits: Fits | None
    depth: int = 0


def _in(data: bytes, name: str, place: str, way: _Way) -> Iterator[tuple[str, dict[str, int]]]:
    found = dict.fromkeys(_in_pickle(data), 1)
    if place:
        pieces = (data[begin : begin + _CHUNK] for begin in range(0, len(data), _CHUNK))
        found |= find_in_chunks(pieces, name=name)
    if data.startswith(_PARQUET) and data.endswith(_PARQUET):
        if way.fits is None or not way.fits(data, _EXPANDED + _TIMES * len(data)):
            raise TooMuch("its table is not read: it would take too much memory, or is none")
        for text in _texts_of(data, way.effort):
            for kind in find_in_chunks(iter([text]), name=""):
                found.setdefault(kind, 1)
    if found:
        yield place, found
    if way.depth == _MAX_DEPTH:
        raise TooMuch(f"it is wrapped more than {_MAX_DEPTH} times")
    try:
        for part in open_container(data, way.effort):
            member = part.name[1:] if part.name.startswith("!") else name
            yield from _in(part.data, member, place + (part.name or "!"), replace(way, depth=way.depth + 1))
    except TooMuch:
        raise
    except Unreadable:
        return  # the check of pickles says so


def _in_pickle(data: bytes) -> Iterator[str]:
    for match in _VALUE.finditer(data):
        size = int.from_bytes(match[2] or match[3], "little")
        key, value = match[1].decode(), match[4][:size].decode()
        if len(value) == size and is_named_secret(key, value):
            yield f"value of {key}"
    for match in _OLDEST.finditer(data):
        key, value = match[1].decode(), match[2].decode()
        if is_named_secret(key, value):
            yield f"value of {key}"


def _texts_of(data: bytes, effort: Effort) -> Iterator[bytes]:
    """The different texts and bytes of a table, some rows at a time, each on a line."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(io.BytesIO(data)) as file:
            texts = [
                column.path
                for column in map(file.schema.column, range(file.metadata.num_columns))
                if column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
            ]
            for batch in file.iter_batches(batch_size=_AT_ONCE, columns=texts, use_threads=False) if texts else ():
                for column in batch.columns:
                    yield from _lines(column, effort)
    except (ArrowException, OSError) as error:
        raise TooMuch(f"its table cannot be read: {error}") from error


def _lines(array: Any, effort: Effort) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import compute, types

    kind = array.type
    if types.is_dictionary(kind):
        array, kind = array.dictionary, array.dictionary.type
    if types.is_map(kind):
        yield from _lines(array.keys, effort)
        yield from _lines(array.items, effort)
    elif kind.num_fields:
        for part in array.flatten() if types.is_struct(kind) else [array.flatten()]:
            yield from _lines(part, effort)
    elif types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        values = compute.unique(array.drop_null().cast(pa.large_binary()))
        effort.expand(values.nbytes)
        if len(values):
            whole = pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)
            yield compute.binary_join(whole, pa.scalar(b"\n", pa.large_binary()))[0].as_py()
