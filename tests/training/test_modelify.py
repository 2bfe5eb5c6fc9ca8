"""Pipelines logged as a model without training, and who logs where kedro-mlflow is too."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
from kedro.framework import project as kedro_project
from kedro.pipeline import Pipeline, node

from kbuild.errors import PipelineMLError, RecordingError
from kbuild.hooks import kedro_mlflow
from kbuild.recording.modelify import ModelifyRequest, make_pipeline_ml, modelify
from kbuild.training.pipeline_ml import PipelineML, pipeline_ml_factory

# Kedro warns of its own dependencies, MLflow and pandas of each other.
pytestmark = pytest.mark.filterwarnings("ignore")


def fit(raw: Any) -> Any:
    return raw


def predict(table: Any, weights: Any) -> Any:
    return table


TRAINING = Pipeline([node(fit, "raw", "weights")])
INFERENCE = Pipeline([node(predict, ["table", "weights"], "answer")])
BOUND = pipeline_ml_factory(
    Pipeline([node(fit, "table", "weights")]),
    INFERENCE,
    "table",
    kpm_kwargs={"copy_mode": "copy"},
    log_model_kwargs={"name": "bound"},
)
REGISTERED = {"training": TRAINING, "inference": INFERENCE, "bound": BOUND}


def test_an_inference_pipeline_alone_stands_for_its_training() -> None:
    made = make_pipeline_ml(ModelifyRequest(inference="inference", input_name="table"), REGISTERED)
    assert isinstance(made, PipelineML)
    assert set(made.inference.nodes) == set(INFERENCE.nodes)
    assert made.reused_names == []
    assert made.log_model_kwargs == {"name": "model"}


def test_two_pipelines_are_bound_and_arguments_kept() -> None:
    request = ModelifyRequest(inference="inference", input_name="table", training="bound")
    made = make_pipeline_ml(request, REGISTERED)
    assert (made.kpm_kwargs, made.log_model_kwargs) == ({"copy_mode": "copy"}, {"name": "bound"})
    said = ModelifyRequest(
        inference="inference", input_name="table", training="bound", log_model_kwargs={"name": "said"}
    )
    assert make_pipeline_ml(said, REGISTERED).log_model_kwargs == {"name": "said"}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"inference": "inferense"}, "there is no pipeline 'inferense'"),
        ({"training": "train"}, "there is no pipeline 'train'"),
        ({"inference": "bound"}, "pipeline 'bound' is a training pipeline"),
        ({"input_name": "tables"}, "input_name 'tables' is not an input of the inference pipeline"),
        ({"inference": "training", "input_name": "weights"}, "input_name 'weights' is not an input"),
    ],
)
def test_pipelines_that_cannot_be_logged(names: dict[str, str], said: str) -> None:
    request = ModelifyRequest(**{"inference": "inference", "input_name": "table", **names})
    with pytest.raises(PipelineMLError, match=said):
        make_pipeline_ml(request, REGISTERED)


def test_a_mistyped_name_is_told_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(PipelineMLError) as caught:
        make_pipeline_ml(ModelifyRequest(inference="inferense", input_name="table"), REGISTERED)
    assert caught.value.hint == "did you mean 'inference'?"
    with pytest.raises(PipelineMLError, match="did you mean 'table'"):
        make_pipeline_ml(ModelifyRequest(inference="inference", input_name="tables"), REGISTERED)


@pytest.fixture
def shop(package: ModuleType, tmp_path: Path) -> Iterator[Path]:
    """A Kedro project that was never trained, with the factors of somebody else in its catalog."""
    files = {
        "pyproject.toml": """
            [tool.kedro]
            package_name = "tinyshop"
            project_name = "tinyshop"
            kedro_init_version = "1.0.0"
            source_dir = "src"

            [tool.kbuild.training]
            check = false
        """,
        "src/tinyshop/settings.py": "",
        "src/tinyshop/pipeline_registry.py": """
            from kedro.pipeline import Pipeline, node
            from tinyshop.functions import score

            def register_pipelines():
                return {"inference": Pipeline([node(score, ["orders", "factors", "params:bonus"], "scored")])}
        """,
        "conf/base/catalog.yml": """
            orders:
              type: pandas.CSVDataset
              filepath: data/orders.csv
            factors:
              type: json.JSONDataset
              filepath: data/factors.json
        """,
        "conf/base/parameters.yml": "bonus: 1.0",
        "conf/local/.gitkeep": "",
        "data/orders.csv": "price,count\n2.0,3\n",
        "data/factors.json": '{"factor": 10.0}',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    yield tmp_path
    kedro_project.PACKAGE_NAME = None


REQUEST = ModelifyRequest(inference="inference", input_name="orders", log_model_kwargs={"name": "scorer"})


@pytest.mark.slow
def test_the_model_is_logged_from_the_catalog(
    shop: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop)
    recorded = modelify(REQUEST, shop)
    run = store.get_run(recorded.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["kedro.pipeline_name"] == "inference"
    model = mlflow.pyfunc.load_model(recorded.model_uri)
    assert list(model.predict(model.input_example)["total"]) == [61.0]


@pytest.mark.slow
def test_what_the_catalog_lacks_is_told(
    shop: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop)
    (shop / "data" / "factors.json").unlink()
    with pytest.raises(RecordingError, match="'factors' has no file yet"):
        modelify(REQUEST, shop)
    (shop / "data" / "orders.csv").unlink()
    with pytest.raises(RecordingError, match="the input 'orders' has no data yet") as caught:
        modelify(REQUEST, shop)
    assert "--no-infer-signature" in (caught.value.hint or "")
    (failed,) = store.search_runs([each.experiment_id for each in store.search_experiments()])
    assert failed.info.status == "FAILED", "of the first only: the second was refused before a run was begun"


def test_a_pipeline_of_kedro_mlflow_is_known_by_its_class() -> None:
    theirs = type("PipelineML", (Pipeline,), {"__module__": "kedro_mlflow.pipeline.pipeline_ml"})
    made_from_it = type("Mine", (theirs,), {})
    assert kedro_mlflow.is_theirs(theirs([]))
    assert kedro_mlflow.is_theirs(made_from_it([]))
    assert not kedro_mlflow.is_theirs(BOUND)
    assert not kedro_mlflow.is_theirs(TRAINING)
