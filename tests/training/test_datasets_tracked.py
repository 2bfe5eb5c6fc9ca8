"""Metrics and artifacts as catalog types: what is saved and loaded is what kedro-mlflow 2.0.3 was seen to do."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import ParallelRunner, SequentialRunner, ThreadRunner

from kbuild.hooks.kedro_hook import MlflowPipelineHook
from kbuild.io.artifacts import MlflowArtifactDataset
from kbuild.io.metrics import MlflowMetricDataset, MlflowMetricHistoryDataset, MlflowMetricsHistoryDataset
from kbuild.training.artifacts import settle_inputs

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run_id(store: mlflow.MlflowClient) -> str:
    return str(store.create_run("0").info.run_id)


def test_one_number(run_id: str) -> None:
    metric = MlflowMetricDataset(key="k", run_id=run_id)
    assert not metric.exists()
    metric.save(1)
    metric.save(np.float32(0.5))
    assert metric.load() == 0.5
    assert metric.exists()
    appended = MlflowMetricDataset(key="a", run_id=run_id, save_args={"mode": "append"}, load_args={"step": 1})
    for value in (0, 0.1, 0.2):
        appended.save(value)
    assert appended.load() == 0.1
    assert MlflowMetricDataset(key="a", run_id=run_id).load() == 0.2
    with pytest.raises(DatasetError, match="has no step 7; it has 0, 1, 2"):
        MlflowMetricDataset(key="a", run_id=run_id, load_args={"step": 7}).load()


@pytest.mark.slow
def test_a_history_in_each_mode(run_id: str) -> None:
    def load(key: str, mode: str) -> Any:
        return MlflowMetricHistoryDataset(key=key, run_id=run_id, load_args={"mode": mode}).load()

    def save(key: str, mode: str, data: Any) -> None:
        MlflowMetricHistoryDataset(key=key, run_id=run_id, save_args={"mode": mode}).save(data)

    save("list", "list", np.array([0.1, 0.2]))
    save("dict", "dict", {3: 0.1, "5": 0.2})
    save("history", "history", [{"step": 0, "value": 0.1, "timestamp": 1345545}, {"step": 1, "value": 0.2}])
    assert load("list", "list") == load("dict", "list") == load("history", "list") == [0.1, 0.2]
    assert load("dict", "dict") == {3: 0.1, 5: 0.2}
    assert load("history", "history")[0] == {"step": 0, "value": 0.1, "timestamp": 1345545}
    save("long", "list", [float(number) for number in range(2500)])
    assert load("long", "list")[-1] == 2499.0


def test_many(run_id: str) -> None:
    metrics = MlflowMetricsHistoryDataset(run_id=run_id, prefix="p")
    metrics.save({"m1": {"value": 1.1, "step": 1}, "m2": [{"value": 1.1, "step": 1}, {"value": 1.2, "step": 2}]})
    expected = {
        "p.m1": {"step": 1, "value": 1.1},
        "p.m2": [{"step": 1, "value": 1.1}, {"step": 2, "value": 1.2}],
    }
    assert metrics.load() == expected
    assert metrics.exists() and not MlflowMetricsHistoryDataset(run_id=run_id, prefix="q").exists()
    table = MlflowMetricsHistoryDataset(run_id=run_id, prefix="t")
    table.save(pd.DataFrame({"loss": [3.0, 2.0, math.nan]}, index=[10, 20, 30]))
    assert table.load() == {"t.loss": [{"step": 10, "value": 3.0}, {"step": 20, "value": 2.0}]}
    plain = MlflowMetricsHistoryDataset(run_id=run_id, prefix="")
    plain.save({"one": 1, "two": [1.0, 2.0]})
    assert plain.load()["two"] == [{"step": 0, "value": 1.0}, {"step": 1, "value": 2.0}]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"a": "x"}, "'a' is a number, not str 'x'"),
        ({"a": [{"valeu": 1}]}, "mapping with value, step"),
        (3, "mapping by name or a table, not int 3"),
        ({"a": {"value": 1, "step": 0.5}}, "a step is a whole number, not float 0.5"),
    ],
)
def test_what_is_no_metric_is_told(run_id: str, data: Any, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        MlflowMetricsHistoryDataset(run_id=run_id, prefix="p").save(data)


def test_what_cannot_be_meant_is_told(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="mode 'appned' is unknown"):
        MlflowMetricDataset(key="k", save_args={"mode": "appned"})
    with pytest.raises(DatasetError, match="save_args has stpe"):
        MlflowMetricDataset(key="k", save_args={"stpe": 1})
    with pytest.raises(DatasetError, match="is not a text"):
        MlflowMetricDataset(key="k", run_id=12345)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="there is no run 0000"):
        MlflowMetricDataset(key="k", run_id="0" * 32).load()
    with pytest.raises(DatasetError, match="there is no active MLflow run"):
        MlflowMetricDataset(key="k").save(1)
    with pytest.raises(DatasetError, match="has no name"):
        MlflowMetricDataset(run_id="0" * 32).save(1)
    with pytest.raises(DatasetError, match="keeps no file"):
        MlflowArtifactDataset({"type": "MemoryDataset"})
    with pytest.raises(DatasetError, match="has to be on this machine"):
        MlflowArtifactDataset({"type": "json.JSONDataset", "filepath": "memory://x/f.json"})
    with pytest.raises(DatasetError, match="is the entry of a dataset"):
        MlflowArtifactDataset("json.JSONDataset")  # type: ignore[arg-type]
    lonely = MlflowArtifactDataset({"type": "json.JSONDataset", "filepath": str(tmp_path / "f.json")})
    with pytest.raises(DatasetError, match="there is no active MLflow run"):
        lonely.save(1)
    assert not (tmp_path / "f.json").exists()


def test_an_artifact_of_a_run(store: mlflow.MlflowClient, run_id: str, tmp_path: Path) -> None:
    entry = {"type": "json.JSONDataset", "filepath": str(tmp_path / "f.json")}
    dataset = MlflowArtifactDataset(entry, run_id=run_id, artifact_path="sub")
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"has no artifact 'sub/f.json'; it has none there"):
        dataset.load()
    dataset.save({"a": 1})
    assert [each.path for each in store.list_artifacts(run_id, "sub")] == ["sub/f.json"]
    (tmp_path / "f.json").write_text("2")
    # The run's, and what is on this machine stays.
    assert dataset.load() == {"a": 1} and dataset.exists()
    assert MlflowArtifactDataset(entry).load() == 2


def test_a_folder_is_kept_with_its_name(store: mlflow.MlflowClient, run_id: str, tmp_path: Path) -> None:
    entry = {"type": "partitions.PartitionedDataset", "path": str(tmp_path / "parts"), "dataset": "json.JSONDataset"}
    dataset = MlflowArtifactDataset(entry, run_id=run_id)
    dataset.save({"a": 1, "b": 2})
    assert [each.path for each in store.list_artifacts(run_id, "parts")] == ["parts/a", "parts/b"]
    assert {name: load() for name, load in dataset.load().items()} == {"a": 1, "b": 2}


def find_runs(store: mlflow.MlflowClient) -> list[Any]:
    # The experiment is named as the package of the last project that a test was in.
    return list(store.search_runs([each.experiment_id for each in store.search_experiments()]))


CATALOG = """
one: {type: kbuild.io.metrics.MlflowMetricDataset}
many: {type: kbuild.io.metrics.MlflowMetricsHistoryDataset}
thing:
  type: kbuild.io.artifacts.MlflowArtifactDataset
  artifact_path: sub
  dataset: {type: json.JSONDataset, filepath: FOLDER/thing.json, versioned: true}
outer:
  type: kbuild.io.artifacts.MlflowArtifactDataset
  versioned: true
  dataset: {type: json.JSONDataset, filepath: FOLDER/outer.json}
"""


@pytest.mark.slow
@pytest.mark.parametrize("runner", [SequentialRunner(), ThreadRunner(), ParallelRunner(max_workers=2)])
def test_a_run_without_a_model_is_kept_when_it_saves_to_one(
    store: mlflow.MlflowClient, tmp_path: Path, runner: Any
) -> None:
    import yaml

    conf = yaml.safe_load(CATALOG.replace("FOLDER", str(tmp_path)))
    catalog = DataCatalog.from_config(conf, save_version="2020-01-01T00.00.00.000Z")
    if isinstance(runner, ParallelRunner):
        from kedro.io import SharedMemoryDataCatalog

        catalog = SharedMemoryDataCatalog.from_config(conf, save_version="2020-01-01T00.00.00.000Z")
    catalog["numbers"], catalog["text"] = [1.0, 2.0, 4.5], '{"loss": [3.0, 2.0]}'
    pipeline = Pipeline(
        [
            node(statistics.mean, "numbers", "one", name="one"),
            node(json.loads, "text", "many", name="many"),
            node(json.loads, "text", "thing", name="thing"),
            node(json.loads, "text", "outer", name="outer"),
        ]
    )
    hook = MlflowPipelineHook()
    hook.after_catalog_created(catalog=catalog, conf_catalog=conf)
    hook.before_pipeline_run(run_params={"project_path": str(tmp_path)}, pipeline=pipeline, catalog=catalog)
    runner.run(pipeline, catalog)
    wrapper = hook.after_pipeline_run(run_params={}, pipeline=pipeline, catalog=catalog)
    next(wrapper)
    (held,) = find_runs(store)
    assert held.info.status == "FINISHED"
    assert held.data.metrics == {"one": 2.5, "many.loss": 2.0}
    assert held.data.tags["kedro.version.thing"] == held.data.tags["kedro.version.outer"] == "2020-01-01T00.00.00.000Z"
    assert [each.path for each in store.list_artifacts(held.info.run_id, "sub")] == ["sub/thing.json"]
    assert [each.path for each in store.list_artifacts(held.info.run_id)] == [
        "outer.json",
        "pipeline.json",
        "pipeline.svg",
        "sub",
    ]
    # Over: there is no run to save to.
    with pytest.raises(DatasetError, match="no active MLflow run"):
        catalog.save("one", 1.0)


def test_what_a_run_wrote_is_loaded_when_it_is_over(store: mlflow.MlflowClient) -> None:
    """As a notebook does with what ``session.run()`` gives back."""
    one, many = MlflowMetricDataset(), MlflowMetricsHistoryDataset()
    first, second = (store.create_run("0").info.run_id for _ in range(2))
    for run_id, value in ((first, 0.5), (second, 0.75)):
        one.attach("one", run_id)
        many.attach("many", run_id)
        one.save(value)
        many.save({"f1": value})
        one.attach("one")
        many.attach("many")
        assert (one.load(), one.exists(), many.exists()) == (value, True, True)
        assert many.load() == {"many.f1": {"step": 0, "value": value}}
        with pytest.raises(DatasetError, match="no active MLflow run"):
            one.save(0.1)
    # A run that somebody else begins counts more.
    with mlflow.start_run(run_id=first):
        assert one.load() == 0.5
    assert one.load() == 0.75


def test_what_is_not_to_be_tracked_is_saved_and_not_logged(
    store: mlflow.MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.kbuild.tracking.disable_tracking]\npipelines = ['etl']\n")
    entry = {"type": "json.JSONDataset", "filepath": str(tmp_path / "f.json")}
    catalog = DataCatalog({"one": MlflowMetricDataset(), "thing": MlflowArtifactDataset(entry), "n": MemoryDataset(1)})
    pipeline = Pipeline([node(float, "n", "one", name="one"), node(json.dumps, "n", "thing", name="thing")])
    run_params = {"project_path": str(tmp_path), "pipeline_name": "etl"}
    MlflowPipelineHook().before_pipeline_run(run_params=run_params, pipeline=pipeline, catalog=catalog)
    SequentialRunner().run(pipeline, catalog)
    assert "disable_tracking names the pipeline etl" in capsys.readouterr().out
    assert json.loads((tmp_path / "f.json").read_text()) == "1"
    assert find_runs(store) == []


def test_an_artifact_is_an_input_of_a_model_as_what_it_wraps(
    store: mlflow.MlflowClient, run_id: str, tmp_path: Path
) -> None:
    entry = {"type": "json.JSONDataset", "filepath": str(tmp_path / "f.json")}
    (tmp_path / "f.json").write_text('{"a": 1}')
    catalog = DataCatalog({"weights": MlflowArtifactDataset(entry)})
    settled = settle_inputs(["weights"], catalog, tmp_path / "to")
    assert settled.sources["weights"].type == "kedro_datasets.json.json_dataset.JSONDataset"
    assert settled.artifacts["weights"] == (tmp_path / "f.json").as_uri()
    # Of another run, what that run has is what the model needs, whatever is here.
    MlflowArtifactDataset(entry, run_id=run_id).save({"a": 2})
    (tmp_path / "f.json").write_text("3")
    settled = settle_inputs(
        ["weights"], DataCatalog({"weights": MlflowArtifactDataset(entry, run_id=run_id)}), tmp_path / "too"
    )
    assert settled.values == {"weights": {"a": 2}} and "weights" in settled.as_values
