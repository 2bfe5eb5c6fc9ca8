"""Kinds of inference inputs: what is served as training knows it, and what is refused."""

from __future__ import annotations

import datetime
import decimal
import inspect
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

PAGE = Path(__file__).parents[2] / "kbuild" / "docs" / "inputs.md"
HEAD = """# What an inference input may be

A request reaches the pipeline through MLflow, whose tables know fewer types than pandas. While a model is recorded,
kbuild posts the example as the scoring server would and compares: what the first node is given is what training's
catalog gives, and the answer is the pipeline's own. Where MLflow changes the value, the model carries a *form* that
restores it; where nothing can, the run fails (exit 17) and says which column or kind it is and what to write.

In a signature of your own (`log_model_kwargs`), or `signature=None`, the form is kept where the example then arrives
as it is; else MLflow's answer has to be the pipeline's own. An index of unnamed whole numbers counts rows and is not
sent. A time index has training's frequency where the rows of the request follow it, else none, as pandas has it.
MLflow reads the times of a column in the form of the first: in a request all have a fraction of a second
(`2024-01-31T12:00:01.000`) or none. Recording recalls that where training's have both.

Where the pipeline reads some of a table's columns by name, recording says which (`The inference pipeline reads 8 of the
27 columns of …`);
`log_model_kwargs={"signature": "used"}` (for all models of a project `training: {signature: used}` in `kbuild.yml`)
leaves the others out of signature, example and requests, if the pipeline's own answer stays the same without them.

Several inputs are a list of names, `pipeline_ml_factory(training, inference, ["orders", "rates"])`: a request brings
them by these names, `{"inputs": {"orders": [{"kind": "a", "count": 5}], "rates": [{"kind": "a", "rate": 3.0}]}}`, each
table as a list of its rows (with `"signature": "used"` of the columns that are read of it, of a table that is taken
whole all), arrays as lists; `dataframe_records` and `dataframe_split` of one such row, and `predict`
of such a dict, say the same. Each reaches the pipeline as a single input of its kind would.

Made by `integration/test_input_kinds.py` of what it sees: each request is posted over HTTP to the logged model, whose
answer is that of Kedro's own run of the inference pipeline; what is refused is refused before the first node runs.

| served, equal | in a request | signature |
|---|---|---|
"""
D = decimal.Decimal
STAMP = uuid.UUID("12345678-1234-5678-1234-567812345678")
TIME = datetime.datetime(2024, 1, 31, 12)
CODED = pa.dictionary(pa.int32(), pa.string())


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def arrow(kind: pa.DataType, *values: Any) -> pd.Series:
    """A column as ``pandas.read_parquet(…, dtype_backend="pyarrow")`` gives it."""
    return pd.Series(pd.array(pa.array([*values], type=kind), dtype=pd.ArrowDtype(kind)))


def make_served() -> dict[str, Any]:
    """By name, values that are served as training knows them."""
    days = pd.to_datetime(["2024-01-31T12:00:00.5", None])
    of_nan: dict[str, Any] = {}
    if "na_value" in inspect.signature(pd.StringDtype).parameters:  # pandas 2.3
        of_nan["m"] = pd.array(["a", None], dtype=pd.StringDtype("python", na_value=float("nan")))
    return {
        "DataFrame": table(a=[1, 2], b=["x", None], c=[1.5, None], d=[True, False]),
        "integer column names, in any order": pd.DataFrame([[2.0, 100.0, 1.0]], columns=[2, 0, 1]),
        "the same column name twice": pd.DataFrame([[1, 2.5]], columns=["a", "a"]),
        "columns of a MultiIndex": pd.DataFrame(
            [[1, 2.5]], columns=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")], names=["one", "two"])
        ),
        "an empty column name": pd.DataFrame({"": [1], "b": [2]}),
        "category": table(c=pd.Categorical(["b", None], categories=["b", "a"], ordered=True)),
        "category of integers": table(c=pd.Categorical([3, None], categories=[3, 1])),
        "Int64 with gaps": table(n=pd.array([1, None], dtype="Int64")),
        "Int32, UInt8 without": table(n=pd.array([1], dtype="Int32"), m=pd.array([1], dtype="UInt8")),
        "boolean with gaps": table(n=pd.array([True, None], dtype="boolean")),
        "Float64 with gaps": table(n=pd.array([1.5, None], dtype="Float64")),
        "string with gaps": table(n=pd.array(["a", None], dtype="string")),
        "string, kept by Python": table(n=pd.array(["a", None], dtype=pd.StringDtype("python")), **of_nan),
        "int8, uint16, uint64, float16": table(
            a=np.array([1], "int8"), b=np.array([1], "uint16"), c=np.array([1], "uint64"), d=np.array([1.1], "float16")
        ),
        "datetime, of any unit": table(t=days, s=pd.to_datetime(["2024-01-31"] * 2).as_unit("s")),
        "datetime with a zone": table(t=pd.to_datetime(["2024-01-31T12:00"]).tz_localize("Europe/Berlin")),
        "timedelta": table(d=pd.to_timedelta(["1 days 02:00:00", None])),
        "period": table(p=pd.PeriodIndex(["2024-01"], freq="M")),
        "Decimal": table(d=[D("1.10"), None]),
        "date, time, UUID": table(a=[TIME.date()], b=[TIME.time()], c=[STAMP]),
        "date with NaT": table(a=pd.Series([TIME.date(), pd.NaT], dtype=object)),
        "bytes with gaps": table(image=[b"\x89PNG\xff", None]),
        "bytes": table(image=[b"\x89PNG\xff"]),
        "objects: bool or int with None": table(
            a=pd.Series([True, None], dtype=object), b=pd.Series([1, None], dtype=object)
        ),
        "lists and dicts in cells": table(a=[[1, "x"], []], b=[{"k": 1}, {"m": 2.5}]),
        "arrays in cells": table(a=[np.array([1.0, 2.0], "float32"), np.array([3.0], "float32")]),
        "pyarrow's numbers and truth values": table(
            a=arrow(pa.int64(), 1, None), b=arrow(pa.float64(), 1.5, None), c=arrow(pa.bool_(), True, None)
        ),
        "pyarrow's NaN": table(a=arrow(pa.float64(), 1.5, float("nan")), b=arrow(pa.float32(), 1.5, None)),
        "pyarrow's texts": table(
            a=arrow(pa.string(), "x", None), b=arrow(pa.large_string(), "y", "z"), c=arrow(CODED, "k", None)
        ),
        "pyarrow's times": table(
            a=arrow(pa.timestamp("us"), TIME, None),
            b=arrow(pa.timestamp("ns", "Europe/Berlin"), TIME.replace(tzinfo=datetime.UTC), None),
            c=arrow(pa.duration("ms"), datetime.timedelta(hours=26), None),
        ),
        "pyarrow's dates and times of day": table(
            a=arrow(pa.date32(), TIME.date(), None), b=arrow(pa.time64("us"), TIME.time(), None)
        ),
        "pyarrow's decimals and bytes": table(
            a=arrow(pa.decimal128(10, 2), D("1.10"), None), b=arrow(pa.binary(), b"\x89PNG\xff", None)
        ),
        "pyarrow's lists and structs": table(
            a=arrow(pa.list_(pa.int64()), [1, 2], None),
            b=arrow(pa.struct([("k", pa.int64()), ("m", pa.string())]), {"k": 1, "m": None}, {"k": 2, "m": "x"}),
        ),
        "an index of pyarrow's texts": table(a=[1]).set_index(pd.Index(arrow(pa.string(), "id-7"), name="id")),
        "a time index": table(a=[1, 2]).set_index(pd.date_range("2024-01-31", periods=2, name="when")),
        "times as column names": pd.DataFrame([[1, 2.5]], columns=pd.date_range("2024-01-31", periods=2)),
        "categories as column names": pd.DataFrame([[1, 2.5]], columns=pd.CategoricalIndex(["b", "a"])),
        "an index of texts": table(a=[1]).set_index(pd.Index(["id-7"])),
        "an index of two levels": table(a=[1]).set_index(pd.MultiIndex.from_tuples([("x", 1)], names=["k", "n"])),
        "Series": pd.Series([1.5, 2.0], name="price"),
        "Series with a time index": pd.Series([1.5], index=pd.date_range("2024-01-31", periods=1)),
        "NumPy array": np.arange(4.0, dtype="float32").reshape(1, 2, 2),
        "NumPy array of texts": np.array(["a", "bc"]),
        "dict of arrays": {"a": np.arange(2.0).reshape(1, 2), "b": np.array([1])},
        "list of texts": ["good", "bad"],
        "list of numbers": [1, 2],
        "list of dicts": [{"q": "x", "n": 1}, {"q": "y", "n": 2}],
        "list of dicts, with keys that may lack": [{"q": "x", "n": 1}, {"q": "y"}],
        "list of dicts, nested": [{"q": ["a", 1], "d": {"k": None}}],
        "dict": {"q": "x", "n": 1, "f": 1.0, "z": None},
        "dict, nested": {"q": {"x": [1, None]}, "tags": ["a", "b"]},
        "a text": "word",
        "an int": 3,
        "a float": 2.0,
        "a bool": True,
        "bytes, an image say": b"\x89PNG\xff",
        "list of bytes": [b"a", b"\xff"],
        "dict of tables": {
            "orders": table(a=[1, 2], c=pd.Categorical(["x", "y"])),
            "rates": pd.DataFrame({0: [D("1.1")]}),
            "day": "2024-01-31",
        },
    }


def make_polars() -> dict[str, Any]:
    """The same of polars, where that is installed."""
    import polars

    return {
        "polars DataFrame": polars.DataFrame(
            {"a": [1, None], "b": ["x", None], "t": [TIME, None], "d": [D("1.10"), None]}
        ),
        "polars Int8, Categorical, Enum": polars.DataFrame(
            {
                "a": polars.Series([1], dtype=polars.Int8),
                "b": polars.Series(["x"], dtype=polars.Categorical),
                "c": polars.Series(["x"], dtype=polars.Enum(["x", "y"])),
            }
        ),
        "polars NaN": polars.DataFrame({"a": [float("nan"), 1.5], "b": [None, 1.5]}),
        "polars Series": polars.Series("a", [1.5]),
    }


def make_refused() -> dict[str, Any]:
    """By name, values that no request can bring."""
    return {
        "objects of several types in a column": table(mixed=pd.Series([1, "a"], dtype=object)),
        "Int64 beyond 2**53 with gaps": table(big=pd.array([2**60, None], dtype="Int64")),
        "two kinds of missing values in a column": table(c=pd.Series(["a", None, float("nan")], dtype=object)),
        "int beyond 64 bits": table(n=pd.Series([2**64], dtype=object)),
        "dates in lists in cells": table(c=pd.Series([[TIME.date()]], dtype=object)),
        "arrays with a mask": np.ma.array([1, 2], mask=[0, 1]),
        "complex numbers": table(z=[1j]),
        "intervals": table(i=pd.interval_range(0, 1)),
        "pyarrow's NaN beside missing values": table(a=arrow(pa.float64(), 1.5, float("nan"), None)),
        "pyarrow's maps": table(m=arrow(pa.map_(pa.string(), pa.int64()), [("k", 1)])),
        "pyarrow's lists of dates": table(d=arrow(pa.list_(pa.date32()), [TIME.date()])),
        "sparse columns": table(s=pd.arrays.SparseArray([0, 1])),
        "a time index with a frequency of its own making": pd.Series(
            [1.5, 2.5], index=pd.date_range("2024-01-31", periods=2, freq=pd.DateOffset(months=1, day=31))
        ),
        "a table without columns": pd.DataFrame(index=range(2)),
        "arrays of long doubles": np.array([1.5], dtype=np.longdouble),
        "arrays of objects": np.array([1, "a"], dtype=object),
        "lists of several types": ["a", None],
        "lists of lists": [[1, 2], [3, 4]],
        "dict of a float here and an int there": [{"a": 1.5}, {"a": 2}],
        "dict of Decimals": {"d": D("1.1")},
        "None in one dict, no key in the other": [{"a": None}, {}],
        "tuple": (1, 2),
        "date": TIME.date(),
        "an object of another class": object(),
    }


def make_refused_polars() -> dict[str, Any]:
    """The same of polars, where that is installed."""
    import polars

    refused = {"polars NaN beside null": polars.DataFrame({"a": [1.5, float("nan"), None]})}
    if hasattr(polars, "Int128"):  # polars 1.18
        refused["polars Int128"] = polars.DataFrame({"a": polars.Series([1], dtype=polars.Int128)})
    return refused


def make_kept() -> dict[str, tuple[Any, dict[str, Any]]]:
    """By name, values that training makes and inference reads, and the entries of the catalog that keep them."""
    table_ = table(a=[2, 1], b=["ä", "x"])
    shop = {"type": "pandas.CSVDataset", "filepath": "data/{name}.csv", "load_args": {"dtype": {"a": "float32"}}}
    return {
        "in memory alone": ({"a": (1, 2)}, {"art": {"type": "MemoryDataset", "copy_mode": "assign"}}),
        "pickle": ({"a": (1, 2)}, {"art": {"type": "pickle.PickleDataset", "filepath": "data/a.pkl"}}),
        "pickle, versioned": (
            [1, 2],
            {"art": {"type": "pickle.PickleDataset", "filepath": "data/v.pkl", "versioned": True}},
        ),
        "CSV with arguments": (
            table_,
            {
                "art": {
                    "type": "pandas.CSVDataset",
                    "filepath": "data/a.csv",
                    "load_args": {"sep": ";", "index_col": "a", "encoding": "latin-1"},
                    "save_args": {"sep": ";", "encoding": "latin-1"},
                }
            },
        ),
        "Parquet": (table_, {"art": {"type": "pandas.ParquetDataset", "filepath": "data/a.parquet"}}),
        "JSON, where a tuple comes as a list": (
            {"a": (1, 2)},
            {"art": {"type": "json.JSONDataset", "filepath": "data/a.json"}},
        ),
        "YAML": ({"a": [1]}, {"art": {"type": "yaml.YAMLDataset", "filepath": "data/a.yml"}}),
        "text": ("ä\n", {"art": {"type": "text.TextDataset", "filepath": "data/a.txt"}}),
        "a table of a database, with credentials": (
            table_,
            {
                "art": {
                    "type": "pandas.SQLTableDataset",
                    "table_name": "own",
                    "credentials": "of_mine",
                    "save_args": {"if_exists": "replace"},
                }
            },
        ),
        "partitions": (
            {"one": table_, "two": table_},
            {
                "art": {
                    "type": "partitions.PartitionedDataset",
                    "path": "data/parts",
                    "dataset": "pandas.CSVDataset",
                    "filename_suffix": ".csv",
                }
            },
        ),
        "cached": (
            table_,
            {"art": {"type": "CachedDataset", "dataset": {"type": "pandas.CSVDataset", "filepath": "data/c.csv"}}},
        ),
        "transcoded": (
            table_,
            {
                "art@table": {"type": "pandas.CSVDataset", "filepath": "data/t.csv"},
                "art@text": {"type": "text.TextDataset", "filepath": "data/t.csv"},
            },
        ),
        "a dataset factory": (table_, {"{name}_by_factory": shop}),
        "an MLflow artifact": (
            table_,
            {
                "art": {
                    "type": "kbuild.io.artifacts.MlflowArtifactDataset",
                    "dataset": {"type": "pandas.CSVDataset", "filepath": "data/m.csv"},
                }
            },
        ),
    }
