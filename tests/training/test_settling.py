from __future__ import annotations

import copy
import json
import pickle
import sqlite3
import struct
import sys
import types
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import AbstractDataset, CachedDataset, DataCatalog, MemoryDataset
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.pandas.csv_dataset import CSVDataset
from kedro_datasets.pickle.pickle_dataset import PickleDataset

from kbuild.errors import RecordingError
from kbuild.served.inputs import load_input
from kbuild.training import value_digest
from kbuild.training.artifacts import Settled, settle_inputs
from kbuild.training.value_digest import NoDigest, digest_value


class Mine(AbstractDataset[Any, Any]):
    """Kedro's minimum: it says nothing of whether it exists."""

    def __init__(self, filepath: str, **options: Any) -> None:
        self._filepath = Path(filepath)
        self._add = options.get("add", 0)

    def load(self) -> Any:
        return pickle.loads(self._filepath.read_bytes()) + self._add

    def save(self, data: Any) -> None:
        self._filepath.write_bytes(pickle.dumps(data))

    def _describe(self) -> dict[str, Any]:
        return {}


class TwoFiles(Mine):
    """Keeps half of what it is given beside its file."""

    def load(self) -> Any:
        return [value for path in self._paths() for value in pickle.loads(path.read_bytes())]

    def save(self, data: Any) -> None:
        for path, part in zip(self._paths(), (data[:1], data[1:]), strict=True):
            path.write_bytes(pickle.dumps(part))

    def _paths(self) -> tuple[Path, Path]:
        return self._filepath, Path(f"{self._filepath}.more")


class Sorted(AbstractDataset[Any, Any]):
    """Gives back another order than it was given, as a database does; keeps no file."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def load(self) -> Any:
        return pd.read_pickle(self._place).sort_values("a", ignore_index=True)

    def save(self, data: Any) -> None:
        data.to_pickle(self._place)

    def _describe(self) -> dict[str, Any]:
        return {}


def settle(dataset: Any, tmp_path: Path, **kwargs: Any) -> Settled:
    return settle_inputs(["x"], DataCatalog({"x": dataset}), tmp_path / "out", **kwargs)


def read_again(settled: Settled) -> Any:
    return load_input("x", settled.sources["x"], settled.artifacts["x"])


def test_a_dataset_without_exists_is_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, Mine.__module__, sys.modules.get(Mine.__module__) or _module())
    dataset = Mine(filepath=str(tmp_path / "x.bin"))
    dataset.save(3.0)
    settled = settle(dataset, tmp_path)
    assert (read_again(settled), settled.values["x"], settled.as_values) == (3.0, 3.0, {})
    assert settled.artifacts["x"] == (tmp_path / "x.bin").as_uri()


def _module() -> Any:
    module = types.ModuleType(Mine.__module__)
    module.Mine, module.TwoFiles = Mine, TwoFiles  # type: ignore[attr-defined]
    return module


def test_options_of_a_constructor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, Mine.__module__, sys.modules.get(Mine.__module__) or _module())
    dataset = Mine(filepath=str(tmp_path / "x.bin"), add=5)
    dataset.save(3.0)
    settled = settle(dataset, tmp_path)
    assert (read_again(settled), settled.as_values) == (8.0, {})
    assert settled.sources["x"].arguments == {"add": 5}


def test_a_class_that_reads_a_second_file_goes_as_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, Mine.__module__, sys.modules.get(Mine.__module__) or _module())
    dataset = TwoFiles(filepath=str(tmp_path / "x.bin"))
    dataset.save([2.0, 3.0])
    settled = settle(dataset, tmp_path)
    assert read_again(settled) == [2.0, 3.0]
    assert "TwoFiles alone cannot read its file" in settled.as_values["x"] and "x.bin.more" in settled.as_values["x"]
    # What lies beside a file and is not read is nobody's concern.
    other = Mine(filepath=str(tmp_path / "y.bin"))
    other.save(4.0)
    (tmp_path / "y.bin.more").write_bytes(b"older")
    settled = settle(other, tmp_path / "other")
    assert (settled.as_values, settled.artifacts["x"]) == ({}, (tmp_path / "y.bin").as_uri())


def test_what_a_dataset_was_changed_to_later_is_seen_by_the_value(tmp_path: Path) -> None:
    dataset = Mine(filepath=str(tmp_path / "x.bin"))
    dataset.save(3.0)
    dataset._add = 5
    settled = settle(dataset, tmp_path)
    assert read_again(settled) == 8.0
    assert "x" in settled.as_values


def test_a_class_that_nobody_can_import_goes_by_its_base(tmp_path: Path) -> None:
    class Local(PickleDataset):
        pass

    dataset = Local(filepath=str(tmp_path / "x.pkl"))
    dataset.save({"a": 1})
    settled = settle(dataset, tmp_path)
    assert settled.sources["x"].type == "kedro_datasets.pickle.pickle_dataset.PickleDataset"
    assert read_again(settled) == {"a": 1}
    assert settled.as_values == {}


def test_a_base_that_reads_otherwise_is_not_taken(tmp_path: Path) -> None:
    class Doubled(PickleDataset):
        def load(self) -> Any:
            return super().load() * 2

    dataset = Doubled(filepath=str(tmp_path / "x.pkl"))
    dataset.save(4)
    settled = settle(dataset, tmp_path)
    assert read_again(settled) == 8
    assert "reads another value" in settled.as_values["x"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_how_a_file_is_opened(tmp_path: Path, encoding: str) -> None:
    how = {f"open_args_{way[0]}": {"mode": way[1], "encoding": encoding} for way in (("save", "w"), ("load", "r"))}
    dataset = JSONDataset(filepath=str(tmp_path / "x.json"), save_args={"ensure_ascii": False}, fs_args=how)
    dataset.save({"é": 2})
    settled = settle(dataset, tmp_path)
    assert read_again(settled) == {"é": 2}
    assert bool(settled.as_values) == (encoding == "latin-1")


def test_what_a_node_returned_is_not_what_is_loaded(tmp_path: Path) -> None:
    dataset = Sorted(tmp_path / "table.pkl")
    saved = pd.DataFrame({"a": [2, 1]})
    dataset.save(saved)
    settled = settle(dataset, tmp_path, captured={"x": saved})
    assert read_again(settled)["a"].tolist() == [1, 2]
    assert "keeps no file" in settled.as_values["x"]


def test_the_file_of_a_query_is_not_its_data(tmp_path: Path) -> None:
    sql = pytest.importorskip("kedro_datasets.pandas").SQLQueryDataset
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.executescript("create table t(k text); insert into t values ('a')")
    (tmp_path / "q.sql").write_text("select k from t")
    dataset = sql(filepath=str(tmp_path / "q.sql"), credentials={"con": f"sqlite:///{tmp_path}/t.db"})
    settled = settle(dataset, tmp_path)
    assert read_again(settled)["k"].tolist() == ["a"]
    assert str(tmp_path / "t.db") not in repr(settled.sources)


def test_parts_are_callables_again(tmp_path: Path) -> None:
    partitions = pytest.importorskip("kedro_datasets.partitions")
    dataset = partitions.PartitionedDataset(
        path=str(tmp_path / "parts"), dataset="json.JSONDataset", filename_suffix=".json"
    )
    dataset.save({"ä/one": [1.0], "two": [2.0]})
    settled = settle(dataset, tmp_path, captured={"x": {"ä/one": [1.0], "two": [2.0]}})
    for parts in (settled.values["x"], read_again(settled)):
        assert {name: load() for name, load in parts.items()} == {"ä/one": [1.0], "two": [2.0]}
    # Each call loads anew: a node may change what it was given.
    parts["two"]().append(3)
    assert parts["two"]() == [2.0]


def test_memory_and_caches(tmp_path: Path) -> None:
    assert read_again(settle(MemoryDataset(), tmp_path, captured={"x": [1]})) == [1]
    cached = CachedDataset(PickleDataset(filepath=str(tmp_path / "x.pkl")))
    cached.save({"a": (1, 2)})
    assert read_again(settle(cached, tmp_path)) == {"a": (1, 2)}


class Counter:
    def __init__(self) -> None:
        self.asked = 0


VALUES: dict[str, tuple[Any, Any]] = {
    "int and float": (1, 1.0),
    "int and bool": (1, True),
    "order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "list and tuple": ([1], (1,)),
    "one bit": (np.array([1.0, 2.0]), np.nextafter(np.array([1.0, 2.0]), 3)),
    "dtype": (np.array([1], "int32"), np.array([1], "int64")),
    "shape": (np.zeros((2, 3)), np.zeros((3, 2))),
    "row order": (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [2, 1]}, index=[1, 0])),
    "column order": (pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"b": [2], "a": [1]})),
    "index": (pd.Series([1.0]), pd.Series([1.0], index=[1])),
    "missing": (pd.Series(["a", None]), pd.Series(["a", ""])),
    "categories": (pd.Categorical(["a"], categories=["a"]), pd.Categorical(["a"], categories=["a", "b"])),
    "zone": (pd.Series(pd.to_datetime(["2020"], utc=True)), pd.Series(pd.to_datetime(["2020"]))),
    "masked": (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [0, 0])),
    "default": (lambda x=1: x, lambda x=2: x),
    "code": (lambda x: x + 1, lambda x: x - 1),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_that_differ(case: str) -> None:
    one, other = VALUES[case]
    assert digest_value(one) != digest_value(other)
    if not callable(one):
        assert digest_value(one) == digest_value(pickle.loads(pickle.dumps(one)))


def test_values_that_are_the_same() -> None:
    text = "".join(["a", "b"])
    # A pickle's memo tells these apart: the same object twice, and two equal ones.
    assert digest_value([text, text]) == digest_value(["ab", "".join(["a", "b"])])
    assert digest_value({3, 1, 2}) == digest_value({1, 2, 3})
    assert digest_value(float("nan")) == digest_value(-float("nan"))
    looped: list[Any] = []
    looped.append(looped)
    assert digest_value(looped) == digest_value(pickle.loads(pickle.dumps(looped)))
    counter = Counter()
    before = digest_value(counter)
    counter.asked += 1
    assert digest_value(counter) != before


def test_what_does_not_say_what_it_is(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(NoDigest):
        digest_value({"a": [file]})


def test_what_can_be_read_once_is_refused_by_name(tmp_path: Path) -> None:
    pd.DataFrame({"a": range(9)}).to_csv(tmp_path / "x.csv", index=False)
    dataset = CSVDataset(filepath=str(tmp_path / "x.csv"), load_args={"chunksize": 3})
    with pytest.raises(RecordingError, match=r"input 'x' is a TextFileReader") as caught:
        settle(dataset, tmp_path)
    assert "chunksize" in str(caught.value.hint)


class Web:
    """A file system of https, as fsspec has it: urls are whole."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def isdir(self, path: str) -> bool:
        return False

    def get(self, path: str, target: str, recursive: bool = False) -> None:
        if not path.startswith("https://"):
            raise ValueError(f"{path} is no url")  # as aiohttp's InvalidURL, which is one
        Path(target).write_bytes(self.files[path])


def test_a_file_of_a_web_server_is_fetched_by_its_whole_url(tmp_path: Path) -> None:
    kept = tmp_path / "x.json"
    kept.write_text("[1, 2]")
    dataset = JSONDataset(filepath=str(kept))
    dataset._protocol, dataset._filepath = "https", PurePosixPath("host.example/x.json")
    dataset._fs = Web({"https://host.example/x.json": b"[1, 2]"})
    dataset.load = lambda: [1, 2]
    settled = settle(dataset, tmp_path)
    assert read_again(settled) == [1, 2] and settled.as_values == {}
    dataset._fs = Web({})
    with pytest.raises(RecordingError, match="input 'x' cannot be fetched from https: KeyError"):
        settle(dataset, tmp_path / "again")


class Unsaid:
    """Pickled as ever, and not by the protocol that its value is looked at with."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        if protocol == 4:
            raise TypeError("nobody is to know")
        return (dict, ())


def test_an_input_that_does_not_say_what_it_holds_is_named_as_uncompared(tmp_path: Path) -> None:
    with pytest.raises(NoDigest):
        digest_value(Unsaid())
    assert settle(MemoryDataset(Unsaid(), copy_mode="assign"), tmp_path).uncompared == ("x",)
    assert settle(MemoryDataset([1]), tmp_path / "other").uncompared == ()


def test_what_the_catalog_loaded_is_handed_out_once_and_let_go_of(tmp_path: Path) -> None:
    dataset = MemoryDataset({"a": [1]}, copy_mode="assign")
    given: list[Any] = []

    def use(loaded: Any) -> None:
        loaded["x"]["a"].append(2)
        given.append(loaded["x"])

    # What it does to the values is not what the model gets.
    assert settle(dataset, tmp_path, use=use).values == {"x": {"a": [1]}}
    assert given == [{"a": [1, 2]}]


@pytest.mark.parametrize("name", ["a%25b 1.json", "a#b.json", "größe.json", "a\nb.json"])
def test_mlflow_finds_files_of_any_name(name: str, tmp_path: Path) -> None:
    dataset = JSONDataset(filepath=str(tmp_path / "data%20" / name))
    dataset.save({"a": 1})
    fetched = mlflow.artifacts.download_artifacts(settle(dataset, tmp_path).artifacts["x"], dst_path=str(tmp_path))
    assert json.loads(Path(fetched).read_text("utf-8")) == {"a": 1}
    assert Path(fetched).name.isascii()


def test_a_vocabulary_of_plain_values_is_not_looked_at_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word by word, that of 36 MB took a minute of each training."""
    hashed: list[str] = []
    real = value_digest._hash
    monkeypatch.setattr(value_digest, "_hash", lambda kind, *parts: hashed.append(kind) or real(kind, *parts))
    words = {f"word{number}": number for number in range(1000)}
    assert digest_value(words) == digest_value({str(b"word%d" % number, "ascii"): number for number in range(1000)})
    assert digest_value(words) != digest_value({**words, "word7": 8})
    assert len(hashed) < 10


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], [True]),
        ([1], [1.0]),
        ([0.0], [-0.0]),
        (["a", "b"], ["ab"]),
        (["1"], [1]),
        ([b"a"], ["a"]),
        ([1, 2], (1, 2)),
        ({"a": 1}, ["a", 1]),
        ([None], []),
        ([2**70], [2**70 + 1]),
        ([float("nan")], [1.5]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_plain_values_that_are_not_the_same_have_other_digests(one: Any, other: Any) -> None:
    assert digest_value(one) != digest_value(other)
    assert digest_value(one) == digest_value(copy.deepcopy(one))


def test_each_nan_is_one_value_and_each_text_one_text() -> None:
    negative = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]
    assert digest_value([1.0, float("nan")]) == digest_value([1.0, negative])
    word = "".join(["vo", "cabulary"])
    assert digest_value([word, word]) == digest_value([sys.intern("".join(["vocabul", "ary"])), word])
    assert digest_value(["\ud800"]) == digest_value(["\ud800"])
