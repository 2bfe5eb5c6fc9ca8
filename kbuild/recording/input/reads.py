"""Which columns of a table the pipeline reads: seen while it runs, by a table that notes what is asked of it.

What is not known to touch some columns alone counts as reading all of them, so that too much is named and never too
little. What is derived of a part of the columns is a plain table.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd

# Asked without reading a column.
_FREE = frozenset(
    (
        *("attrs", "axes", "columns", "copy", "dtypes", "empty", "flags", "head", "index", "keys", "loc", "ndim"),
        *("reset_index", "shape", "tail"),
    )
)
# What gives a table of the same columns, or of fewer.
_KEPT = frozenset(("copy", "head", "reset_index", "tail"))
# As those, where each column of what they give comes of that column alone; and where the rows come of the columns that
# this argument names.
_COLUMN_BY_COLUMN = frozenset(("astype", "bfill", "convert_dtypes", "ffill", "fillna", "infer_objects", "round"))
_ROWS_BY = {"drop_duplicates": "subset", "dropna": "subset", "sort_values": "by"}


class Reads:
    """The columns that were read; ``everything`` where it cannot be told which."""

    def __init__(self, columns: list[Hashable]) -> None:
        self._columns = columns
        self._known = frozenset(columns)
        self._names: set[Hashable] = set()
        self.everything = False
        self.paused = False

    @property
    def names(self) -> list[Hashable]:
        """In the table's order."""
        return [name for name in self._columns if self.everything or name in self._names]

    def note(self, *names: Any) -> None:
        try:
            self._names.update(name for name in names if name in self._known)
        except TypeError:
            self.everything = True  # no name, since it cannot be one

    @contextmanager
    def pause(self) -> Iterator[None]:
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before


def observe(table: pd.DataFrame) -> tuple[pd.DataFrame, Reads]:
    """The same table, and what will have been read of it; nothing can be told of columns with one name."""
    reads = Reads(table.columns.tolist())
    if not table.columns.is_unique or isinstance(table.columns, pd.MultiIndex):
        reads.everything = True
        return table, reads
    return _wrap(table, reads), reads


def plain(value: Any) -> Any:
    """An observed table as a plain one of the same data, without a read; any other value itself."""
    if type(value) is not _Observed:
        return value
    reads = _reads_of(value)
    if reads is None:
        return pd.DataFrame.copy(value, deep=False)
    with reads.pause():
        return pd.DataFrame.copy(value, deep=False)


def get_reads(value: Any) -> Reads | None:
    """What is noted of an observed table; None for any other value."""
    return _reads_of(value) if type(value) is _Observed else None


def follow(value: Any, reads: Reads | None) -> Any:
    """``value``, which an observed table was written to a file and read again as: it is observed as that was."""
    if reads is None or type(value) is _Observed:
        return value
    if isinstance(value, pd.DataFrame) and value.columns.is_unique and not isinstance(value.columns, pd.MultiIndex):
        return _wrap(value, reads)
    reads.everything = True
    return value


def _reads_of(table: Any) -> Reads | None:
    """None where pandas has made the table by itself."""
    found: Reads | None = object.__getattribute__(table, "__dict__").get("_reads")
    return found


def _wrap(table: Any, reads: Reads) -> pd.DataFrame:
    made = _Observed(table)
    object.__setattr__(made, "_reads", reads)
    return made


class _Observed(pd.DataFrame):  # type: ignore[misc]
    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def __getattribute__(self, name: str) -> Any:
        get = object.__getattribute__
        reads = get(self, "__dict__").get("_reads")
        if reads is None or reads.paused or reads.everything:
            return super().__getattribute__(name)
        if name in _FREE or name in ("__class__", "__dict__", "__len__", "__deepcopy__"):
            with reads.pause():
                found = super().__getattribute__(name)
            if name == "loc":
                return _Loc(found, self, reads)
            return _keep(found, reads) if name in _KEPT else found
        if name in _COLUMN_BY_COLUMN or name in _ROWS_BY or name == "drop":
            with reads.pause():
                found = super().__getattribute__(name)
            return _note_and_keep(found, _ROWS_BY.get(name), reads)
        if name not in dir(pd.DataFrame) and name in reads._columns:
            return self[name]
        if name not in _Observed.__dict__:
            reads.everything = True
        return super().__getattribute__(name)

    def __len__(self) -> int:
        return len(self.index)

    def __contains__(self, key: Any) -> bool:
        return key in self.columns

    def __iter__(self) -> Any:
        return iter(self.columns)

    def __getitem__(self, key: Any) -> Any:
        reads = _reads_of(self)
        if callable(key):
            key = key(self)
        if reads is None or reads.paused:
            return super().__getitem__(key)
        if isinstance(key, pd.DataFrame):
            reads.everything = True  # a mask of all cells
            return super().__getitem__(plain(key))
        rows = _chooses_rows(key)
        if not rows:
            reads.note(*(key if isinstance(key, list | pd.Index | np.ndarray | pd.Series) else [key]))
        with reads.pause():
            found = super().__getitem__(key)
        return _wrap(found, reads) if rows and not reads.everything else found

    def __setitem__(self, key: Any, value: Any) -> None:
        reads = _reads_of(self)
        if reads is None:
            super().__setitem__(key, value)
            return
        if isinstance(key, pd.DataFrame):
            reads.everything = True
        with reads.pause():
            super().__setitem__(plain(key), plain(value))

    def assign(self, **columns: Any) -> Any:
        """As pandas', on a table that goes on noting."""
        made = self.copy()
        for name, value in columns.items():
            made[name] = value(made) if callable(value) else value
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A plain table, which another process or a cache on disk may read as it likes."""
        if (reads := _reads_of(self)) is not None:
            reads.everything = True
        return pd.DataFrame, (plain(self),)


def _keep(method: Any, reads: Reads) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with reads.pause():
            found = method(*args, **kwargs)
        # With inplace=True some give the table itself.
        return _wrap(found, reads) if type(found) is pd.DataFrame else found

    return call


def _note_and_keep(method: Any, rows_by: str | None, reads: Reads) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature(method).bind(*args, **kwargs).arguments
        if method.__name__ == "drop":
            if given.get("errors") != "ignore":
                reads.note(*_named(given.get("labels" if given.get("axis") in (1, "columns") else "columns")))
        elif given.get("axis", 0) not in (0, "index"):
            reads.everything = True
        elif rows_by is not None:
            reads.everything |= given.get(rows_by) is None or callable(given.get("key"))
            reads.note(*_named(given.get(rows_by)))
        elif isinstance(named := given.get("dtype"), Mapping):
            reads.note(*named)  # pandas wants them to be there
        return _keep(method, reads)(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})

    return call


def _named(labels: Any) -> list[Any]:
    """One name or several, as pandas takes them; they have to be there."""
    return list(labels) if pd.api.types.is_list_like(labels) else [labels]


class _Loc:
    def __init__(self, indexer: Any, table: _Observed, reads: Reads) -> None:
        self._indexer, self._table, self._reads = indexer, table, reads

    def __getitem__(self, key: Any) -> Any:
        columns = key[1] if isinstance(key, tuple) and len(key) == 2 else slice(None)
        if isinstance(columns, str):
            self._reads.note(columns)
        elif isinstance(columns, list | pd.Index | np.ndarray) and not _chooses_rows(columns):
            self._reads.note(*columns)
        else:
            self._reads.everything = True
        with self._reads.pause():
            return self._indexer[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        with self._reads.pause():
            self._indexer[key] = plain(value)


def _chooses_rows(key: Any) -> bool:
    """Whether it is a mask or a slice."""
    if isinstance(key, slice):
        return True
    if isinstance(key, list):
        return bool(key) and all(isinstance(each, bool | np.bool_) for each in key)
    array = pd.Series | pd.Index | np.ndarray | pd.api.extensions.ExtensionArray
    return isinstance(key, array) and pd.api.types.is_bool_dtype(key.dtype)
