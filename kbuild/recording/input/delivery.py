"""What becomes of an input on its way: written as a request, read by MLflow, restored; and what that changed."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kbuild.served.forms import restore

if TYPE_CHECKING:
    from mlflow.types import Schema

_SHOWN = 8


def deliver(carried: Any, schema: Schema | None, form: Mapping[str, Any] | None) -> Any:
    """What the first node is given when ``carried`` is posted to the scoring server.

    Raises what MLflow raises, and PredictionError. The steps are those of ``mlflow.pyfunc.scoring_server.invocations``
    and of ``mlflow.pyfunc.PyFuncModel.predict``.
    """
    from mlflow.models.utils import _enforce_schema, convert_input_example_to_serving_input
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    with silent_mlflow():
        request = json.loads(convert_input_example_to_serving_input(carried))
        value = infer_and_parse_data(request, schema)
        if schema is not None:
            value = _enforce_schema(value, schema)
    return value if form is None else restore(form, value)


@contextmanager
def silent_mlflow() -> Iterator[None]:
    """Without what MLflow logs of each attempt, and what pandas warns of in MLflow's code."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_spark_connect() -> Iterator[None]:
    """As if Spark Connect were not installed, unless it is imported: MLflow imports it for a value it does not know.

    That import ends the program with status 0 where the main module has neither a file nor a spec (``python -c``, a
    program on standard input) and pyspark lacks grpc: it takes it for a doctest (pyspark 4, sql/connect/utils.py). A
    value of Spark Connect is of a module that is imported already.
    """
    name = "pyspark.sql.connect"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # an ImportError to who imports it, as sys.modules says
    try:
        yield
    finally:
        sys.modules.pop(name, None)


def find_change(known: Any, given: Any, where: str = "the input") -> str | None:
    """What differs between the input that training knows and what a request brings; None where they are the same."""
    if isinstance(known, pd.DataFrame):
        return _find_table_change(known, given, where)
    if isinstance(known, pd.Series):
        if not isinstance(given, pd.Series):
            return _kind_change(known, given, where)
        if known.name != given.name:
            return f"{where} is named {given.name!r} instead of {known.name!r}"
        return _find_table_change(known.to_frame(), given.to_frame(), where)
    if isinstance(known, np.ndarray):
        return _find_array_change(known, given, where)
    known = known.item() if isinstance(known, np.generic) else known
    if type(known) is not type(given) and not (isinstance(known, Mapping) and isinstance(given, Mapping)):
        return _kind_change(known, given, where)
    if isinstance(known, Mapping):
        lost = [key for key in known if key not in given]
        added = [key for key in given if key not in known]
        if lost or added:
            return f"{where} {_lost_and_added(lost, added)}"
        return next(filter(None, (find_change(known[key], given[key], f"{where}[{key!r}]") for key in known)), None)
    if isinstance(known, list):
        if len(known) != len(given):
            return f"{where} has {len(given)} values instead of {len(known)}"
        pairs = enumerate(zip(known, given, strict=True))
        return next(filter(None, (find_change(one, other, f"{where}[{n}]") for n, (one, other) in pairs)), None)
    if type(known).__module__.partition(".")[0] == "polars":
        return _find_polars_change(known, given, where)
    return None if _same_object(known, given) else f"{where} is {_short(given)} instead of {_short(known)}"


def _find_polars_change(known: Any, given: Any, where: str) -> str | None:
    if hasattr(known, "columns"):
        if known.columns != given.columns:
            return f"{where} has the columns {_list(given.columns)} instead of {_list(known.columns)}"
        names = ((name, f"the column {name!r} of {where}") for name in known.columns)
        return next(filter(None, (_find_polars_change(known[name], given[name], text) for name, text in names)), None)
    if known.dtype != given.dtype:
        return f"the type of {where} is {given.dtype} instead of {known.dtype}"
    same = known.equals(given, check_names=True)
    return None if same else f"the values of {where} are others"


def _kind_change(known: Any, given: Any, where: str) -> str:
    return f"{where} is a {_name(given)} instead of a {_name(known)}"


def _name(value: Any) -> str:
    return type(value).__name__


def _find_array_change(known: np.ndarray, given: Any, where: str) -> str | None:
    if not isinstance(given, np.ndarray):
        return _kind_change(known, given, where)
    if known.shape != given.shape:
        return f"the shape of {where} is {given.shape} instead of {known.shape}"
    # The length of a text in numpy's arrays is that of the longest.
    if known.dtype != given.dtype and known.dtype.kind + given.dtype.kind != "UU":
        return f"the type of {where} is {given.dtype} instead of {known.dtype}"
    same = np.array_equal(known, given, equal_nan=known.dtype.kind in "fM")
    return None if same else f"the values of {where} are others"


def _find_table_change(known: pd.DataFrame, given: Any, where: str) -> str | None:
    if not isinstance(given, pd.DataFrame):
        return _kind_change(known, given, where)
    before, after = known.columns.tolist(), given.columns.tolist()
    if before != after:
        lost = [label for label in dict.fromkeys(before) if before.count(label) > after.count(label)]
        added = [label for label in dict.fromkeys(after) if after.count(label) > before.count(label)]
        if not lost and not added:
            return f"the columns of {where} come in the order {_list(after)} instead of {_list(before)}"
        return f"{where} {_lost_and_added(lost, added, 'column(s)')}"
    if known.columns.names != given.columns.names:
        return f"the columns of {where} are named {given.columns.names} instead of {known.columns.names}"
    if len(known) != len(given):
        return f"{where} has {len(given)} rows instead of {len(known)}"
    for place, label in enumerate(before):
        one, other = known.iloc[:, place], given.iloc[:, place]
        if str(one.dtype) != str(other.dtype) or one.dtype != other.dtype:
            return f"the column {label!r} of {where} has the type {other.dtype} instead of {one.dtype}"
        if not _same_values(one, other):
            return f"the values of the column {label!r} of {where} are others"
    index, other = known.index, given.index
    counts_rows = index.nlevels == 1 and index.name is None and pd.api.types.is_integer_dtype(index.dtype)
    same = index.names == other.names and index.dtype == other.dtype and index.equals(other)
    if not counts_rows and not same:
        return f"the index of {where} is another"
    return _find_label_change(known.index, given.index, f"the index of {where}", typed=False) or _find_label_change(
        known.columns, given.columns, f"the columns of {where}", typed=True
    )


def _find_label_change(known: pd.Index, given: pd.Index, where: str, *, typed: bool) -> str | None:
    """What equal labels may differ in."""
    mine, theirs = (getattr(each, "freq", None) for each in (known, given))
    if mine != theirs:
        return f"the frequency of {where} is {theirs} instead of {mine}"
    kinds = {str(known.dtype), str(given.dtype)}
    if typed and known.dtype != given.dtype and not kinds <= {"object", "str", "string"}:
        return f"the type of {where} is {given.dtype} instead of {known.dtype}"
    return None


def _same_values(known: pd.Series, given: pd.Series) -> bool:
    one, other = known.reset_index(drop=True), given.reset_index(drop=True)
    if one.dtype != object and (one.equals(other) or not isinstance(one.dtype, pd.ArrowDtype)):
        return bool(one.equals(other))
    # So are pyarrow's NaN, which equal nothing.
    return all(_same_object(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def _same_object(mine: Any, theirs: Any) -> bool:
    if type(mine) is not type(theirs):
        return False
    if isinstance(mine, dict | list | np.ndarray):
        return find_change(mine, theirs) is None
    if mine is None or mine is pd.NA or mine is pd.NaT:
        return mine is theirs
    return bool(mine == theirs) or (isinstance(mine, float) and mine != mine and theirs != theirs)


def _lost_and_added(lost: list[Any], added: list[Any], what: str = "key(s)") -> str:
    told = [f"lost the {what} {_list(lost)}"] if lost else []
    return " and ".join([*told, *([f"gained the {what} {_list(added)}"] if added else [])])


def _list(labels: list[Any]) -> str:
    return ", ".join(map(repr, labels[:_SHOWN])) + (", …" if len(labels) > _SHOWN else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
