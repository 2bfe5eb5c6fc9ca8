"""What a run holds beside its model, and how a project says so."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from kedro.io import DataCatalog, MemoryDataset, Version
from kedro.pipeline import Pipeline, node
from kedro_datasets.json import JSONDataset

from kbuild.errors import ConfigurationError, RecordingError
from kbuild.hooks import kedro_mlflow
from kbuild.project.config import read_config
from kbuild.project.tracking_settings import ParameterSettings, TrackingSettings, find_disabled
from kbuild.recording.mlflow_run import end_training_run, make_tags, start_training_run
from kbuild.recording.run.facts import log_end, log_start
from kbuild.recording.run.parameters import collect_parameters, make_name

pytestmark = pytest.mark.filterwarnings("ignore")

PARAMETERS = {"lr": 0.1, "tree": {"depth": 3, "odd key!": {"deep": [1, 2]}, "none": {}}}


@dataclass
class Typed:
    depth: int


def make(values: dict[str, Any]) -> tuple[Pipeline, DataCatalog]:
    names = [f"params:{name}" for name in values]
    data = {f"params:{name}": MemoryDataset(value) for name, value in values.items()}
    return Pipeline([node(lambda *_: 1, [*names, "params:absent"], "out", name="a")]), DataCatalog(data)


def collect(values: dict[str, Any], **settings: Any) -> Any:
    return collect_parameters(*make(values), ParameterSettings(**settings))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, {"lr": "0.1", "tree.depth": "3", "tree.odd key_.deep": "[1, 2]", "tree.none": "{}"}),
        ({"separator": "/"}, {"lr": "0.1", "tree/depth": "3", "tree/odd key_/deep": "[1, 2]", "tree/none": "{}"}),
        (
            {"recursive": False},
            {"lr": "0.1", "tree.depth": "3", "tree.odd key_": "{'deep': [1, 2]}", "tree.none": "{}"},
        ),
        ({"flatten": False}, {"lr": "0.1", "tree": str(PARAMETERS["tree"])}),
    ],
)
def test_parameters_are_named_as_kedro_mlflow_names_them(settings: dict[str, Any], names: dict[str, str]) -> None:
    """The names and values that kedro-mlflow 2.0.3 was seen to log for these."""
    assert collect(PARAMETERS, **settings).values == names


def test_what_kedro_made_of_typed_parameters_is_flattened_too() -> None:
    assert collect({"tree": Typed(depth=3)}).values == {"tree.depth": "3"}


def test_all_parameters_as_one_input() -> None:
    pipeline = Pipeline([node(lambda all_: 1, "parameters", "out")])
    found = collect_parameters(pipeline, DataCatalog({"parameters": MemoryDataset({"lr": 1})}), ParameterSettings())
    assert found.values == {"parameters.lr": "1"}


def test_long_values() -> None:
    text = "x" * 6001
    with pytest.raises(RecordingError, match=r"too long for MLflow.*'a' \(6001 characters\), 'b'") as caught:
        collect({"a": text, "b": text}, long_values="fail")
    assert "long_params_strategy" in str(caught.value.hint)
    cut = collect({"a": text})
    assert len(cut.values["a"]) == 6000 and cut.notes == [
        "The parameter 'a' has 6001 characters: MLflow keeps the first 6000"
    ]
    tagged = collect({"a": text, "b": "y" * 9000}, long_values="tag")
    assert tagged.values == {} and tagged.tags["a"] == text and len(tagged.tags["b"]) == 8000
    assert len(tagged.notes) == 2


@pytest.mark.parametrize("name", ["a" * 300, "/etc", "../x", "..", ".", "a//b", "ä b:c-d", "tab\t", "a/../b", "…", ""])
def test_any_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_param

    made = make_name(name)
    _validate_param(made, "1")
    assert make_name(made) == made


def test_a_run_holds_parameters_versions_and_the_pipeline(
    store: mlflow.MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, catalog = make({f"p{number}": number for number in range(250)} | PARAMETERS)
    catalog["plain"] = MemoryDataset()
    catalog["kept"] = JSONDataset(filepath=str(tmp_path / "kept.json"), version=Version(None, "2020-01-01"))
    catalog["kept"].save(1)
    inputs = [name for name in catalog if name.startswith("params:")]
    pipeline = Pipeline(
        [node(lambda *_: 1, inputs, "kept", name="a"), node(lambda kept: kept, "kept", "plain", name="b")]
    )
    run = store.create_run("0")
    store.log_param(run.info.run_id, "lr", 7)
    for _ in range(2):  # what is there already is left alone
        log_start(run.info.run_id, pipeline, catalog, TrackingSettings())
    assert "'lr' is 0.1 now; the run has had 7" in caplog.text
    log_end(run.info.run_id, pipeline, catalog, TrackingSettings())
    held = store.get_run(run.info.run_id).data
    assert len(held.params) == 250 + 4 and held.params["tree.depth"] == "3"
    assert held.tags["kedro.version.kept"] == "2020-01-01"
    kept = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/pipeline.json"))
    assert [each["name"] for each in kept["pipeline"]] == ["a", "b"]


def test_each_is_off_with_its_switch(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.kbuild.tracking.log]\nparameters = false\narguments = false\ndataset_versions = false\n"
        "commit = false\npipeline = false\n"
    )
    settings = read_config(tmp_path).tracking
    pipeline, catalog = make(PARAMETERS)
    run = store.create_run("0")
    log_start(run.info.run_id, pipeline, catalog, settings)
    log_end(run.info.run_id, pipeline, catalog, settings)
    assert store.get_run(run.info.run_id).data.params == {}
    assert store.list_artifacts(run.info.run_id) == []
    assert set(make_tags({"env": "x"}, None, "me", settings)) == {"mlflow.source.name"}


def test_a_place_that_keeps_no_artifacts_is_one_line(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = store.create_run(store.create_experiment("e", f"file://{tmp_path}/file"))
    with pytest.raises(RecordingError, match="MLflow cannot keep what this run is given") as caught:
        log_start(run.info.run_id, *make({}), TrackingSettings())
    assert "tracking.log" in str(caught.value.hint)


# The template that kedro-mlflow 2.0.3's "kedro mlflow init" writes, its section of that name.
THEIRS = """
tracking:
  disable_tracking:
    disable_autologging: True
    pipelines: [report]
  experiment:
    name: churn
    create_experiment_kwargs:
      artifact_location: null
      tags: {team: a}
    restore_if_deleted: True
  run:
    id: null
    name: nightly
    nested: True
  params:
    dict_params:
      flatten: False
      recursive: True
      sep: "."
    long_params_strategy: fail
"""


def test_kedro_mlflows_section_is_taken_as_it_is(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "conf" / "base").mkdir(parents=True)
    (tmp_path / "conf" / "base" / "kbuild.yml").write_text(THEIRS)
    settings = read_config(tmp_path).tracking
    assert settings.parameters == ParameterSettings(flatten=False, long_values="fail")
    assert settings.disabled == ("report",)
    store.delete_experiment(store.create_experiment("churn"))
    with mlflow.start_run(experiment_id="0") as outer:
        run = start_training_run(tmp_path, "package", {"a": "b"}, settings)
        end_training_run(run, "FINISHED")
    made = store.get_run(run.run_id)
    assert made.info.run_name == "nightly"
    assert made.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert store.get_experiment(made.info.experiment_id).name == "churn"
    # MLflow's own idea of the commit is that of pytest's repository.
    assert not [name for name in made.data.tags if name.startswith("mlflow.source.git")]
    again = start_training_run(tmp_path, "package", {}, replace(settings, run_id=run.run_id))
    end_training_run(again, "FINISHED")
    assert again.run_id == run.run_id


@pytest.mark.parametrize("text", ["params: {dict_params: {flaten: true}}", "params: {dict_params: {sep: '#'}}"])
def test_a_mistyped_key_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "conf" / "base").mkdir(parents=True)
    (tmp_path / "conf" / "base" / "kbuild.yml").write_text(f"tracking: {{{text}}}")
    with pytest.raises(ConfigurationError, match=r"kbuild.yml: tracking.params.dict_params"):
        read_config(tmp_path)


def test_pipelines_that_are_not_tracked() -> None:
    assert find_disabled({"pipeline_names": ["a", "b"]}, ["b"]) == "b"
    assert find_disabled({"pipeline_name": "a"}, ["b"]) is None
    assert find_disabled({"pipeline_name": None}, ["__default__"]) == "__default__"


def test_beside_kedro_mlflow_what_it_logs_is_left_out() -> None:
    class Theirs:
        """As kedro-mlflow 2.0.3 hangs it on Kedro's context."""

        tracking = SimpleNamespace(disable_tracking=SimpleNamespace(pipelines=["etl"]))

    assert kedro_mlflow.find_settings(SimpleNamespace(mlflow=Theirs())) is None  # somebody else's attribute
    Theirs.__module__ = "kedro_mlflow.config.kedro_mlflow_config"
    theirs = kedro_mlflow.find_settings(SimpleNamespace(mlflow=Theirs()))
    assert kedro_mlflow.get_disabled(theirs) == ("etl",)
    left = kedro_mlflow.leave_out(TrackingSettings(), theirs)
    assert not left.log_parameters and not left.log_arguments and left.log_commit and left.log_pipeline
    assert kedro_mlflow.leave_out(TrackingSettings(), None) == TrackingSettings()
    assert kedro_mlflow.find_settings(SimpleNamespace()) is None and kedro_mlflow.get_disabled(None) == ()


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("<kedro.runner.sequential_runner.SequentialRunner object at 0x7f4e287ed0>", "SequentialRunner"),
        ("<mine.runners.DryRunner object at 0x7f4e287ed0>", "mine.runners.DryRunner"),
        ("ThreadRunner", "ThreadRunner"),
        ("None", "SequentialRunner"),
    ],
)
def test_the_runner_is_told_by_its_name(told: str, name: str) -> None:
    assert make_tags({"runner": told}, None, "me")["kedro.runner"] == name
