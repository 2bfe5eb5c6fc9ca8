from __future__ import annotations

import numbers
import pickle
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, TypedDict

import pandas as pd
import polars
import pytest
from kedro.io import AbstractDataset, MemoryDataset
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.pandas.csv_dataset import CSVDataset
from kedro_datasets.partitions.incremental_dataset import IncrementalDataset
from kedro_datasets.partitions.partitioned_dataset import PartitionedDataset
from kedro_datasets.pickle.pickle_dataset import PickleDataset
from mlflow.models import infer_signature

from kbuild.recording.input.early import check_kind, check_value, find_kind


class Picture:
    pass


class Pictures(AbstractDataset[Picture, Picture]):
    def __init__(self, filepath: str) -> None:
        self._filepath = filepath

    def load(self) -> Picture:
        raise NotImplementedError

    def save(self, data: Picture) -> None:
        raise NotImplementedError

    def _describe(self) -> dict[str, Any]:
        return {}


class Signed(Pictures):
    """Of a class that says what it loads."""


def test_a_type_that_loads_what_no_request_brings_is_told() -> None:
    for made in (True, False):
        error = check_kind("photo", Signed("a.png"), {}, made=made)
        assert error is not None
        assert "'photo': Signed loads a value of the type" in error.message
        assert "Picture" in error.message
        assert error.hint
    # Whoever writes a signature says what a request brings.
    assert check_kind("photo", Signed("a.png"), {"signature": None}, made=False) is None


class Row(TypedDict):
    a: int


class Like(Protocol):
    def predict(self) -> int: ...


class Base(ABC):
    @abstractmethod
    def predict(self) -> int: ...


class Names(list[str]):
    pass


@pytest.mark.parametrize("kind", [Row, Like, Base, Names, numbers.Real, dict, pd.DataFrame, object])
def test_what_says_only_what_its_values_are_like_is_left_open(kind: Any) -> None:
    class Loads(AbstractDataset[kind, kind]):
        load, save, _describe = Pictures.load, Pictures.save, Pictures._describe

    assert check_kind("x", Loads(), {}, made=True) is None


def test_data_at_hand_decides_not_what_is_declared(tmp_path: Path) -> None:
    class Loose(Signed):
        def load(self) -> Any:
            return {"a": 1}

    (tmp_path / "a.png").write_bytes(b"")
    assert check_kind("x", Loose(str(tmp_path / "a.png")), {}, made=False) is None
    # What is large is not loaded for a look.
    (tmp_path / "a.png").write_bytes(bytes(5 << 20))
    assert check_kind("x", Loose(str(tmp_path / "a.png")), {}, made=False) is not None


def test_what_a_type_loads_is_read_of_its_bases() -> None:
    assert (find_kind(Signed), find_kind(CSVDataset), find_kind(MemoryDataset)) == (Picture, pd.DataFrame, None)


@pytest.mark.filterwarnings("ignore")
def test_data_that_is_there_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(pd.DataFrame({"mixed": pd.Series([1, "a"], dtype=object)})))
    dataset = PickleDataset(filepath=str(path))
    error = check_kind("x", dataset, {}, made=False)
    assert error is not None
    assert "'mixed'" in error.message
    # The column may be one that nobody reads.
    assert check_kind("x", dataset, {"signature": "used"}, made=False) is None
    # What a node makes anew is another value then.
    assert check_kind("x", dataset, {}, made=True) is None
    assert check_kind("x", PickleDataset(filepath=str(tmp_path / "none.pkl")), {}, made=False) is None
    path.write_bytes(b"no pickle")
    assert check_kind("x", dataset, {}, made=False) is None
    assert check_kind("x", MemoryDataset((1, 2)), {}, made=False) is not None
    assert check_kind("x", MemoryDataset([1, 2]), {}, made=False) is None
    assert check_kind("x", MemoryDataset(), {}, made=False) is None
    assert check_kind("x", JSONDataset(filepath=str(path)), {}, made=False) is None
    assert check_kind("x", None, {}, made=False) is None


def test_an_example_of_other_columns_than_the_catalogs_is_told() -> None:
    orders = MemoryDataset(pd.DataFrame({"price": [1.0], "count": [1]}))

    def look(example: Any, **kwargs: Any) -> str | None:
        error = check_kind("orders", orders, {"input_example": example, **kwargs}, made=False)
        assert error is None or error.hint
        return None if error is None else error.message

    assert look(pd.DataFrame({"price": [2.0], "count": [2]})) is None
    assert look((pd.DataFrame({"price": [2.0], "count": [2]}), {"bonus": 1})) is None
    assert "input_example in log_model_kwargs lacks 'count'" in str(look(pd.DataFrame({"price": [2.0]})))
    assert "has 'prize', which the inference input has not" in str(
        look(pd.DataFrame({"price": [2.0], "count": [2], "prize": [1]}))
    )
    assert "is not like the training data" in str(look(pd.DataFrame({"price": ["x"], "count": [2]})))
    # Of the columns that are read there may be fewer.
    assert look(pd.DataFrame({"price": [2.0]}), signature="used") is None
    assert "has 'prize'" in str(look(pd.DataFrame({"prize": [2.0]}), signature="used"))
    assert look(pd.DataFrame({"price": [2.0]}), signature=None) is None


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        (MemoryDataset([1, 2]), "'x' is a list"),
        (MemoryDataset(pd.Series([1])), "is a Series"),
        (MemoryDataset(polars.DataFrame({"a": [1]})), "is a DataFrame of polars"),
    ],
)
def test_used_columns_of_what_is_no_table_are_refused(dataset: Any, told: str) -> None:
    error = check_kind("x", dataset, {"signature": "used"}, made=False)
    assert error is not None and error.hint
    assert "signature 'used' is for tables of pandas" in error.message and told in error.message


def test_used_columns_of_what_is_declared_as_no_table_are_refused(tmp_path: Path) -> None:
    from kedro_datasets.text import TextDataset

    error = check_kind("x", TextDataset(filepath=str(tmp_path / "a.txt")), {"signature": "used"}, made=True)
    assert error is not None and "'x' is a str" in error.message
    for open_ in (CSVDataset, JSONDataset, PickleDataset):
        assert check_kind("x", open_(filepath=str(tmp_path / "a")), {"signature": "used"}, made=True) is None


def test_a_signature_of_columns_that_the_input_has_not_is_told() -> None:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import ColSpec, Schema

    table = pd.DataFrame({"price": [1.0], "count": [1]})

    def look(*names: str, data: pd.DataFrame = table, **kwargs: Any) -> str | None:
        signature = ModelSignature(inputs=Schema([ColSpec("double", name) for name in names]))
        error = check_kind("orders", MemoryDataset(data), {"signature": signature, **kwargs}, made=False)
        assert error is None or error.hint
        return None if error is None else error.message

    assert look("price", "count") is None and look("price") is None
    other = table.rename(columns={"price": "prize"})
    assert "asks for 'prize', which the inference input has not" in str(look("prize", "count"))
    assert "which the input_example has not" in str(look("price", input_example=other))
    assert look("prize", input_example=other) is None
    # As MLflow infers it of numbered columns.
    numbered = pd.DataFrame([[1.0, 2.0]])
    given = {"signature": infer_signature(numbered)}
    assert check_kind("orders", MemoryDataset(numbered), given, made=False) is None
    # An index that says something is sent as a column.
    assert look("id", "price", data=table.set_index(pd.Index(["a"], name="id"))) is None


def test_parts_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    entry = {"path": str(tmp_path / "parts"), "dataset": "pandas.CSVDataset"}
    for made in (True, False):
        parts = check_kind("x", PartitionedDataset(**entry), {}, made=made)
        assert parts is not None
        assert "each is a function that loads it" in parts.message
        assert check_kind("x", PartitionedDataset(**entry), {"signature": None}, made=made) is None
        assert check_kind("x", IncrementalDataset(**entry), {}, made=made) is None


def test_a_value_is_judged_as_recording_would() -> None:
    good = pd.DataFrame({"a": [1.5, 2.5]})
    assert check_value("rows", good, {}) is None
    refused = check_value("rows", pd.DataFrame({"a": [1j]}), {})
    assert refused is not None and "of the type complex128" in refused.message
    signature = infer_signature(pd.DataFrame({"zz": [1.0]}))
    chosen = check_value("rows", good, {"signature": signature})
    assert chosen is not None and "asks for 'zz', which the inference input has not" in chosen.message
    assert check_value("rows", good, {"signature": infer_signature(good)}) is None
    example = check_value("rows", good, {"input_example": 5})
    assert example is not None and "is not like the training data" in example.message
