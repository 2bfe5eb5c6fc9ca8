"""How much a Parquet file holds, before it is read: a few bytes of it can stand for gigabytes.

What the footer says of sizes is checked against the pages, whose headers say what a reader sets memory aside for.
Format: https://github.com/apache/parquet-format (``parquet.thrift``) in Thrift's compact protocol.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

_FOOTER_PER_COLUMN, _FOOTER = 1024, 2**20  # bytes; pandas writes 100 to 300 for a column
_PAGE = 4096  # the least that a page counts for, so that many that are empty do not take for ever
# Bytes of a value in pandas: as numpy has it, as a Python object, as a dict or list.
_NUMBER, _OBJECT, _CONTAINER = 8, 48, 256
_PLAIN_LOGICAL = {"NONE", "INT", "TIMESTAMP", "FLOAT16"}
_DELTA = 7
_REPEATING = {2, 7, 8}  # PLAIN_DICTIONARY, DELTA_BYTE_ARRAY, RLE_DICTIONARY: a text of one value is used by many
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8  # fields of PageHeader
_GROUPS, _CHUNKS = 4, 1  # fields of FileMetaData and RowGroup
_META, _CRYPTO = 3, frozenset({8, 9})  # of ColumnChunk
_VALUES, _PACKED, _AT, _DICTIONARY_AT = 5, 7, 9, 11  # of ColumnMetaData
_DEEPEST = 16  # of a footer's structs and lists some eight lie within one another
_IS_INT32, _IS_INT64, _IS_TEXT, _IS_LIST, _IS_MAP, _IS_STRUCT = 5, 6, 8, (9, 10), 11, 12
# By the fields that lead there, the lists that a reader knows and what it takes their elements for, whatever they are
# said to be.
_LISTS: dict[tuple[int, ...], int] = {
    **dict.fromkeys([(2,), (4,), (5,), (7,), (4, 1), (4, 4), (4, 1, 3, 8), (4, 1, 3, 13)], _IS_STRUCT),
    **dict.fromkeys([(4, 1, 3, 2), (4, 1, 3, 17, 2)], _IS_INT32),
    **dict.fromkeys([(4, 1, 3, 16, 2), (4, 1, 3, 16, 3)], _IS_INT64),
    (4, 1, 3, 3): _IS_TEXT,
}
_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}


class NoParquet(Exception):
    """A file that is no Parquet, or whose pages are not where it says."""


class Expanded(Exception):
    """More memory than it may take."""


def measure(body: bytes, columns: int, most: int) -> tuple[int, int]:
    """Rows and columns; ``columns`` are as many as are looked at, ``most`` the bytes that the table may take.

    Raises Unreadable, Expanded for a table that takes more, and ImportError where there is no pyarrow.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    if body.endswith(b"PAR1") and int.from_bytes(body[-8:-4], "little") > _FOOTER + columns * _FOOTER_PER_COLUMN:
        raise NoParquet
    try:
        told = read_metadata(io.BytesIO(body))
    except (ArrowException, OSError, ValueError):
        return 0, 0  # MLflow says what is wrong with it
    try:
        # The file's own sum counts for nothing when it is read.
        rows = sum(told.row_group(number).num_rows for number in range(told.num_row_groups))
        if told.num_columns <= columns:
            _Table(body, told, rows, most).check()
    except (ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise NoParquet from error
    return rows, told.num_columns


def _read_chunks(body: bytes) -> list[list[dict[int, Any]]]:
    """Of each column of each row group those fields of ColumnMetaData that are whole numbers of 64 bits.

    pyarrow is not asked for them: it ends the process where a column is encrypted, or its statistics do not fit.
    """
    length = int.from_bytes(body[-8:-4], "little")
    footer = _Footer(body, len(body) - 8 - length).struct()
    found = [list(group[_CHUNKS]) for group in footer.get(_GROUPS) or ()]
    if any(_CRYPTO.intersection(chunk) for chunks in found for chunk in chunks):
        raise NoParquet
    return [[chunk[_META] for chunk in chunks] for chunks in found]


class _Table:
    def __init__(self, body: bytes, told: Any, rows: int, most: int) -> None:
        self._body, self._told, self._rows, self._left = body, told, rows, most
        self._groups = _read_chunks(body)
        if [len(chunks) for chunks in self._groups] != [told.num_columns] * told.num_row_groups:
            raise NoParquet

    def check(self) -> None:
        doubtful = {}
        for number in range(self._told.num_columns):
            column = self._told.schema.column(number)
            values, longest, repeats, shared = self._walk(number)
            # The path of a struct's field has the struct's name before its own; names may have dots, too.
            nested = column.max_repetition_level > 0 or column.path != column.name
            self._take(self._rows * _CONTAINER if nested else 0)
            if column.max_repetition_level > 1:
                self._take(values * _CONTAINER)
            text = column.physical_type == "BYTE_ARRAY"
            plain = column.logical_type.type in _PLAIN_LOGICAL and not text
            self._take(values * (_NUMBER if plain else _OBJECT))
            if column.physical_type == "FIXED_LEN_BYTE_ARRAY":
                self._take(values * column.length)
            elif text and repeats:
                doubtful[number] = longest, values * longest, nested, shared
        if sum(size for _, size, _, _ in doubtful.values()) > self._left:
            paths = Counter(self._told.schema.column(number).path for number in range(self._told.num_columns))
            for number, (longest, size, nested, shared) in doubtful.items():
                path = self._told.schema.column(number).path
                if size <= self._left // self._told.num_columns:
                    self._take(size)
                elif nested:
                    alone = sum(each == path or each.startswith(f"{path}.") for each in paths.elements()) == 1
                    self._count_nested(path, countable=alone and not shared)
                else:
                    self._decode(path, longest, countable=paths[path] == 1)

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Expanded

    def _walk(self, number: int) -> tuple[int, int, bool, bool]:
        """Values of a column, bytes of its longest page, whether one text can stand for many, and whether part of one
        can."""
        values, longest, repeats, shared = 0, 0, False, False
        for chunks in self._groups:
            chunk = chunks[number]
            start, dictionary = chunk[_AT], chunk.get(_DICTIONARY_AT)
            if not start and not chunk[_VALUES]:
                continue  # of a table without rows nothing is read
            if dictionary and dictionary < start:
                start = dictionary
            end = start + chunk[_PACKED]
            if not 0 < start <= end <= len(self._body):
                raise NoParquet
            while start < end:
                header = _Compact(self._body, start)
                page = header.struct()
                size, packed = _whole(page, 2), _whole(page, 3)
                self._take(max(size, _PAGE))
                longest = max(longest, size)
                for kind in (_DATA, _DICTIONARY, _DATA_V2):
                    inner = page.get(kind)
                    if isinstance(inner, dict):
                        count = _whole(inner, 1)
                        values += count if kind != _DICTIONARY else 0
                        encoding = _whole(inner, _ENCODING[kind])
                        repeats |= kind == _DICTIONARY or encoding in _REPEATING
                        shared |= encoding == _DELTA
                start = header.place + packed
        return values, longest, repeats, shared

    def _count_nested(self, path: str, *, countable: bool) -> None:
        """Count the texts in lists and structs by their numbers in the column's dictionary, without making them.

        A row can hold any number of them; the numbers themselves were counted with the values.
        """
        from pyarrow.compute import binary_length
        from pyarrow.compute import sum as add_up
        from pyarrow.parquet import ParquetFile

        with ParquetFile(io.BytesIO(self._body), read_dictionary=[path]) as file:
            if not countable or not _is_numbered(file.schema_arrow, path):
                raise Expanded
            for batch in file.iter_batches(columns=[path], use_threads=False):
                for leaf in _leaves(batch.column(0)):
                    lengths = binary_length(leaf.dictionary).cast("int64")
                    self._take(add_up(lengths.take(leaf.indices)).as_py() or 0)

    def _decode(self, path: str, longest: int, *, countable: bool) -> None:
        """Count the texts of a column as they are, a few rows at a time."""
        from pyarrow.parquet import ParquetFile

        if not countable:
            raise Expanded  # a row can hold any number of them
        rows = max(1, min(self._rows, 2**24 // max(1, longest)))
        with ParquetFile(io.BytesIO(self._body)) as file:
            for batch in file.iter_batches(batch_size=rows, columns=[path], use_threads=False):
                # Others whose names begin with this one come along.
                self._take(batch.column(path).nbytes)


def _is_numbered(schema: Any, path: str) -> bool:
    """Whether the only texts below a column would be read as numbers in a dictionary."""
    from pyarrow import types

    fields = [field for field in schema if path.startswith(f"{field.name}.")]
    pending, found = [field.type for field in fields], []
    while pending:
        kind = pending.pop()
        if kind.num_fields:
            pending += [kind.field(number).type for number in range(kind.num_fields)]
        else:
            found.append(types.is_dictionary(kind))
    return len(fields) == 1 and any(found)


def _leaves(array: Any) -> Iterator[Any]:
    from pyarrow import types

    if types.is_dictionary(array.type):
        yield array
    elif types.is_map(array.type):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif array.type.num_fields:
        for part in [array.flatten()] if not types.is_struct(array.type) else array.flatten():
            yield from _leaves(part)
    else:
        raise Expanded  # it was made as it is, whatever it was asked to be read as


def _whole(fields: Mapping[int, Any], number: int) -> int:
    """A field that is a count or a size; a broken file may have anything in its place."""
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise NoParquet
    return value


class _Compact:
    """Reads a struct of Thrift's compact protocol into {field: value}; raises IndexError and NoParquet."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self.place = place

    def struct(self, place: tuple[int, ...] = (), depth: int = 0) -> dict[int, Any]:
        if depth > _DEEPEST:
            raise NoParquet
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._number()
            if field in found:
                raise NoParquet  # one reader takes the first, another the last
            found[field] = self.read_value(head & 15, (*place, field), depth)
        return found

    def read_value(self, kind: int, place: tuple[int, ...], depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, _IS_INT32, _IS_INT64):
            return self._number()
        if kind in (7, _IS_TEXT):
            size = 8 if kind == 7 else self._varint()
            self.place += size
            return None
        if kind == _IS_STRUCT:
            return self.struct(place, depth + 1)
        raise NoParquet  # a page's header has neither lists nor maps

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise NoParquet

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


class _Footer(_Compact):
    """The same for FileMetaData, which has lists: numbers of another size than 64 bits are None, as if not there."""

    def read_value(self, kind: int, place: tuple[int, ...], depth: int) -> Any:
        if depth > _DEEPEST:
            raise NoParquet
        if kind in _IS_LIST:
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            if _LISTS.get(place, head & 15) != head & 15:
                raise NoParquet
            return [self._element(head & 15, place, depth) for _ in range(size)]
        if kind == _IS_MAP:
            kinds = self._byte() if (size := self._varint()) else 0
            return [self._element(each, place, depth) for _ in range(size) for each in (kinds >> 4, kinds & 15)]
        value = super().read_value(kind, place, depth)
        return None if kind in (3, 4, _IS_INT32) else value

    def _element(self, kind: int, place: tuple[int, ...], depth: int) -> Any:
        """Of a list or map, where a truth value is a byte of its own."""
        return self._byte() == 1 if kind in (1, 2) else self.read_value(kind, place, depth + 1)
