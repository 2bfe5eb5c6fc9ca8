from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import CachedDataset, DataCatalog, MemoryDataset, Version
from kedro_datasets.json.json_dataset import JSONDataset
from kedro_datasets.pandas.csv_dataset import CSVDataset
from kedro_datasets.pickle.pickle_dataset import PickleDataset

from kbuild.errors import InvalidModel, RecordingError
from kbuild.process import run
from kbuild.served.inputs import InputSource, load_input, to_local_path
from kbuild.training.artifacts import describe_inputs, extract_artifacts
from kbuild.training.staging import _safe


def round_trip(name: str, value: Any, folder: Path) -> tuple[Path, Any]:
    catalog = DataCatalog({name: MemoryDataset(value, copy_mode="assign")})
    sources = describe_inputs([name], catalog)
    uri = extract_artifacts(sources, catalog, folder)[name]
    return to_local_path(uri), load_input(name, sources[name], uri)


@pytest.mark.parametrize(
    ("value", "suffix"),
    [
        (1, ".json"),
        (0.1, ".json"),
        ("ü", ".json"),
        (None, ".json"),
        ({"a": [1, {"b": None}]}, ".json"),
        (datetime.date(2020, 1, 2), ".cloudpickle"),
        ({"when": datetime.date(2020, 1, 2)}, ".cloudpickle"),
        ((1, 2), ".cloudpickle"),
        ({1: "number as key"}, ".cloudpickle"),
        ({"a": {1, 2}}, ".cloudpickle"),
    ],
)
def test_parameters_come_back_with_their_types(tmp_path: Path, value: Any, suffix: str) -> None:
    path, loaded = round_trip("params:a.b", value, tmp_path)
    assert path.suffix == suffix
    assert loaded == value
    assert type(loaded) is type(value)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON_LIKE)
def test_any_json_parameter_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    assert round_trip("params:x", value, tmp_path_factory.getbasetemp() / "any")[1] == value


def test_values_in_memory_are_staged(tmp_path: Path) -> None:
    _, loaded = round_trip("weights", pd.Series([1.0, 2.0]), tmp_path)
    assert loaded.tolist() == [1.0, 2.0]


def test_captured_values_stand_in_for_released_ones(tmp_path: Path) -> None:
    catalog = DataCatalog({"weights": MemoryDataset()})
    sources = describe_inputs(["weights"], catalog)
    uri = extract_artifacts(sources, catalog, tmp_path, captured={"weights": 7})["weights"]
    assert load_input("weights", sources["weights"], uri) == 7


@pytest.mark.slow
def test_a_folder_that_nobody_named_goes_with_the_process(tmp_path: Path) -> None:
    program = """
import os, pathlib, sys
from kedro.io import DataCatalog, MemoryDataset
from kbuild.training.artifacts import describe_inputs, extract_artifacts
catalog = DataCatalog({"w": MemoryDataset(7)})
uri = extract_artifacts(describe_inputs(["w"], catalog), catalog)["w"]
child = os.fork()
if not child: sys.exit(0)  # as a forked worker that runs what was registered for the end
os.waitpid(child, 0)
assert pathlib.Path(uri.removeprefix("file://")).is_file()
"""
    done = run([sys.executable, "-W", "ignore", "-c", program], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("kbuild-inputs-*"))


def test_every_input_without_data_is_named(tmp_path: Path) -> None:
    catalog = DataCatalog({"a": MemoryDataset(), "b": JSONDataset(filepath=str(tmp_path / "b.json"))})
    with pytest.raises(RecordingError) as caught:
        extract_artifacts(describe_inputs(["a", "b", "c"], catalog), catalog, tmp_path)
    assert "'a' has no data" in caught.value.message
    assert "'b' has no file yet" in caught.value.message
    assert "'c' is in no catalog" in caught.value.message


def test_a_file_that_is_there_and_does_not_load_is_not_said_to_lack(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    entry = CSVDataset(filepath=str(tmp_path / "a.csv"), load_args={"compression": "gzip"})
    catalog = DataCatalog({"a": entry})
    with pytest.raises(RecordingError, match=r"'a' does not load: .*[Nn]ot a gzipped file") as caught:
        extract_artifacts(describe_inputs(["a"], catalog), catalog, tmp_path)
    assert "load_args" in (caught.value.hint or "")
    assert "run the nodes" not in (caught.value.hint or "")


def test_what_cannot_be_pickled_says_what_to_do(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, pytest.raises(RecordingError, match="cannot be pickled") as caught:
        round_trip("handle", file, tmp_path)
    assert "a file in the catalog" in (caught.value.hint or "")


def test_a_versioned_dataset_gives_the_version_it_would_load(tmp_path: Path) -> None:
    for version in ("2020-01-01T00.00.00.000Z", "2021-01-01T00.00.00.000Z"):
        JSONDataset(filepath=str(tmp_path / "f.json"), version=Version(None, version)).save({"from": version})
    catalog = DataCatalog({"f": JSONDataset(filepath=str(tmp_path / "f.json"), version=Version(None, None))})
    sources = describe_inputs(["f"], catalog)
    uri = extract_artifacts(sources, catalog, tmp_path / "out")["f"]
    assert uri.endswith("f.json/2021-01-01T00.00.00.000Z/f.json")
    assert load_input("f", sources["f"], uri) == {"from": "2021-01-01T00.00.00.000Z"}


def test_a_cached_dataset_is_the_file_below(tmp_path: Path) -> None:
    inner = JSONDataset(filepath=str(tmp_path / "f.json"))
    inner.save([1])
    catalog = DataCatalog({"f": CachedDataset(inner)})
    uri = extract_artifacts(describe_inputs(["f"], catalog), catalog, tmp_path)["f"]
    assert to_local_path(uri) == tmp_path / "f.json"
    assert describe_inputs(["f"], catalog)["f"].type == "kedro_datasets.json.json_dataset.JSONDataset"


def test_a_remote_file_is_fetched(tmp_path: Path) -> None:
    dataset = JSONDataset(filepath="memory://bucket/f.json", credentials={"unused": "secret"})
    dataset.save({"far": "away"})
    catalog = DataCatalog({"f": dataset})
    sources = describe_inputs(["f"], catalog)
    path = to_local_path(extract_artifacts(sources, catalog, tmp_path)["f"])
    assert path.is_relative_to(tmp_path)
    assert json.loads(path.read_text()) == {"far": "away"}
    assert "secret" not in repr(sources)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    catalog = DataCatalog()
    for folder in ("one", "two"):
        catalog[folder] = JSONDataset(filepath=str(tmp_path / folder / "model.json"))
        catalog.save(folder, folder)
    sources = describe_inputs(["one", "two"], catalog)
    uris = extract_artifacts(sources, catalog, tmp_path / "out")
    assert len({Path(uri).name for uri in uris.values()}) == 2
    assert {name: load_input(name, sources[name], uri) for name, uri in uris.items()} == {"one": "one", "two": "two"}


def test_nothing_of_where_and_how_is_described(tmp_path: Path) -> None:
    dataset = CSVDataset(
        filepath=str(tmp_path / "a.csv"),
        load_args={"sep": ";", "storage_options": {"key": "secret"}},
        save_args={"index": False},
        credentials={"token": "secret"},
        fs_args={"open_args_load": {"mode": "rb"}},
        metadata={"owner": "me"},
    )
    described = describe_inputs(["a"], DataCatalog({"a": dataset}))["a"]
    assert described.to_dict() == {
        "kind": "dataset",
        "type": "kedro_datasets.pandas.csv_dataset.CSVDataset",
        "arguments": {"load_args": {"sep": ";"}},
    }
    assert InputSource.from_dict(described.to_dict()) == described


@pytest.mark.parametrize("load_args", [{"converters": {"a": str}}, {"dictionary": "/home/me/words.txt"}])
def test_what_plain_values_cannot_say_is_kept_as_a_value(tmp_path: Path, load_args: dict[str, Any]) -> None:
    dataset = CSVDataset(filepath=str(tmp_path / "a.csv"), load_args=load_args)
    assert describe_inputs(["a"], DataCatalog({"a": dataset}))["a"].kind == "object"


def test_the_backend_of_a_pickle_is_kept(tmp_path: Path) -> None:
    dataset = PickleDataset(filepath=str(tmp_path / "a.pkl"), backend="joblib")
    dataset.save({"a": 1})
    catalog = DataCatalog({"a": dataset})
    sources = describe_inputs(["a"], catalog)
    assert sources["a"].modules == {"joblib"}
    assert load_input("a", sources["a"], extract_artifacts(sources, catalog, tmp_path)["a"]) == {"a": 1}


def test_paths_written_on_windows_are_found(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "a b.json").write_text("1")
    assert to_local_path(f"{tmp_path}/artifacts\\a b.json").read_text() == "1"
    assert to_local_path((tmp_path / "artifacts" / "a b.json").as_uri()).read_text() == "1"
    assert str(to_local_path("file:///C:/models/a.json")) == "C:/models/a.json"


def test_broken_models_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="lacks the file of its input 'a'"):
        load_input("a", InputSource(kind="object"), str(tmp_path / "none.json"))
    (tmp_path / "f").write_text("")
    with pytest.raises(InvalidModel, match=r"read by nowhere\.Type, which cannot be imported"):
        load_input("a", InputSource(kind="dataset", type="nowhere.Type"), str(tmp_path / "f"))
    with pytest.raises(InvalidModel, match="unknown kind 'magic'"):
        InputSource.from_dict({"kind": "magic"})


@given(st.text(min_size=1))
def test_names_become_file_names(name: str) -> None:
    assert "/" not in _safe(name)
    assert "\\" not in _safe(name)


def test_names_that_become_one_file_name_keep_their_own_values(tmp_path: Path) -> None:
    values = {"model:en": 1, "model_en": 2, "model en": {3}, "1-model_en": 4, "2-model_en": 5}
    catalog = DataCatalog({name: MemoryDataset(value) for name, value in values.items()})
    sources = describe_inputs(values, catalog)
    uris = extract_artifacts(sources, catalog, tmp_path / "out")
    assert len({Path(uri).name for uri in uris.values()}) == len(values)
    assert {name: load_input(name, sources[name], uri) for name, uri in uris.items()} == values
    again = extract_artifacts(sources, catalog, tmp_path / "again")
    assert {name: Path(uri).name for name, uri in again.items()} == {name: Path(uri).name for name, uri in uris.items()}


def test_staged_files_have_names_that_every_locale_can_write(tmp_path: Path) -> None:
    catalog = DataCatalog({"params:Größe": MemoryDataset("höhe"), "params:Grüße": MemoryDataset("dich")})
    found = extract_artifacts(describe_inputs(["params:Größe", "params:Grüße"], catalog), catalog, tmp_path)
    names = {name: Path(to_local_path(uri)).name for name, uri in found.items()}
    assert all(name.isascii() for name in names.values())
    assert len(set(names.values())) == 2
    assert to_local_path(found["params:Größe"]).read_text(encoding="utf-8") == '"höhe"'
