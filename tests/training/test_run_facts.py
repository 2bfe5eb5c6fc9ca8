"""What a run holds beside its model, and how a project says so."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from kedro.io import DataCatalog, MemoryDataset, Version
from kedro.pipeline import Pipeline, node
from kedro.runner import SequentialRunner
from kedro_datasets.json import JSONDataset

from kbuild.errors import ConfigurationError, RecordingError
from kbuild.hooks import kedro_mlflow
from kbuild.hooks.kedro_hook import MlflowPipelineHook
from kbuild.io.metrics import MlflowMetricDataset
from kbuild.project.config import read_config
from kbuild.project.tracking_settings import ParameterSettings, TrackingSettings, find_disabled
from kbuild.recording.mlflow_run import end_training_run, make_tags, start_training_run
from kbuild.recording.run.facts import keep_facts, log_end, log_start
from kbuild.recording.run.parameters import Parameters, collect_parameters, make_name

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


@pytest.mark.slow
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
    for _ in range(2):  # what is there already is left alone
        found = log_start(run.info.run_id, pipeline, catalog, TrackingSettings())
        store.log_param(run.info.run_id, "lr", 7)  # by a node: MLflow would refuse another value than is there
        log_end(run.info.run_id, pipeline, catalog, TrackingSettings(), found)
    assert "has the parameter 'lr' with another value" in caplog.text
    assert "0.1" not in caplog.text
    held = store.get_run(run.info.run_id).data
    assert len(held.params) == 250 + 4 and held.params["tree.depth"] == "3"
    assert held.tags["kedro.version.kept"] == "2020-01-01"
    kept = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/pipeline.json"))
    assert [each["name"] for each in kept["pipeline"]] == ["a", "b"]


def test_secrets_are_blanked_out_and_what_is_like_one_is_not() -> None:
    values = {
        "db": {"password": "hunter2", "url": "postgresql://me:hunter2@host/db", "user": "me", "pwd": None},
        "apiKey": "hunter2",
        "service.access_key": 12345,
        "DB_PASSWORD_2": "hunter2",
        "token_1": "the",
        "credentials": {"dev": {"user": "me"}},
        "servers": [{"name": "a", "secret": "hunter2"}],
        "max_tokens": 100,
        "pad_token": "<pad>",
        "keys": ["a", "b"],
    }
    found = collect(values).values
    assert found == {
        "db.password": "***",
        "db.url": "postgresql://***@host/db",
        "db.user": "me",
        "db.pwd": "None",
        "apiKey": "***",
        "service.access_key": "***",
        "DB_PASSWORD_2": "***",
        "token_1": "the",
        "credentials": "***",
        "servers": "[{'name': 'a', 'secret': '***'}]",
        "max_tokens": "100",
        "pad_token": "<pad>",
        "keys": "['a', 'b']",
    }
    assert "hunter2" not in str(collect(values, flatten=False).values)
    given = {"db.password": "hunter2", "db": {"token": "hunter2"}, "url": "https://me:hunter2@host", "lr": 0.1}
    assert json.loads(make_tags({"runtime_params": given}, None, "me")["kedro.runtime_params"]) == {
        "db.password": "***",
        "db": {"token": "***"},
        "url": "https://***@host",
        "lr": 0.1,
    }


def test_a_run_that_fails_keeps_its_parameters(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    def fail(lr: float) -> None:
        mlflow.log_param("lr", "mine")
        raise ArithmeticError

    hook = MlflowPipelineHook()
    metric = MlflowMetricDataset()
    catalog = DataCatalog({"params:lr": MemoryDataset(0.1), "params:depth": MemoryDataset(3), "one": metric})
    pipeline = Pipeline([node(lambda lr, depth: fail(lr), ["params:lr", "params:depth"], "one", name="one")])
    hook.before_pipeline_run(run_params={"project_path": str(tmp_path)}, pipeline=pipeline, catalog=catalog)
    with pytest.raises(ArithmeticError):
        SequentialRunner().run(pipeline, catalog)
    hook.on_pipeline_error()
    (held,) = store.search_runs([each.experiment_id for each in store.search_experiments()])
    assert (held.info.status, held.data.params) == ("FAILED", {"lr": "mine", "depth": "3"})
    store.delete_run(held.info.run_id)
    assert "cannot keep" in str(keep_facts(held.info.run_id, TrackingSettings(), Parameters(values={"a": "1"})))


def test_a_run_that_fails_names_the_versions_that_it_came_to(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    from kedro.io import Version
    from kedro_datasets.json import JSONDataset

    def fail(table: object) -> None:
        raise ArithmeticError

    def versioned(name: str, load: str | None, save: str) -> Any:
        return JSONDataset(filepath=str(tmp_path / f"{name}.json"), version=Version(load, save))

    versioned("raw", None, "2026-01-01T00.00.00.000Z").save([1])
    versioned("late", None, "2026-01-01T00.00.00.000Z").save([1])  # of an earlier run
    saved = "2026-02-02T00.00.00.000Z"
    catalog = DataCatalog({name: versioned(name, None, saved) for name in ("raw", "table", "late")})
    pipeline = Pipeline(
        [node(lambda raw: raw, "raw", "table", name="first"), node(fail, "table", ["late", "score"], name="second")]
    )
    hook = MlflowPipelineHook()
    catalog["score"] = MlflowMetricDataset()
    hook.before_pipeline_run(run_params={"project_path": str(tmp_path)}, pipeline=pipeline, catalog=catalog)
    with pytest.raises(ArithmeticError):
        SequentialRunner().run(pipeline, catalog)
    hook.on_pipeline_error()
    (held,) = store.search_runs([each.experiment_id for each in store.search_experiments()])
    found = {name: value for name, value in held.data.tags.items() if name.startswith("kedro.version.")}
    assert found == {"kedro.version.raw": "2026-01-01T00.00.00.000Z", "kedro.version.table": saved}


def test_metrics_of_a_run_of_kedro_mlflows_are_told_that_run(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    """Processes that are spawned have no active run."""
    hook = MlflowPipelineHook()
    hook._theirs = SimpleNamespace(
        tracking=SimpleNamespace(disable_tracking=SimpleNamespace(pipelines=[])),
    )
    catalog = DataCatalog({"n": MemoryDataset(1), "one": MlflowMetricDataset()})
    pipeline = Pipeline([node(float, "n", "one", name="one")])
    metric: Any = catalog.get("one")
    for end in (lambda: list(hook.after_pipeline_run({}, pipeline, catalog)), hook.on_pipeline_error):
        with mlflow.start_run() as run:
            hook.before_pipeline_run(run_params={"project_path": str(tmp_path)}, pipeline=pipeline, catalog=catalog)
            assert pickle.loads(pickle.dumps(metric))._attached == run.info.run_id
            end()
        assert metric._attached is None


def test_each_is_off_with_its_switch(store: mlflow.MlflowClient, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.kbuild.tracking.log]\nparameters = false\narguments = false\ndataset_versions = false\n"
        "commit = false\npipeline = false\n"
    )
    settings = read_config(tmp_path).tracking
    pipeline, catalog = make(PARAMETERS)
    run = store.create_run("0")
    found = log_start(run.info.run_id, pipeline, catalog, settings)
    log_end(run.info.run_id, pipeline, catalog, settings, found)
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
