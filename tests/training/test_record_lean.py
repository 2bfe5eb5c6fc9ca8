"""Models of projects in Kedro's standard layout: recorded without Kedro, or with it and a line that says why."""

from __future__ import annotations

import importlib
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pytest
from kedro.io import DataCatalog, MemoryDataset

from kbuild.project.model_settings import TrainingSettings
from kbuild.recording.record import RecordedModel, record_model
from kbuild.training.pipeline_ml import pipeline_ml_factory

# MLflow and pandas warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore")

PIPELINE = """
    from kedro.pipeline import Node, Pipeline

    from .nodes import fit, score


    def create_pipeline(**kwargs) -> Pipeline:
        return Pipeline(
            [
                Node(fit, "orders", "factors", name="fit", tags="train"),
                Node(score, ["orders", "factors"], "totals", name="score", tags="serve"),
            ]
        )
"""
FIT = """
    import sys
    from importlib import import_module


    def fit(orders):
        return {"factor": float(orders["price"].mean())}
"""
SCORE = '    return orders[["price"]] * factors["factor"]\n'


@pytest.fixture
def record(package: ModuleType, store: mlflow.MlflowClient, tmp_path: Path) -> Any:
    """Records ``tinyshop``'s pipeline ``ds`` whose node ``score`` has this body."""

    def record(body: str, settings: TrainingSettings | None = None) -> RecordedModel:
        home = tmp_path / "src" / "tinyshop" / "pipelines" / "ds"
        home.mkdir(parents=True)
        (home.parent / "__init__.py").write_text("")
        (home / "__init__.py").write_text("from .pipeline import create_pipeline  # NOQA\n")
        (home / "pipeline.py").write_text(textwrap.dedent(PIPELINE))
        nodes = f"{textwrap.dedent(FIT)}\n\ndef score(orders, factors):\n{body}"
        (home / "nodes.py").write_text(nodes)
        importlib.invalidate_caches()
        pipeline = importlib.import_module("tinyshop.pipelines.ds").create_pipeline()
        bound = pipeline_ml_factory(
            pipeline.only_nodes_with_tags("train"), pipeline.only_nodes_with_tags("serve"), "orders"
        )
        catalog = DataCatalog(
            {"orders": MemoryDataset(package.make_orders()), "factors": MemoryDataset({"factor": 2.0})}
        )
        run_id = mlflow.MlflowClient().create_run("0").info.run_id
        chosen = settings or TrainingSettings(example_rows=2)
        return record_model(bound, catalog, run_id=run_id, package_name="tinyshop", settings=chosen)

    return record


def files_of(recorded: RecordedModel, tmp_path: Path) -> tuple[bool, str]:
    """Whether the model requires Kedro, and the pipeline's ``__init__`` as it travels."""
    folder = Path(mlflow.artifacts.download_artifacts(recorded.model_uri, dst_path=str(tmp_path / "out")))
    init = (folder / "code" / "tinyshop" / "pipelines" / "ds" / "__init__.py").read_text()
    return "kedro==" in (folder / "constraints.txt").read_text(), init


def of_kedro(recorded: RecordedModel) -> list[str]:
    """The notes, but for the one of a column that this pipeline does not read."""
    return [note for note in recorded.notes if not note.startswith("The inference pipeline reads 1 of the 2 columns")]


@pytest.mark.slow
def test_the_standard_layout_is_served_without_kedro(record: Any, tmp_path: Path) -> None:
    recorded = record(SCORE)
    with_kedro, init = files_of(recorded, tmp_path)
    assert not with_kedro
    assert init.startswith("# from .pipeline import create_pipeline  # NOQA\n")
    assert of_kedro(recorded) == []


@pytest.mark.slow
@pytest.mark.usefixtures("quick_check")
def test_what_only_running_shows_brings_kedro_back(record: Any, tmp_path: Path) -> None:
    recorded = record("    import_module('tinyshop.pipelines.' + 'ds.pipeline')\n" + SCORE)
    with_kedro, init = files_of(recorded, tmp_path)
    assert with_kedro
    assert init == "from .pipeline import create_pipeline  # NOQA\n"
    [note] = of_kedro(recorded)
    assert note.startswith("Kedro and ")
    assert "are in the image: without it, the model cannot be loaded and asked in a clean process: " in note
    assert "No module named 'kedro'" in note


@pytest.mark.slow
@pytest.mark.usefixtures("quick_check")
def test_another_answer_without_it_brings_kedro_back(record: Any, tmp_path: Path) -> None:
    recorded = record("    factors = {'factor': 1 + len([each for each in sys.modules if each == 'kedro'])}\n" + SCORE)
    with_kedro, _ = files_of(recorded, tmp_path)
    assert with_kedro
    [note] = of_kedro(recorded)
    assert "without it, in a clean process the model predicts something else than in training" in note


@pytest.mark.slow
def test_where_nothing_is_proven_nothing_is_left_out(record: Any, tmp_path: Path) -> None:
    recorded = record(SCORE, TrainingSettings(check=False))
    with_kedro, init = files_of(recorded, tmp_path)
    assert with_kedro
    assert init == "from .pipeline import create_pipeline  # NOQA\n"
    [note] = of_kedro(recorded)
    assert note.endswith("nothing shows that the model does without it: [tool.kbuild.training] check is false")
