"""What can be told of the kind of the inference input before anything is trained."""

from __future__ import annotations

import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args, is_typeddict

import pandas as pd

from kbuild.errors import RecordingError
from kbuild.recording.example import (
    check_columns,
    get_own_example,
    is_chosen,
    read_own,
    take_rows,
)
from kbuild.recording.input.forms import carry, describe, refuse_parts
from kbuild.recording.input.signature import make_carried
from kbuild.recording.input.used import is_used, refuse_used
from kbuild.training.described import is_in_memory, is_persisted, load_place
from kbuild.training.entry import EntryValidator

# Bytes. Loaded once more for the look, and a spreadsheet takes its time.
_SMALL = 4 << 20
# Rows of what a node is given. The rest is looked at where these are refused: that may be for what they lack.
_MANY = 10_000
_SERVED = ("pandas", "polars", "numpy")
_SERVED_BUILTINS = (dict, list, str, bytes, int, float, bool)
_LOCAL = ("file", "local", "")


def check_kind(
    name: str,
    dataset: Any,
    log_model_kwargs: Mapping[str, Any],
    *,
    made: bool,
    catalog: Any = None,
    among: bool = False,
) -> RecordingError | None:
    """Why no request could bring the input, as far as its entry in the catalog lets one know; None where that is open.

    ``among``: it is one of several inputs, of which some may be no tables.

    By its data, as recording goes, if no node of the run makes it (``made``) and it is in memory or in a local file
    that is not large; else by what the dataset's type says that it loads.
    """
    if dataset is None:
        return None
    entry = EntryValidator(name, catalog)

    def load() -> Any:
        return entry.give(dataset.load())

    if is_chosen(log_model_kwargs):
        at_hand = not made and _is_at_hand(dataset)
        return _check_signature(load, log_model_kwargs["signature"], log_model_kwargs) if at_hand else None
    used = is_used(log_model_kwargs.get("signature"))
    if not made and _is_at_hand(dataset):
        return _check_data(name, load, log_model_kwargs, used=used, among=among)
    if not entry.validates and _loads_parts(dataset):
        return refuse_parts()
    kind = None if entry.validates else find_kind(type(dataset))
    if kind is not None and used and not among and _is_no_table(kind):
        return refuse_used(name, kind)
    if kind is not None and not _is_served(kind):
        return RecordingError(
            f"no request can bring the inference input {name!r}: {type(dataset).__name__} loads a value of the type "
            f"{kind.__module__}.{kind.__qualname__}",
            hint="let the first inference node make it of a table, an array, a dict, a list, a number, a text or "
            "bytes, and let the catalog load that",
        )
    return None


def check_value(
    name: str, value: Any, log_model_kwargs: Mapping[str, Any], *, rows: int = 5, among: bool = False
) -> RecordingError | None:
    """The same by the value itself, which a node of training is given; ``rows`` of it are to be the example."""

    def check(data: Any) -> RecordingError | None:
        if is_chosen(log_model_kwargs):
            return _check_signature(lambda: data, log_model_kwargs["signature"], log_model_kwargs)
        used = is_used(log_model_kwargs.get("signature"))
        return _check_data(name, lambda: data, log_model_kwargs, used=used, rows=rows, among=among)

    return check(take_rows(value, _MANY)) and check(value)


def _check_data(
    name: str,
    load: Callable[[], Any],
    log_model_kwargs: Mapping[str, Any],
    *,
    used: bool,
    rows: int = 5,
    among: bool = False,
) -> RecordingError | None:
    try:
        data = load()
    except Exception:  # noqa: BLE001  the node that loads it tells of that
        return None
    try:
        if used and type(data) is not pd.DataFrame:
            if not among:
                return refuse_used(name, type(data))
            used = False
        if among and isinstance(data, bytes):
            data = {name: data}  # as one of several it is recorded
        # Of "used" the data may have what no request brings, in columns that nobody reads.
        carried = None if used else make_carried(data, take_rows(data, rows))
        example = get_own_example(log_model_kwargs)
        if example is not None:
            check_columns(example, data, used=used)
        if example is not None and carried is not None:
            read_own(example, data, carried)
    except RecordingError as error:
        return error
    return None


def _check_signature(
    load: Callable[[], Any], signature: Any, log_model_kwargs: Mapping[str, Any]
) -> RecordingError | None:
    """Columns that the user's own signature asks for, and that neither the input nor its index has."""
    schema = getattr(signature, "inputs", None)
    if schema is None or schema.is_tensor_spec() or not schema.has_input_names():
        return None
    try:
        example = get_own_example(log_model_kwargs)
        table = load() if example is None else example
    except Exception:  # noqa: BLE001  the node that loads it tells of that
        return None
    if type(table) is not pd.DataFrame:
        return None
    try:
        has = {str(name) for name in carry(describe(table), table.head(1)).columns} | {str(each) for each in table}
    except RecordingError:
        return None  # an answer by the user's signature may be had without what no request brings
    lacking = [name for name in schema.required_input_names() if str(name) not in has]
    if not lacking:
        return None
    return RecordingError(
        f"the signature in log_model_kwargs asks for {', '.join(map(repr, lacking))}, which the "
        f"{'inference input' if example is None else 'input_example'} has not",
        hint="leave the signature out, or make it of the input: "
        f"mlflow.models.infer_signature(…), whose columns are {', '.join(map(str, table.columns[:30]))}",
    )


def _loads_parts(dataset: Any) -> bool:
    """Whether it gives a function for each part; an IncrementalDataset gives their values."""
    names = {kind.__name__ for kind in type(dataset).__mro__}
    return "PartitionedDataset" in names and "IncrementalDataset" not in names


def _is_no_table(kind: type) -> bool:
    """Whether what is declared so is surely no table of pandas."""
    home = kind.__module__.partition(".")[0]
    return home in ("polars", "numpy") or (kind is not object and kind in _SERVED_BUILTINS)


def find_kind(dataset: type) -> type | None:
    """The class that a dataset type is declared to load, ``AbstractDataset[In, Out]``; None for none or several."""
    for base in dataset.__mro__:
        for each in vars(base).get("__orig_bases__", ()):
            arguments = get_args(each)
            if len(arguments) == 2:
                return arguments[1] if inspect.isclass(arguments[1]) and not get_args(arguments[1]) else None
    return None


def _is_served(kind: type) -> bool:
    """Whether what is declared so may be served: one that only says what its values are like leaves that open."""
    home = kind.__module__.partition(".")[0]
    if kind is object or home in (*_SERVED, "typing", "collections"):
        return True
    # Protocols are of that metaclass, too; a TypedDict is a dict.
    return isinstance(kind, ABCMeta) or is_typeddict(kind) or issubclass(kind, _SERVED_BUILTINS)


def _is_at_hand(dataset: Any) -> bool:
    try:
        if is_in_memory(dataset):
            return bool(dataset.exists())
        if not is_persisted(dataset) or getattr(dataset, "_protocol", "file") not in _LOCAL:
            return False
        place = Path(str(load_place(dataset)))
        return place.is_file() and place.stat().st_size <= _SMALL
    except Exception:  # noqa: BLE001  no version of it, or no file: whoever loads it says so
        return False
