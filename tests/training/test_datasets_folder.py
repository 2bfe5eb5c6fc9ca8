"""Models as datasets, in folders."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from kedro.io import DataCatalog, Version
from kedro.io.core import DatasetError
from mlflow.pyfunc import PythonModel

from kbuild.io.models import MlflowModelLocalFileSystemDataset

ARGUMENTS: dict[str, Any] = {
    "flavor": "mlflow.pyfunc",
    "pyfunc_workflow": "python_model",
    "save_args": {"pip_requirements": ["mlflow"]},
}
TABLE = pd.DataFrame({"price": [1.0, 2.0]})


class Times(PythonModel):  # type: ignore[misc]
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        return model_input * self.factor


def ask(model: Any) -> list[float]:
    return list(model.predict(TABLE)["price"])


def test_it_saves_replaces_and_loads(tmp_path: Path) -> None:
    dataset = MlflowModelLocalFileSystemDataset(str(tmp_path / "models" / "m"), **ARGUMENTS, log_args={"a": 1})
    assert not dataset.exists()
    for factor in (2, 3):
        dataset.save(Times(factor))
        assert dataset.exists()
        assert ask(dataset.load()) == [factor, 2 * factor]
    assert [each.name for each in (tmp_path / "models").iterdir()] == ["m"], "nothing is left over"


def test_a_failed_save_leaves_the_model_that_was_there(tmp_path: Path) -> None:
    dataset = MlflowModelLocalFileSystemDataset(str(tmp_path / "m"), **ARGUMENTS)
    dataset.save(Times(2))
    with pytest.raises(DatasetError, match="the model cannot be saved") as caught:
        dataset.save("no model at all")
    assert "\n" not in str(caught.value)
    assert ask(dataset.load()) == [2.0, 4.0]
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_nothing_but_a_model_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.csv").write_text("1")
    for place in (tmp_path / "data", tmp_path / "data" / "precious.csv"):
        with pytest.raises(DatasetError, match="is there and is not a model; it is not written over"):
            MlflowModelLocalFileSystemDataset(str(place), **ARGUMENTS).save(Times(1))
    assert (tmp_path / "data" / "precious.csv").read_text() == "1"


def test_versions(tmp_path: Path) -> None:
    path = str(tmp_path / "m")
    for name, factor in (("2026-01-01T00.00.00.000Z", 2), ("2026-01-02T00.00.00.000Z", 3)):
        MlflowModelLocalFileSystemDataset(path, **ARGUMENTS, version=Version(None, name)).save(Times(factor))
    newest = MlflowModelLocalFileSystemDataset(path, **ARGUMENTS, version=Version(None, None))
    first = MlflowModelLocalFileSystemDataset(path, **ARGUMENTS, version=Version("2026-01-01T00.00.00.000Z", None))
    assert newest.exists()
    assert ask(newest.load()) == [3.0, 6.0]
    assert ask(first.load()) == [2.0, 4.0]
    newest.release()
    assert newest.resolve_load_version() == "2026-01-02T00.00.00.000Z"
    none = MlflowModelLocalFileSystemDataset(str(tmp_path / "other"), **ARGUMENTS, version=Version(None, None))
    assert not none.exists()
    with pytest.raises(DatasetError, match="Did not find any versions"):
        none.load()


def test_the_catalog_makes_versions(tmp_path: Path) -> None:
    entry = {"type": "kbuild.io.models.MlflowModelLocalFileSystemDataset", "filepath": str(tmp_path / "m")}
    config = {"m": {**entry, **ARGUMENTS, "versioned": True}}
    catalog = DataCatalog.from_config(config, save_version="2026-01-01T00.00.00.000Z")
    catalog.save("m", Times(2))
    again = DataCatalog.from_config(*catalog.to_config())
    assert ask(again.load("m")) == [2.0, 4.0]
    assert (tmp_path / "m" / "2026-01-01T00.00.00.000Z" / "m" / "MLmodel").is_file()


def test_it_can_go_to_another_process(tmp_path: Path) -> None:
    dataset = MlflowModelLocalFileSystemDataset(str(tmp_path / "m"), **ARGUMENTS)
    assert repr(pickle.loads(pickle.dumps(dataset))) == repr(dataset)


def test_bad_entries(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="filepath s3://… is not on this machine"):
        MlflowModelLocalFileSystemDataset("s3://bucket/m", **ARGUMENTS)
    with pytest.raises(DatasetError, match="log_args is a mapping"):
        MlflowModelLocalFileSystemDataset("m", **ARGUMENTS, log_args="a")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="is not a folder with an MLmodel file; see filepath"):
        MlflowModelLocalFileSystemDataset(str(tmp_path), **ARGUMENTS).load()
