"""Models as datasets, in an MLflow store."""

from __future__ import annotations

import pickle
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from kedro.io import DataCatalog
from kedro.io.core import DatasetError
from mlflow.pyfunc import PythonModel

from kbuild.io.models import (
    MlflowModelLoggerDataSet,
    MlflowModelLoggerDataset,
    MlflowModelRegistryDataset,
    MlflowModelTrackingDataset,
)

PYFUNC: dict[str, Any] = {"flavor": "mlflow.pyfunc", "pyfunc_workflow": "python_model"}
# Without this MLflow runs the model once more to see what it imports.
QUICK: dict[str, Any] = {"pip_requirements": ["mlflow"]}
TABLE = pd.DataFrame({"price": [1.0, 2.0]})


class Times(PythonModel):  # type: ignore[misc]
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        return model_input * self.factor


def ask(model: Any) -> list[float]:
    return list(model.predict(TABLE)["price"])


def save(factor: float, name: str = "model", **save_args: Any) -> str:
    """Log a model in a run of its own; returns the run's id."""
    with mlflow.start_run() as run:
        MlflowModelLoggerDataSet(**PYFUNC, artifact_path=name, save_args={**QUICK, **save_args}).save(Times(factor))
    return str(run.info.run_id)


@pytest.fixture
def flavor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A custom flavor, as written for MLflow 2: it keeps a text."""
    source = """
        from pathlib import Path
        import mlflow.models

        def save_model(model, path, mlflow_model=None):
            Path(path).mkdir()
            Path(path, "text").write_text(model)
            kept = mlflow_model or mlflow.models.Model()
            kept.add_flavor("texts", kept=True)
            kept.save(str(Path(path, "MLmodel")))

        def log_model(model, artifact_path):
            import texts
            return mlflow.models.Model.log(artifact_path=None, name=artifact_path, flavor=texts, model=model)

        def load_model(model_uri, upper=False):
            text = Path(model_uri, "text").read_text()
            return text.upper() if upper else text
    """
    (tmp_path / "texts.py").write_text(textwrap.dedent(source))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "texts"
    sys.modules.pop("texts", None)


def test_it_loads_the_model_of_a_run(store: mlflow.MlflowClient) -> None:
    run_id = save(2)
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id=run_id)
    assert dataset.exists()
    assert ask(dataset.load()) == [2.0, 4.0]
    dataset.release()
    assert ask(dataset.load()) == [2.0, 4.0]


@pytest.mark.slow
def test_a_deleted_model_of_the_run_is_not_in_the_way_of_another(store: mlflow.MlflowClient) -> None:
    with mlflow.start_run() as run:
        for factor, name in ((2, "model"), (3, "model"), (4, "other")):
            MlflowModelLoggerDataSet(**PYFUNC, artifact_path=name, save_args=QUICK).save(Times(factor))
    models = store.get_run(run.info.run_id).outputs.model_outputs
    logged = sorted(
        (store.get_logged_model(each.model_id) for each in models), key=lambda each: each.creation_timestamp
    )
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id=run.info.run_id)
    for deleted in logged[1:]:
        store.delete_logged_model(deleted.model_id)
    assert dataset.exists() and ask(dataset.load()) == [2.0, 4.0]
    store.delete_logged_model(logged[0].model_id)
    assert not dataset.exists()
    with pytest.raises(DatasetError, match="has no model 'model': it logged none"):
        dataset.load()


@pytest.mark.slow
def test_it_saves_to_and_loads_from_the_active_run(store: mlflow.MlflowClient) -> None:
    dataset = MlflowModelLoggerDataSet(**PYFUNC, artifact_path="doubled", save_args=QUICK)
    with mlflow.start_run() as run:
        assert not dataset.exists()
        dataset.save(Times(2))
        dataset.save(Times(3))
        assert ask(dataset.load()) == [3.0, 6.0], "the newest of one name"
    (first, second) = store.get_run(run.info.run_id).outputs.model_outputs
    assert {store.get_logged_model(each.model_id).name for each in (first, second)} == {"doubled"}
    assert not dataset.exists(), "no run is active any more"


def test_without_an_active_run_the_named_run_is_resumed(store: mlflow.MlflowClient) -> None:
    with mlflow.start_run() as run:
        pass
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id=run.info.run_id, save_args=QUICK)
    dataset.save(Times(2))
    assert mlflow.active_run() is None
    assert store.get_run(run.info.run_id).info.status == "FINISHED"
    assert ask(dataset.load()) == [2.0, 4.0]


def test_a_loaded_model_does_not_hide_modules_of_the_project(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    code = tmp_path / "shipped_code.py"
    code.write_text("VALUE = 1\n")
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id=save(2, code_paths=[str(code)]))
    before = list(sys.path)
    path = sys.path
    try:
        dataset.load()
        dataset.load()
        assert sys.path is path
        assert sys.path[: len(before)] == before
        assert len(sys.path) == len(before) + 1, "once, however often it is loaded"
    finally:
        sys.path[:] = before


@pytest.mark.slow
def test_other_code_of_the_same_name_is_told(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    code = tmp_path / "old" / "shipped_code.py"
    code.parent.mkdir()
    code.write_text("VALUE = 1\n")
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id=save(2, code_paths=[str(code)]))
    monkeypatch.syspath_prepend(str(code.parent))
    __import__("shipped_code")
    before = list(sys.path)
    try:
        caplog.clear()
        dataset.load()
        assert not caplog.records, "the same contents"
        code.write_text("VALUE = 2\n")
        dataset.load()
    finally:
        sys.path[:] = before
        del sys.modules["shipped_code"]
    (record,) = caplog.records
    assert "The model brings its own shipped_code, but other code of that name is imported already" in record.message


def test_a_model_of_mlflow_2_is_found_among_the_artifacts(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    mlflow.pyfunc.save_model(str(tmp_path / "kept"), python_model=Times(5), **QUICK)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tmp_path / "kept"), "models/old")
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id=run.info.run_id, artifact_path="models/old")
    assert dataset.exists()
    assert ask(dataset.load()) == [5.0, 10.0]


def test_the_loader_module_workflow_gives_a_model_that_predicts(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    module = tmp_path / "tenfold.py"
    module.write_text("class M:\n    def predict(self, t): return t * 10\n\ndef _load_pyfunc(path): return M()\n")
    before = list(sys.path)
    sys.path.insert(0, str(tmp_path))
    dataset = MlflowModelLoggerDataSet(
        "mlflow.pyfunc", pyfunc_workflow="loader_module", save_args={**QUICK, "code_paths": [str(module)]}
    )
    try:
        with mlflow.start_run():
            dataset.save("tenfold")
            assert ask(dataset.load()) == [10.0, 20.0]
    finally:
        sys.path[:] = before
        sys.modules.pop("tenfold", None)


def test_a_flavor_of_ones_own(store: mlflow.MlflowClient, flavor: str) -> None:
    dataset = MlflowModelLoggerDataSet(flavor, artifact_path="hello", load_args={"upper": True})
    with mlflow.start_run():
        dataset.save("hello")
        assert dataset.load() == "HELLO"


@pytest.mark.slow
def test_a_worker_thread_saves_to_the_run_of_the_main_thread(store: mlflow.MlflowClient) -> None:
    datasets = [MlflowModelLoggerDataSet(**PYFUNC, artifact_path=f"m{n}", save_args=QUICK) for n in range(3)]
    with mlflow.start_run() as run:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda pair: pair[1].save(Times(pair[0])), enumerate(datasets)))
            loaded = list(pool.map(lambda each: each.load(), datasets))
        assert store.get_run(run.info.run_id).info.status == "RUNNING"
    assert [ask(model) for model in loaded] == [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]
    assert [each.info.run_id for each in store.search_runs(["0"])] == [run.info.run_id], "no stray run"
    assert len(store.get_run(run.info.run_id).outputs.model_outputs) == 3


def test_it_waits_for_nobody_once_another_thread_failed(store: mlflow.MlflowClient) -> None:
    run_id = save(2)

    def fail() -> None:
        with pytest.raises(DatasetError):
            MlflowModelLoggerDataSet(**PYFUNC).load()

    failing = threading.Thread(target=fail)
    failing.start()
    failing.join(20)
    assert ask(MlflowModelLoggerDataSet(**PYFUNC, run_id=run_id).load()) == [2.0, 4.0]


def test_the_project_store_is_the_default(
    store: mlflow.MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save(2)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    project = tmp_path / "store"
    (project / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "p"\n')
    (project / "deeper").mkdir()
    monkeypatch.chdir(project / "deeper")
    assert ask(MlflowModelLoggerDataSet(**PYFUNC, run_id=run_id).load()) == [2.0, 4.0]
    assert not mlflow.tracking.is_tracking_uri_set(), "MLflow's own setting is as before"


@pytest.mark.parametrize("kind", [MlflowModelLoggerDataSet, MlflowModelTrackingDataset])
def test_a_dataset_can_go_to_another_process(kind: Any) -> None:
    dataset = kind(**PYFUNC, save_args={"metadata": {"a": 1}})
    assert repr(pickle.loads(pickle.dumps(dataset))) == repr(dataset)


def test_tracking_loads_what_was_saved_last(store: mlflow.MlflowClient) -> None:
    dataset = MlflowModelTrackingDataset(**PYFUNC, save_args={**QUICK, "name": "kept"})
    assert not dataset.exists()
    with mlflow.start_run():
        dataset.save(Times(2))
        dataset.release()
        assert ask(MlflowModelTrackingDataset(**PYFUNC, save_args={"name": "kept"}).load()) == [2.0, 4.0]
    assert dataset.exists()
    assert ask(dataset.load()) == [2.0, 4.0], "after its run has ended too"
    assert "model_uri='models:/m-" in repr(dataset)


def test_tracking_loads_any_uri(store: mlflow.MlflowClient) -> None:
    run_id = save(7)
    for uri in (f"runs:/{run_id}/model", f"models:/{store.get_run(run_id).outputs.model_outputs[0].model_id}"):
        dataset = MlflowModelTrackingDataset(**PYFUNC, load_args={"model_uri": uri})
        assert dataset.exists()
        assert ask(dataset.load()) == [7.0, 14.0]
        with pytest.raises(DatasetError, match="a logged model is never written over"):
            dataset.save(Times(1))
    assert not MlflowModelTrackingDataset(**PYFUNC, load_args={"model_uri": "models:/m-" + "0" * 32}).exists()


@pytest.mark.slow
def test_the_registry_by_version_alias_and_latest(store: mlflow.MlflowClient) -> None:
    for factor in (2, 3):
        save(factor, registered_model_name="prices")
    store.set_registered_model_alias("prices", "champion", "1")
    found = {
        key: ask(MlflowModelRegistryDataset("prices", **arguments).load())[0]
        for key, arguments in {
            "latest": {},
            "one": {"stage_or_version": 1},
            "two": {"stage_or_version": "2"},
            "champion": {"alias": "champion"},
        }.items()
    }
    assert found == {"latest": 3.0, "one": 2.0, "two": 3.0, "champion": 2.0}
    assert MlflowModelRegistryDataset("prices", alias="champion").exists()
    assert not MlflowModelRegistryDataset("prices", alias="other").exists()
    with pytest.raises(DatasetError, match="has no alias 'other'; it has versions 1, 2; aliases champion"):
        MlflowModelRegistryDataset("prices", alias="other").load()
    with pytest.raises(DatasetError, match="has no version or stage 'production'; it has versions 1, 2"):
        MlflowModelRegistryDataset("prices", "production").load()
    source = store.get_model_version("prices", "2").source
    for number in range(3, 26):
        store.create_model_version("prices", source)
        store.set_registered_model_alias("prices", f"alias{number:02}", str(number))
    with pytest.raises(DatasetError, match=r"it has versions 15 older ones, 16, .*, 25; aliases .* and 14 more$"):
        MlflowModelRegistryDataset("prices", "production").load()
    with pytest.raises(DatasetError, match=r"only loads.*registered_model_name: prices"):
        MlflowModelRegistryDataset("prices").save(Times(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Since kedro-datasets 2.0")
def test_catalog_entries_and_patterns(store: mlflow.MlflowClient) -> None:
    run_id = save(2, "doubled")
    save(3, registered_model_name="prices")
    config = {
        "{name}_of_run": {
            "type": "kbuild.io.models.MlflowModelLoggerDataSet",
            **PYFUNC,
            "artifact_path": "{name}",
            "run_id": run_id,
        },
        "{name}_registered": {"type": "kbuild.io.models.MlflowModelRegistryDataset", "model_name": "{name}"},
        "plain": {"type": "kbuild.io.models.MlflowModelLoggerDataset", **PYFUNC, "run_id": run_id},
    }
    catalog = DataCatalog.from_config(config)
    assert ask(catalog.load("doubled_of_run")) == [2.0, 4.0]
    assert ask(catalog.load("prices_registered")) == [3.0, 6.0]
    again, credentials, versions, save_version = catalog.to_config()
    assert credentials == {}
    copied = DataCatalog.from_config(again, credentials, versions, save_version)
    assert {name: repr(copied[name]) for name in again} == {name: repr(catalog[name]) for name in again}
    assert ask(copied.load("doubled_of_run")) == [2.0, 4.0]
    assert MlflowModelLoggerDataset is MlflowModelLoggerDataSet


def test_describing_shows_no_argument_that_might_be_secret() -> None:
    secret = {"storage_options": {"password": "hunter2"}}
    for dataset in (
        MlflowModelLoggerDataSet(**PYFUNC, load_args=secret, save_args=secret),
        MlflowModelTrackingDataset(**PYFUNC, load_args={"model_uri": "s3://me:hunter2@bucket/model"}, save_args=secret),
        MlflowModelRegistryDataset("prices", load_args=secret),
    ):
        assert "hunter2" not in repr(dataset)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"flavor": "mlflow.pyfunc"}, "flavor mlflow.pyfunc needs a pyfunc_workflow: python_model or loader_module"),
        ({"flavor": "mlflow.pyfunc", "pyfunc_workflow": "python"}, "pyfunc_workflow 'python' is unknown"),
        ({"flavor": "not a module"}, "flavor 'not a module' is not a module"),
        ({**PYFUNC, "artifact_path": ""}, "artifact_path '' is not a name of a model"),
        ({**PYFUNC, "load_args": ["a"]}, "load_args is a mapping of arguments"),
        ({**PYFUNC, "save_args": {"name": "x"}}, "its name is the argument artifact_path"),
    ],
)
def test_entries_that_cannot_be_meant(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(DatasetError, match=said) as caught:
        MlflowModelLoggerDataSet(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MlflowModelTrackingDataset(**PYFUNC, save_args={"name": "a", "artifact_path": "b"}), "keep name"),
        (lambda: MlflowModelRegistryDataset("a", 1, "b"), "has stage_or_version 1 and alias 'b'; keep one"),
        (lambda: MlflowModelRegistryDataset("a/b"), "'a/b' is not a name of a registered model"),
    ],
)
def test_other_entries_that_cannot_be_meant(make: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        make()


def test_what_cannot_be_loaded_is_one_line_with_the_cause(store: mlflow.MlflowClient) -> None:
    run_id = save(2, "doubled")
    cases = {
        MlflowModelLoggerDataSet(**PYFUNC): "has no run_id and no MLflow run is active; add run_id to the entry",
        MlflowModelLoggerDataSet(**PYFUNC, run_id="f" * 32): f"there is no run {'f' * 32} in sqlite:",
        MlflowModelLoggerDataSet(**PYFUNC, run_id=run_id): f"run {run_id} has no model 'model': it has 'doubled'",
        MlflowModelLoggerDataSet("no.such.flavor", run_id, "doubled"): "flavor 'no.such.flavor' cannot be imported",
        MlflowModelLoggerDataSet("json", run_id, "doubled"): "flavor 'json' has no load_model",
        MlflowModelRegistryDataset("prices"): "there is no registered model 'prices'",
        MlflowModelTrackingDataset(**PYFUNC): "no model was saved here and no MLflow run is active",
    }
    for dataset, said in cases.items():
        with pytest.raises(DatasetError) as caught:
            dataset.load()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{type(dataset).__name__}: ")


def test_a_missing_package_is_named_with_what_to_install(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    module = tmp_path / "needy.py"
    module.write_text("import no_such_module_at_all\n")
    before = list(sys.path)
    with mlflow.start_run() as run:
        mlflow.pyfunc.log_model(
            name="model",
            loader_module="needy",
            code_paths=[str(module)],
            pip_requirements=["mlflow", "no-such-package==1.0"],
        )
    with pytest.raises(DatasetError, match=r"'no_such_module_at_all'.* pip install no-such-package==1.0"):
        MlflowModelLoggerDataSet(**PYFUNC, run_id=run.info.run_id).load()
    sys.path[:] = before


def test_what_cannot_be_saved_is_one_line_with_the_cause(store: mlflow.MlflowClient) -> None:
    with pytest.raises(DatasetError, match="there is no active MLflow run to save the model to"):
        MlflowModelLoggerDataSet(**PYFUNC).save(Times(1))
    run_id = save(1)
    with mlflow.start_run():
        with pytest.raises(DatasetError, match=f"but the entry names run {run_id}"):
            MlflowModelLoggerDataSet(**PYFUNC, run_id=run_id).save(Times(1))
        with pytest.raises(DatasetError, match="unexpected keyword argument 'nmae'"):
            MlflowModelLoggerDataSet(**PYFUNC, save_args={"nmae": "x"}).save(Times(1))


def test_a_store_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    dataset = MlflowModelLoggerDataSet(**PYFUNC, run_id="f" * 32)
    with pytest.raises(DatasetError, match=r"MLFLOW_TRACKING_URI is not set and .* has no mlflow.db"):
        dataset.load()
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for ask_store in (dataset.load, dataset.exists):
        with pytest.raises(DatasetError, match="does not answer") as caught:
            ask_store()
        assert "hunter2" not in str(caught.value)
