"""The form of an inference input, from the data that training's catalog gives (``kbuild.served.forms`` restores it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kbuild.errors import RecordingError
from kbuild.recording.input.columns import carries_any, carry_column, describe_column
from kbuild.recording.input.labels import find_levels, name_columns, note_frequencies, note_label_type
from kbuild.recording.input.polars import describe_schema, is_polars, to_frame, to_pandas
from kbuild.training.described import is_partitioned

_SCALARS = (bool, int, float, str, bytes)
_PLAIN = (pd.DataFrame, pd.Series, np.ndarray, list, dict)
_HINT = (
    "let the first inference node make it of a table, an array, a dict, a list of texts or dicts, a number, a text "
    "or bytes; or pass signature=None in log_model_kwargs to log it without a check of its answers"
)
BYTES_COLUMN = "data"
_DOUBLE = 8  # bytes of the widest float that a signature knows
_TEXT = "str"  # pandas' type of columns with texts, from 3 on; what has none comes as objects


def describe(data: Any, *, typed: bool = True) -> dict[str, Any] | None:
    """The form of ``data``; None where MLflow hands it on as it is, which a ``typed`` signature helps it to.

    Raises RecordingError, naming the kind or the column, for what no request can bring.
    """
    form = _describe(data)
    if not typed and form is not None:
        _state_types(form)
    if typed and form is not None and form["kind"] == "table" and _is_plain(form):
        texts = {column["wire"]: column for column in form["columns"] if column["as"] == "text"}
        return {"kind": "texts", "texts": texts} if texts else None
    return form


def _state_types(form: dict[str, Any]) -> None:
    """Restore every column, since no signature says what its values are."""
    table = form["table"] if form["kind"] == "polars" else form
    for column in [*table.get("index", ()), *table.get("columns", ())]:
        if column["as"] == "plain":
            kinds = {"d": "time", "b": "truth", "s": "text"}
            column["as"] = kinds.get(column["dtype"][0], "number")


def _describe(data: Any) -> dict[str, Any] | None:
    if is_partitioned(data):
        raise refuse_parts()
    # Classes made of these hold more, a mask say, and come as what they are made of.
    if isinstance(data, pd.DataFrame | pd.Series | np.ndarray | list | Mapping) and type(data) not in _PLAIN:
        raise _refuse_type(data)
    if isinstance(data, pd.DataFrame):
        return _describe_table(data)
    if isinstance(data, pd.Series):
        form = _describe_table(data.to_frame())
        return form | {"kind": "series", "labels": [data.name]}
    if is_polars(data):
        return _describe_polars(data)
    if isinstance(data, np.ndarray):
        if data.dtype.kind not in "fiubUM" or (data.dtype.kind == "f" and data.dtype.itemsize > _DOUBLE):
            raise _refuse(f"a NumPy array of the type {data.dtype}")
        return None
    if type(data) in _SCALARS or isinstance(data, np.generic):
        kind = type(data.item() if isinstance(data, np.generic) else data)
        if kind not in _SCALARS:
            raise _refuse_type(data)
        return {"kind": "scalar", "type": kind.__name__}
    if isinstance(data, list):
        return _describe_list(data)
    if isinstance(data, Mapping):
        return _describe_mapping(data)
    raise _refuse_type(data)


def refuse_parts() -> RecordingError:
    """What is told of an input that Kedro's PartitionedDataset loads."""
    return RecordingError(
        "no request can bring the inference input, parts of a partitioned dataset: each is a function that loads it",
        hint="let the first inference node take one value that is like a part, or all of them as one table, and give "
        "the catalog a dataset with an example of that",
    )


def _refuse(what: str) -> RecordingError:
    return RecordingError(f"no request can bring the inference input, {what}", hint=_HINT)


def _refuse_type(data: Any) -> RecordingError:
    kind = type(data)
    named = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return _refuse(f"a value of the type {named}")


def _describe_table(table: pd.DataFrame) -> dict[str, Any]:
    labels = table.columns.tolist()
    levels = find_levels(table)
    wires = name_columns([*levels, *labels])
    if not wires:
        raise _refuse("a table without columns")
    index = (
        [
            describe_column(f"index {name!r}" if name is not None else "index", wire, values)
            for (name, values), wire in zip(levels.items(), wires, strict=False)
        ]
        if levels
        else []
    )
    columns = [
        describe_column(label, wire, table.iloc[:, place])
        for place, (label, wire) in enumerate(zip(labels, wires[len(levels) :], strict=True))
    ]
    return {
        "kind": "table",
        "index": index,
        "index_names": list(table.index.names) if index else [],
        "columns": columns,
        "labels": labels,
        "multi": isinstance(table.columns, pd.MultiIndex),
        "label_names": list(table.columns.names),
        **note_label_type(table.columns),
        **note_frequencies(table),
    }


def _is_plain(form: Mapping[str, Any]) -> bool:
    return (
        not form["index"]
        and not form["multi"]
        and form["label_names"] == [None]
        and "label_type" not in form
        and form["labels"] == [column["wire"] for column in form["columns"]]
        and all(type(label) is str for label in form["labels"])
        and all(column["as"] == "plain" or column["dtype"] == _TEXT for column in form["columns"])
    )


def _describe_polars(data: Any) -> dict[str, Any]:
    frame = to_frame(data)
    schema = describe_schema(frame)
    # Named as in a table, and its form is that of the same values in pandas.
    form = {"kind": "polars", "schema": schema, "table": _describe_table(to_pandas(frame))}
    return form if data is frame else form | {"column": data.name}


def _describe_list(data: list[Any]) -> dict[str, Any]:
    types = {type(each) for each in data}
    if types == {dict}:
        return {"kind": "records", **_describe_rows(data)}
    if len(types) == 1 and types <= {*_SCALARS}:
        return {"kind": "list", "type": types.pop().__name__}
    if types == {int, float}:
        raise _refuse("a list of whole numbers and floats, which JSON and tables do not keep apart")
    if not types:
        raise _refuse("an empty list")
    raise _refuse(f"a list of {', '.join(sorted(each.__name__ for each in types))}")


def _describe_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    optional, types, nulls = [], {}, []
    for key in keys:
        if type(key) is not str or not key:
            raise _refuse(f"a dict with the key {key!r}, which is not text")
        values = [row[key] for row in rows if key in row]
        for value in values:
            _check_json(key, value)
        kinds = {type(value) for value in values if value is not None}
        if len(values) < len(rows):
            if any(value is None for value in values):
                raise _refuse(f"dicts where {key!r} is None in some and not there in others")
            optional.append(key)
        if len(kinds) == 1 and (kind := next(iter(kinds))) in _SCALARS:
            types[key] = kind.__name__
        if kinds == {float} and None in values:
            if any(value != value for value in values):
                raise _refuse(f"dicts where {key!r} is None in some and NaN in others: both come as null")
            nulls.append(key)
    return {"optional": optional, "types": types, **({"nulls": nulls} if nulls else {})}


def _check_json(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            _check_json(f"{key}.{name}", each)
    elif isinstance(value, list):
        for each in value:
            _check_json(key, each)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise _refuse(f"a dict whose {key!r} is of the type {type(value).__name__}")


def _describe_mapping(data: Mapping[Any, Any]) -> dict[str, Any] | None:
    values = list(data.values())
    if values and all(type(each) is np.ndarray for each in values):
        wrong = [name for name, each in data.items() if each.dtype.kind not in "fiubUM"]
        if wrong:
            raise _refuse(f"a dict whose {wrong[0]!r} is an array of the type {data[wrong[0]].dtype}")
        return None
    if values and any(isinstance(each, pd.DataFrame | pd.Series) or is_polars(each) for each in values):
        parts = {}
        for name, each in data.items():
            if type(name) is not str or not name:
                raise _refuse(f"a dict with the key {name!r}, which is not text")
            part = _describe(each)
            if isinstance(each, np.ndarray):
                part = {"kind": "array", "dtype": str(each.dtype)}
            if part is None or part["kind"] == "tables":
                raise _refuse(f"a dict of tables whose {name!r} is of the type {type(each).__name__}")
            _state_types(part)
            parts[name] = part
        return {"kind": "tables", "parts": parts}
    if not values:
        raise _refuse("an empty dict")
    return {"kind": "mapping", **_describe_rows([dict(data)])}


def carry(form: Mapping[str, Any] | None, data: Any) -> Any:
    """``data`` as MLflow is to infer a signature from, and to keep as the example."""
    if form is None:
        return data.reset_index(drop=True) if isinstance(data, pd.DataFrame) else data
    kind = form["kind"]
    if kind == "texts":
        return data.reset_index(drop=True)
    if kind == "table":
        return _carry_table(form, data)
    if kind == "series":
        return _carry_table(form, data.to_frame())
    if kind == "polars":
        return _carry_table(form["table"], to_pandas(to_frame(data)))
    if kind == "tables":
        return {name: _carry_part(part, data[name]) for name, part in form["parts"].items()}
    if form.get("type") == "bytes":
        return pd.DataFrame({BYTES_COLUMN: data if isinstance(data, list) else [data]})
    return data.item() if isinstance(data, np.generic) else data


def _carry_table(form: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    levels = list(find_levels(table).values()) if form["index"] else []
    given = [*levels, *(table.iloc[:, place].reset_index(drop=True) for place in range(table.shape[1]))]
    columns = [*form["index"], *form["columns"]]
    made = {column["wire"]: carry_column(values, column) for column, values in zip(columns, given, strict=True)}
    return pd.DataFrame(made)


def _carry_part(part: Mapping[str, Any], value: Any) -> Any:
    if part["kind"] == "array":
        return value.astype(str).tolist() if value.dtype.kind == "M" else value.tolist()
    carried = carry(part, value)
    if isinstance(carried, pd.DataFrame):
        rows = carried.astype(object).where(carried.notna(), None).to_dict("records")
        return [
            {key: each.isoformat() if isinstance(each, pd.Timestamp) else each for key, each in row.items()}
            for row in rows
        ]
    return carried


def find_any(form: Mapping[str, Any] | None, *, nested: bool = False) -> list[str]:
    """Columns of the carried table that only MLflow's type Any can carry; with ``nested`` lists and dicts too."""
    table = form and (form["table"] if form["kind"] == "polars" else form)
    if not table or "columns" not in table:
        return []
    columns = [*table["index"], *table["columns"]]
    cells = ("json", "array")
    return [each["wire"] for each in columns if carries_any(each) or (nested and each.get("base", each)["as"] in cells)]
