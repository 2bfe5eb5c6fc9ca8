from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import sys
import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro_datasets.json.json_dataset import JSONDataset

from kbuild.answers import Tolerance
from kbuild.cache.recorded import is_recorded
from kbuild.errors import RecordingError
from kbuild.image.deliver.naming import name_values
from kbuild.model.bundle import read_bundle
from kbuild.model.model_reference import ModelReference
from kbuild.project.model_settings import TrainingSettings
from kbuild.recording import log as publish
from kbuild.recording.record import RecordedModel, record_model
from kbuild.recording.run.git import GitState
from kbuild.serving.answer.model_facts import read_facts
from kbuild.serving.pages.about import name_model
from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory

# MLflow and pandas warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore")
UNCHECKED = TrainingSettings(check=False)
HOOKS = '''
    from kedro.framework.hooks import hook_impl


    class Discount:
        """Changes what a node is given, so that it is seen in the answer."""

        @hook_impl
        def before_node_run(self, node, inputs):
            return {"factors": {"factor": inputs["factors"]["factor"] / 2}}
'''


@pytest.fixture
def catalog(tmp_path: Path, package: ModuleType) -> DataCatalog:
    made = DataCatalog(
        {
            "orders": MemoryDataset(package.make_orders()),
            "factors": JSONDataset(filepath=str(tmp_path / "data" / "factors.json")),
            "params:bonus": MemoryDataset(0.5),
        }
    )
    made.save("factors", {"factor": 2.0})
    return made


def bind(function: Any, package: ModuleType, **log_model_kwargs: Any) -> PipelineML:
    training = Pipeline([node(package.fit, "orders", "factors", name="fit")])
    inference = Pipeline([node(function, ["orders", "factors", "params:bonus"], "totals", name="score")])
    return pipeline_ml_factory(training, inference, "orders", log_model_kwargs=log_model_kwargs)


def record(pipeline_ml: PipelineML, catalog: DataCatalog, **kwargs: Any) -> RecordedModel:
    run_id = mlflow.MlflowClient().create_run("0").info.run_id
    options: dict[str, Any] = {"run_id": run_id, "package_name": "tinyshop", "settings": UNCHECKED, **kwargs}
    return record_model(pipeline_ml, catalog, **options)


def find_models(store: mlflow.MlflowClient) -> list[Any]:
    return list(store.search_logged_models(["0"]))


@pytest.mark.slow
def test_a_model_that_kedro_runs_brings_kedro_and_its_hooks(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    home = tmp_path / "src" / "tinyshop"
    (home / "hooks.py").write_text(textwrap.dedent(HOOKS))
    hooks = importlib.import_module("tinyshop.hooks")
    pipelines = bind(package.score, package)
    bound = pipeline_ml_factory(
        pipelines.training,
        pipelines.inference,
        "orders",
        kpm_kwargs={"runner": "SequentialRunner", "hooks": [hooks.Discount()]},
    )
    # In a clean process that has what the requirements bring.
    recorded = record(bound, catalog, settings=TrainingSettings(example_rows=2))
    folder = Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path / "out")))
    assert f"\nkedro=={importlib.metadata.version('kedro')}\n" in (folder / "requirements.txt").read_text()
    assert (folder / "code" / "tinyshop" / "hooks.py").is_file()
    assert json.loads((folder / "recorded_prediction.json").read_text()) == {
        "predictions": [{"total": 10.5}, {"total": 40.5}]
    }


@pytest.mark.slow
def test_a_whole_checked_model_is_logged(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "src" / "tinyshop" / "functions.py").write_text(
        (tmp_path / "src" / "tinyshop" / "functions.py").read_text() + "\n# more\n"
    )
    recorded = record(
        bind(package.score, package, name="shop", metadata={"mine": 1}, tags={"team": "a"}),
        catalog,
        settings=TrainingSettings(example_rows=2),
        git=GitState(commit="a" * 40, dirty=True, source="https://git.example/shop"),
        licence="Apache-2.0",
    )
    assert (recorded.name, recorded.model_uri) == ("shop", f"models:/{recorded.model_id}")
    logged = store.get_logged_model(recorded.model_id)
    assert str(logged.status) == "READY"
    assert logged.tags["team"] == "a"
    # Of the project: nothing of the program and the repository that happen to run it.
    ours = {name: value for name, value in logged.tags.items() if name.startswith("mlflow.source.")}
    assert ours.pop("mlflow.source.type")
    assert ours == {
        "mlflow.source.name": "tinyshop",
        "mlflow.source.git.commit": "a" * 40,
        "mlflow.source.git.dirty": "true",
        "mlflow.source.git.repoURL": "https://git.example/shop",
    }
    outputs = store.get_run(recorded.run_id).outputs.model_outputs
    assert [each.model_id for each in outputs] == [recorded.model_id]

    folder = Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path / "out")))
    model = yaml.safe_load((folder / "MLmodel").read_text())
    assert model["run_id"] == recorded.run_id
    assert model["metadata"]["mine"] == 1
    kept = model["metadata"]["kbuild"]
    assert kept["format"] == 1
    assert kept["git_commit"] == "a" * 40
    assert kept["git_dirty"] is True
    assert (kept["git_source"], kept["licence"]) == ("https://git.example/shop", "Apache-2.0")
    assert kept["prediction"] == "recorded_prediction.json"
    assert model["signature"]["outputs"] is not None
    assert json.loads((folder / "recorded_prediction.json").read_text()) == {
        "predictions": [{"total": 20.5}, {"total": 80.5}]
    }
    assert len(json.loads((folder / "serving_input_example.json").read_text())["dataframe_split"]["data"]) == 2
    assert "-c constraints.txt" in (folder / "requirements.txt").read_text()
    assert "kedro" not in (folder / "requirements.txt").read_text()
    assert (folder / "code" / "tinyshop" / "functions.py").is_file()
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in everything
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.slow
def test_the_users_log_level_comes_back(package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient) -> None:
    logger = logging.getLogger("mlflow.pyfunc")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        record(bind(package.score, package), catalog, settings=UNCHECKED)
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


@pytest.mark.slow
def test_what_says_what_the_model_needs_is_noted_by_its_digest(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient
) -> None:
    recorded = record(bind(package.score, package), catalog)
    folder = Path(mlflow.artifacts.download_artifacts(recorded.model_uri))
    noted = yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["kbuild"]["environment"]
    assert noted.keys() == {"conda.yaml", "constraints.txt", "python_env.yaml"}
    for name, digest in noted.items():
        assert (folder / name).read_bytes().endswith(b"\n")
        assert digest == "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_project_that_uv_manages_gives_the_model_none_of_its_files(
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = tmp_path / "of-uv"
    project.mkdir()
    (project / "pyproject.toml").write_text('[[tool.uv.index]]\nurl = "https://me:s3cret@index.example/simple"')
    (project / "uv.lock").write_text("version = 1\n")
    (project / ".python-version").write_text("3.11\n")
    monkeypatch.chdir(project)
    recorded = record(bind(package.score, package), catalog)
    folder = Path(mlflow.artifacts.download_artifacts(recorded.model_uri))
    assert not {path.name for path in project.iterdir()} & {path.name for path in folder.rglob("*")}
    assert b"s3cret" not in b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_the_logged_model_answers(package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient) -> None:
    recorded = record(bind(package.score, package), catalog)
    model = mlflow.pyfunc.load_model(recorded.model_uri)
    answer = model.predict(package.make_orders(), params={"bonus": 1.0})
    assert answer["total"].tolist() == [21.0, 81.0, 181.0]


@pytest.mark.slow
def test_released_data_is_taken_from_what_was_captured(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient
) -> None:
    orders = package.make_orders()
    catalog["orders"] = MemoryDataset()
    with pytest.raises(RecordingError, match="no data of the inference input 'orders'"):
        record(bind(package.score, package), catalog)
    assert record(bind(package.score, package), catalog, captured={"orders": orders}).model_id
    assert record(bind(package.score, package, signature=None), catalog).model_id


@pytest.mark.slow
def test_inputs_of_an_earlier_run_are_noted(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient
) -> None:
    training = Pipeline(
        [node(package.fit, "orders", "factors", name="fit"), node(lambda o: 1, "orders", "size", name="size")]
    )
    bound = pipeline_ml_factory(training, bind(package.score, package).inference, "orders").only_nodes("size")
    recorded = record(bound, catalog)
    assert recorded.reused == ("factors",)
    info = mlflow.models.get_model_info(recorded.model_uri)
    assert info.metadata["kbuild"]["reused_inputs"] == ["factors"]


@pytest.mark.slow
def test_an_example_may_be_refused(package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient) -> None:
    recorded = record(bind(package.score, package, input_example=False), catalog)
    assert mlflow.models.get_model_info(recorded.model_uri).metadata["kbuild"]["prediction"] is None


def add_module(tmp_path: Path, name: str, text: str) -> ModuleType:
    from importlib import import_module, invalidate_caches

    (tmp_path / "src" / "tinyshop" / f"{name}.py").write_text(textwrap.dedent(text))
    invalidate_caches()
    return import_module(f"tinyshop.{name}")


def assert_nothing_is_left(store: mlflow.MlflowClient) -> None:
    assert find_models(store) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick_check")
def test_a_package_that_only_the_check_finds_is_added(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    dynamic = add_module(
        tmp_path,
        "dynamic",
        """
        from importlib import import_module

        def score(orders, factors, bonus):
            import_module("hypothesis")
            return orders[["price"]] * factors["factor"] + bonus
        """,
    )
    recorded = record(bind(dynamic.score, package), catalog, settings=TrainingSettings())
    assert "hypothesis==" in Path(mlflow.pyfunc.get_model_dependencies(recorded.model_uri)).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_check")
def test_what_the_user_says_it_needs_is_not_added_to(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    uses = add_module(
        tmp_path, "uses", "import sklearn\n\n\ndef score(orders, factors, bonus):\n    return orders[['price']]\n"
    )
    bound = bind(uses.score, package, pip_requirements=["mlflow-skinny", "pandas", "cloudpickle"])
    with pytest.raises(RecordingError, match="No module named 'sklearn'"):
        record(bound, catalog, settings=TrainingSettings())
    assert_nothing_is_left(store)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_check")
def test_code_that_would_not_be_in_the_image_fails_the_check(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "hidden_helper.py").write_text("FACTOR = 3\n")
    module = add_module(
        tmp_path,
        "sneaky",
        """
        import importlib

        def score(orders, factors, bonus):
            return orders[["price"]] * importlib.import_module("hidden_" + "helper").FACTOR
        """,
    )
    sys.path.insert(0, str(elsewhere))
    try:
        with pytest.raises(RecordingError, match=r"in a clean process: .*No module named 'hidden_helper'") as caught:
            record(bind(module.score, package), catalog, settings=TrainingSettings())
    finally:
        sys.path.remove(str(elsewhere))
        sys.modules.pop("hidden_helper", None)
    assert "check = false" in (caught.value.hint or "")
    assert_nothing_is_left(store)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_check")
def test_a_model_that_answers_otherwise_elsewhere_is_refused_by_a_tolerance_that_travels_with_it(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    text = """
        import os

        def score(orders, factors, bonus):
            return orders[["price"]] * (1 + os.getpid() / 1e9)
        """
    module = add_module(tmp_path, "noisy", text)
    with pytest.raises(RecordingError, match="predicts something else than in training"):
        record(bind(module.score, package), catalog, settings=TrainingSettings(tolerance=Tolerance(relative=1e-12)))
    assert_nothing_is_left(store)
    settings = TrainingSettings(tolerance=Tolerance.from_json({"rtol": 0.1}))
    recorded = record(bind(module.score, package), catalog, settings=settings)
    folder = Path(mlflow.artifacts.download_artifacts(recorded.model_uri))
    assert read_bundle(folder).facts.tolerance == settings.tolerance
    assert yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["kbuild"]["tolerance"] == {"rtol": 0.1}


@pytest.mark.slow
def test_a_check_that_takes_too_long_is_stopped(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient
) -> None:
    with pytest.raises(RecordingError, match=r"within 0\.01 seconds"):
        record(bind(package.score, package), catalog, settings=TrainingSettings(check_timeout=0.01))
    assert_nothing_is_left(store)


def test_an_output_that_json_cannot_carry_is_told(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    module = add_module(tmp_path, "odd", "def score(orders, factors, bonus):\n    return {'a': object()}\n")
    with pytest.raises(RecordingError, match="answer, a dict, cannot be written as JSON"):
        record(bind(module.score, package), catalog)
    assert_nothing_is_left(store)


@pytest.mark.slow
def test_a_store_that_fails_half_way_keeps_no_model(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", refuse)
    with pytest.raises(RecordingError, match="could not be logged: No space left"):
        record(bind(package.score, package), catalog)
    assert_nothing_is_left(store)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "told"), [(413, "client_max_body_size"), (507, "raise its quota")])
def test_a_store_without_room_is_told_with_what_to_raise(
    status: int,
    told: str,
    package: ModuleType,
    catalog: DataCatalog,
    store: mlflow.MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = requests.Response()
    answer.status_code, answer.reason, answer.url = status, "full", "http://store/a"

    def refuse(*_: Any, **__: Any) -> None:
        answer.raise_for_status()

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", refuse)
    with pytest.raises(RecordingError, match=f"could not be logged: {status}") as raised:
        record(bind(package.score, package), catalog)
    assert told in str(raised.value.hint)
    assert_nothing_is_left(store)


@pytest.mark.slow
def test_one_that_is_interrupted_half_way_keeps_no_model(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mlflow.MlflowClient, "log_model_artifacts", interrupt)
    with pytest.raises(KeyboardInterrupt):
        record(bind(package.score, package), catalog)
    assert_nothing_is_left(store)


def test_what_cannot_even_be_deleted_is_named() -> None:
    class Client:
        def delete_logged_model(self, model_id: str) -> None:
            raise OSError("gone")

    assert "m-1 could not be deleted: gone" in publish._delete(Client(), "m-1")
    assert publish._delete(Client(), None) == ""


@pytest.mark.slow
def test_what_was_recorded_here_is_known_by_what_is_fetched(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    recorded = record(bind(package.score, package), catalog)
    fetched = Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path / "fetched")))
    assert is_recorded(read_bundle(fetched).digest)
    (fetched / "more").write_bytes(b"")
    assert not is_recorded(read_bundle(fetched).digest)


@pytest.mark.slow
def test_a_registered_model(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, tmp_path: Path
) -> None:
    recorded = record(bind(package.score, package, registered_model_name="shop"), catalog)
    version = store.get_model_version("shop", "1")
    assert version.run_id == recorded.run_id
    answer = mlflow.pyfunc.load_model("models:/shop/1").predict(package.make_orders())
    assert isinstance(answer, pd.DataFrame)
    # What is made of its run is called as it is called, not as its place in the run.
    folder = Path(mlflow.artifacts.download_artifacts("models:/shop/1", dst_path=str(tmp_path / "fetched")))
    bundle = read_bundle(folder)
    assert bundle.facts.name == "shop"
    run = ModelReference.parse(recorded.run_id)
    assert name_values(bundle, run) == {
        "name": "shop", "version": None, "run_id": recorded.run_id, "model_id": recorded.model_id,
    }  # fmt: skip
    facts = read_facts(mlflow.pyfunc.load_model(str(folder)), folder)
    assert name_model(facts, {"KBUILD_MODEL_URI": recorded.model_uri}) == ("shop", recorded.model_id)


@pytest.mark.slow
def test_variables_of_the_given_conda_env_are_said_not_to_be_in_the_image(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient
) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    needed = [f"{name}=={importlib.metadata.version(name)}" for name in ("pandas", "kedro", "mlflow")]
    environment = {
        "channels": ["conda-forge"], "dependencies": [f"python={python}", {"pip": needed}], "variables": {"SPEED": "2"},
    }  # fmt: skip
    recorded = record(bind(package.score, package, conda_env=environment), catalog)
    assert any("not set in the image: SPEED;" in note for note in recorded.notes)


@pytest.mark.slow
def test_a_machine_without_namespaces_checks_all_the_same_and_says_what_it_could_not_see(
    package: ModuleType, catalog: DataCatalog, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = SimpleNamespace(returncode=71, stdout="", stderr="unshare: Operation not permitted\n")
    monkeypatch.setattr("kbuild.recording.clean_check._start_rooted", lambda *_, **__: refused)
    recorded = record(bind(package.score, package), catalog, settings=TrainingSettings())
    assert any(note.endswith("Operation not permitted") for note in recorded.notes)
    (model,) = find_models(store)
    assert model.model_id == recorded.model_id
