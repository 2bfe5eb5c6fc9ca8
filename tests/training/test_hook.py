from __future__ import annotations

import atexit
import inspect
import json
import os
import signal
import subprocess
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import mlflow
import pandas as pd
import pytest
from kedro.framework.hooks import hook_impl
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node
from kedro.runner import AbstractRunner, ParallelRunner, SequentialRunner, ThreadRunner

from kbuild.errors import KbuildError, PipelineMLError, RecordingError, TrackingUnavailable
from kbuild.hooks.kedro_hook import MlflowPipelineHook
from kbuild.hooks.others import Probe
from kbuild.hooks.terminated import Terminated
from kbuild.recording.input.reads import observe
from kbuild.recording.mlflow_run import make_tags, read_licence
from kbuild.recording.preflight.project import check_project
from kbuild.recording.run.git import GitState, read_git_state

# Kedro warns of its own dependencies, MLflow and pandas of each other.
pytestmark = pytest.mark.filterwarnings("ignore")

FILES = {
    "pyproject.toml": """
        [tool.kedro]
        package_name = "hooked"
        project_name = "hooked"
        kedro_init_version = "1.0.0"
        source_dir = "src"

        [tool.kbuild.training]
        check = false
    """,
    "src/hooked/__init__.py": "",
    "src/hooked/functions.py": """
        import os
        import pandas as pd

        CLEANED = []

        def read():
            return pd.DataFrame({"x": [1.0, 2.0, 3.0]}, dtype=os.environ.get("TYPE_OF_RAW"))

        def clean(raw):
            CLEANED.append(1)
            return raw.dropna()

        def fit(table):
            return {"mean": float(table["x"].mean())}

        def measure(weights):
            return weights["mean"]

        def predict(table, weights, scale):
            return table * weights["mean"] * scale

        def fail(weights):
            raise ZeroDivisionError("on purpose")
    """,
    "src/hooked/settings.py": """
        import os
        from kedro.framework.hooks import hook_impl
        from kbuild.hooks.kedro_hook import MlflowPipelineHook

        class Changing:
            @hook_impl
            def before_node_run(self, node, inputs):
                if node.name == os.environ.get("FAILING_HOOK"):
                    raise RuntimeError("this is no run that I know")
                if node.name == os.environ.get("CHANGING_CLEANED"):
                    inputs["cleaned"]["x"] += 1
                name = {"fit": "table", "clean_new": "raw", "predict": "weights"}.get(node.name)
                if node.name != os.environ.get("CHANGING"):
                    return None
                if name == "weights":
                    return {"weights": {"mean": inputs["weights"]["mean"] + 1}}
                return {name: inputs[name] + 1}

            @hook_impl
            def after_dataset_loaded(self, dataset_name, data):
                if dataset_name == os.environ.get("CHANGING_IN_PLACE"):
                    data["x"] += 1

            @hook_impl
            def after_node_run(self, node, outputs):
                if node.name == os.environ.get("CHANGING_AFTER"):
                    outputs["weights"]["mean"] += 1

            @hook_impl
            def before_dataset_saved(self, dataset_name, data):
                if dataset_name == os.environ.get("CHANGING_SAVED"):
                    data["mean"] += 1

        # Registered here, and not by the entry point, so that it is there once however kbuild is installed.
        HOOKS = (MlflowPipelineHook(), Changing())
        DISABLE_HOOKS_FOR_PLUGINS = ("kbuild",)
    """,
    "src/hooked/pipeline_registry.py": """
        from kbuild import pipeline_ml_factory
        from kedro.pipeline import Pipeline, node, pipeline
        from hooked import functions as f

        def register_pipelines():
            training = Pipeline([
                node(f.read, None, "raw", name="read", tags="data"),
                node(f.clean, "raw", "table", name="clean", tags="data"),
                node(f.fit, "table", "weights", name="fit", tags="learn"),
                node(f.measure, "weights", "score", name="measure", tags="measure"),
            ])
            inference = Pipeline([
                node(f.clean, "raw", "cleaned", name="clean_new"),
                node(f.predict, ["cleaned", "weights", "params:scale"], "answer", name="predict"),
            ])
            bound = pipeline_ml_factory(training, inference, "raw")
            in_memory = pipeline_ml_factory(
                pipeline(training, outputs={"weights": "fresh"}),
                pipeline(inference, inputs={"weights": "fresh"}),
                "raw",
                log_model_kwargs={"name": "in_memory"},
            )
            failing = pipeline_ml_factory(
                training + Pipeline([node(f.fail, "weights", None, name="fail")]), inference, "raw"
            )
            report = Pipeline([node(f.measure, "weights", "report", name="report")])
            kept = Pipeline([
                node(f.read, None, "table", name="read_kept"), node(f.fit, "table", "weights", name="fit_kept"),
            ])
            answer = Pipeline([node(f.predict, ["table", "weights", "params:scale"], "answer", name="predict")])
            return {
                "__default__": bound + report,
                "training": bound,
                "report": report,
                "in_memory": in_memory,
                "failing": failing,
                "kept": pipeline_ml_factory(kept, answer, "table"),
                "measured": pipeline_ml_factory(
                    kept + Pipeline([node(f.measure, "weights", "size", name="size")]), answer, "table"
                ),
                "wrapped": pipeline(bound, namespace="night"),
                "fetched": pipeline_ml_factory(
                    kept + Pipeline([node(f.measure, "fetched", "size", name="size")]), answer, "table"
                ),
            }
    """,
    "conf/base/catalog.yml": """
        table:
          type: pickle.PickleDataset
          filepath: data/table.pkl
        weights:
          type: json.JSONDataset
          filepath: data/weights.json
        fetched:
          type: json.JSONDataset
          filepath: data/fetched.json
    """,
    "conf/base/parameters.yml": "scale: 2.0\n",
    "conf/local/.gitkeep": "",
    "data/fetched.json": '{"mean": 1.0}',
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(textwrap.dedent(text).lstrip())
    patch = pytest.MonkeyPatch()
    patch.setenv("DO_NOT_TRACK", "1")
    patch.syspath_prepend(str(home / "src"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bootstrap_project(home)
        yield home
    patch.undo()


def run(project: Path, **kwargs: Any) -> None:
    if "pipeline_names" in kwargs and "pipeline_names" not in inspect.signature(KedroSession.run).parameters:
        # Kedro before 1.2 runs one pipeline at a time.
        names = kwargs.pop("pipeline_names")
        if len(names) > 1:
            pytest.skip("this Kedro runs one pipeline at a time")
        kwargs["pipeline_name"] = names[0]
    with KedroSession.create(project_path=project) as session:
        session.run(**kwargs)


def find_runs(store: mlflow.MlflowClient) -> list[Any]:
    experiment = store.get_experiment_by_name("hooked")
    return [] if experiment is None else list(store.search_runs([experiment.experiment_id]))


def find_models(store: mlflow.MlflowClient) -> list[Any]:
    experiment = store.get_experiment_by_name("hooked")
    return [] if experiment is None else list(store.search_logged_models([experiment.experiment_id]))


FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "one pipeline": {"pipeline_names": ["training"]},
    "several pipelines": {"pipeline_names": ["report", "training"]},
    "the other order": {"pipeline_names": ["training", "report"]},
    "tags": {"tags": ["data", "learn"], "pipeline_names": ["training"]},
    "to nodes": {"to_nodes": ["fit"]},
    "from nodes": {"from_nodes": ["fit"]},
    "to outputs": {"to_outputs": ["weights"]},
    "threads": {"runner": ThreadRunner()},
    "async": {"runner": SequentialRunner(is_async=True)},
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_run_logs_the_model(
    project: Path, store: mlflow.MlflowClient, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "from nodes":
        # Only what is in a file can be taken up again, and the input itself is not.
        with pytest.raises(KbuildError, match="no data of the inference input 'raw'"):  # beside that of a file, maybe
            run(project, **FORMS[form])
        assert find_runs(store) == []
        return
    run(project, **FORMS[form])
    (model,) = find_models(store)
    (logged,) = find_runs(store)
    assert logged.info.status == "FINISHED"
    assert model.source_run_id == logged.info.run_id
    assert model.tags["mlflow.source.name"] == "hooked", "the project's package, which travels with it"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Logged model", "Recording"))]
    assert lines == [
        "Recording the inference pipeline as a model",
        f"Logged model models:/{model.model_id} in run {logged.info.run_id}",
    ]
    assert mlflow.active_run() is None


@pytest.mark.slow
@pytest.mark.parametrize("form", [{"to_nodes": ["clean"]}, {"node_names": ["read"]}, {"tags": ["data"]}])
def test_a_run_that_leaves_out_what_follows_is_refused_before_it_starts(
    project: Path, store: mlflow.MlflowClient, form: dict[str, Any]
) -> None:
    with pytest.raises(RecordingError, match=r"leaves out .*fit, so the model would mix") as caught:
        run(project, pipeline_names=["training"], **form)
    assert "fit" in (caught.value.hint or "").partition("--nodes=")[2].partition(";")[0]
    assert caught.value.exit_code == 17
    assert find_runs(store) == []


def test_an_entry_of_the_catalog_that_cannot_be_made_is_told_in_one_line(
    project: Path, store: mlflow.MlflowClient
) -> None:
    local = project / "conf" / "local" / "catalog.yml"
    local.write_text("weights: {type: nowhere.Dataset, filepath: data/weights.x}")
    try:
        with pytest.raises(RecordingError, match=r"the dataset 'weights' cannot be made: .*No module named 'nowhere'"):
            run(project, pipeline_names=["training"])
    finally:
        local.unlink()
    assert find_runs(store) == []


@pytest.mark.slow
@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_an_input_that_no_request_brings_is_refused_before_the_first_node_that_is_given_it(
    project: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, runner: type[AbstractRunner]
) -> None:
    """Training makes it in memory, so nothing is known of it before; what follows may take hours."""
    from hooked import functions

    monkeypatch.setenv("TYPE_OF_RAW", "complex64")
    functions.CLEANED.clear()
    with pytest.raises(RecordingError, match="no request can bring the input's column 'x', of the type complex64"):
        run(project, pipeline_names=["training"], runner=runner())
    assert not functions.CLEANED
    (failed,) = find_runs(store)
    assert failed.info.status == "FAILED" and not find_models(store)
    # Where no model is wanted nothing is asked of it.
    monkeypatch.setenv("KBUILD_LOG_MODEL", "false")
    run(project, pipeline_names=["training"])
    assert functions.CLEANED


def test_such_a_run_goes_alone_where_no_model_is_wanted(
    project: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KBUILD_LOG_MODEL", "false")
    run(project, pipeline_names=["training"], to_nodes=["clean"])
    assert "No model is logged" in capsys.readouterr().out
    assert find_runs(store) == []


@pytest.mark.slow
def test_what_is_reused_is_told_with_the_run_that_made_it(project: Path, store: mlflow.MlflowClient) -> None:
    run(project, pipeline_names=["measured"])
    (first,) = find_runs(store)
    run(project, pipeline_names=["measured"], node_names=["size"])
    (second,) = [each for each in find_runs(store) if each.info.run_id != first.info.run_id]
    assert json.loads(second.data.tags["kbuild.reused"]) == {"weights": first.info.run_id}
    assert first.data.tags["kbuild.made.weights"].startswith("sha256:")


@pytest.mark.slow
def test_values_that_another_hook_gives_are_told(
    project: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A served model has no hooks: what they change it does not see."""
    monkeypatch.setenv("CHANGING", "fit")
    run(project, pipeline_names=["training"])
    told = capsys.readouterr().out
    assert "hooks gave nodes other values of table than the catalog has" in told and len(find_models(store)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "node", "changed"),
    [("CHANGING", "clean_new", "raw"), ("CHANGING", "predict", "weights"), ("CHANGING_CLEANED", "predict", "cleaned")],
)
def test_what_hooks_would_give_the_nodes_of_inference_is_told(
    project: Path,
    store: mlflow.MlflowClient,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    node: str,
    changed: str,
) -> None:
    """Training runs neither of them; kedro run of the inference pipeline would."""
    monkeypatch.setenv(variable, node)
    run(project, pipeline_names=["training"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"hooks would give nodes of the inference pipeline other values of {changed}: a served model" in told
    (model,) = find_models(store)
    folder = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}")
    # The table of ones to threes, times their mean, times two.
    answer = json.loads((Path(folder) / "recorded_prediction.json").read_text())["predictions"]
    assert answer == [{"x": 4.0}, {"x": 8.0}, {"x": 12.0}]


def test_what_a_hook_looks_at_is_not_what_the_pipeline_reads() -> None:
    """With the signature "used" each project with such a hook was told that its nodes take the table whole."""

    class Describing:
        @hook_impl
        def before_node_run(self, inputs: dict[str, Any]) -> dict[str, Any]:
            described.append(inputs["table"].describe().shape)
            return {"factor": 2.0}

    described: list[Any] = []
    manager = _create_hook_manager()
    _register_hooks(manager, (Describing(),))
    probe = Probe(manager)
    table, reads = observe(pd.DataFrame({"a": [1.0], "b": [2.0]}))
    probe.before_node_run(node=None, catalog=None, inputs={"table": table, "factor": 1.0}, is_async=False, run_id="")
    assert described == [(8, 2)]
    assert probe.given == {"factor"}
    assert reads.names == [] and not reads.everything


@pytest.mark.slow
def test_a_hook_that_fails_beside_the_run_it_was_made_for_says_nothing(
    project: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILING_HOOK", "predict")
    run(project, pipeline_names=["training"])
    assert "hooks would" not in " ".join(capsys.readouterr().out.split()) and len(find_models(store)) == 1


@pytest.mark.slow
def test_what_another_hook_changes_in_place_is_told(
    project: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(project, pipeline_names=["training"])
    assert "without hooks" not in " ".join(capsys.readouterr().out.split())
    monkeypatch.setenv("CHANGING_IN_PLACE", "raw")
    run(project, pipeline_names=["training"])
    told = capsys.readouterr().out
    assert "hooks changed raw before nodes got it: a served model runs without hooks" in told
    for variable, value in (("CHANGING_AFTER", "fit"), ("CHANGING_SAVED", "weights")):
        monkeypatch.delenv("CHANGING_IN_PLACE", raising=False)
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            run(project, pipeline_names=["training"])
        assert "hooks changed weights before nodes got it" in capsys.readouterr().out
    # What only training reads is no concern of the model.
    monkeypatch.setenv("CHANGING_IN_PLACE", "table")
    run(project, pipeline_names=["training"])
    assert "without hooks" not in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_what_hooks_were_not_seen_to_leave_alone_is_told(
    project: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are made in this run, and loaded by the inference pipeline alone."""
    run(project, pipeline_names=["kept"])
    told = " ".join(capsys.readouterr().out.split())
    assert "no node of this run read weights, so whether hooks change that is not known" in told
    run(project, pipeline_names=["measured"])
    assert "without hooks" not in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_only_what_is_missing(project: Path, store: mlflow.MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    if "only_missing_outputs" not in inspect.signature(KedroSession.run).parameters:
        pytest.skip("this Kedro runs all nodes")
    run(project, pipeline_names=["kept"])
    assert len(find_models(store)) == 1
    run(project, pipeline_names=["kept"], only_missing_outputs=True)
    assert "nothing is trained" in capsys.readouterr().out
    assert len(find_models(store)) == 1
    (project / "data" / "weights.json").unlink()
    for runner in (None, ParallelRunner(max_workers=1)):
        (project / "data" / "weights.json").unlink(missing_ok=True)
        run(project, pipeline_names=["kept"], only_missing_outputs=True, runner=runner)
    assert len(find_models(store)) == 3
    # The table is older than the weights that would be kept.
    (project / "data" / "table.pkl").unlink()
    with pytest.raises(RecordingError, match="leaves out fit_kept"):
        run(project, pipeline_names=["kept"], only_missing_outputs=True)
    assert len(find_models(store)) == 3


@pytest.mark.slow
def test_inputs_that_are_only_in_memory(project: Path, store: mlflow.MlflowClient) -> None:
    run(project, pipeline_names=["in_memory"])
    (model,) = find_models(store)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert model.name == "in_memory"
    assert loaded.predict(loaded.input_example)["x"].tolist() == [4.0, 8.0, 12.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [ThreadRunner, lambda: ParallelRunner(max_workers=1), lambda: SequentialRunner(is_async=True)]
)
def test_inputs_in_memory_of_other_runners(
    project: Path, store: mlflow.MlflowClient, make: Callable[[], AbstractRunner]
) -> None:
    """Kedro keeps what passes between processes until the run is over, so nothing has to be captured there."""
    # Made here: a ParallelRunner has a process, which would outlive a worker of these tests.
    run(project, pipeline_names=["in_memory"], runner=make())
    assert [model.name for model in find_models(store)] == ["in_memory"]


@pytest.mark.slow
def test_what_kedro_was_asked_is_tagged(project: Path, store: mlflow.MlflowClient) -> None:
    run(project, pipeline_names=["training"], to_nodes=["measure"])
    (logged,) = find_runs(store)
    assert "training" in (logged.data.tags.get("kedro.pipeline_names") or logged.data.tags["kedro.pipeline_name"])
    assert logged.data.tags["kedro.to_nodes"] == '["measure"]'
    assert logged.data.tags["mlflow.source.name"] == "hooked"
    assert logged.data.tags.get("kedro.runner") in (None, "SequentialRunner")
    kept = json.loads(mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/pipeline.json"))
    assert [each["name"] for each in kept["pipeline"]] == ["read", "clean", "fit", "measure"]
    assert str(project) not in str(logged.data.tags)


@pytest.mark.slow
def test_a_plain_run_leaves_mlflow_alone(project: Path, store: mlflow.MlflowClient) -> None:
    run(project, pipeline_names=["training"])
    before = len(find_runs(store))
    run(project, pipeline_names=["report"])
    assert len(find_runs(store)) == before
    run(project, node_names=["report"])
    assert len(find_runs(store)) == before


def test_a_wrapped_training_pipeline_stops_the_run_before_it_starts(project: Path, store: mlflow.MlflowClient) -> None:
    with pytest.raises(PipelineMLError, match=r"night\.clean, .* run without their inference pipeline") as caught:
        run(project, pipeline_names=["wrapped"])
    assert "call pipeline_ml_factory() on the results" in (caught.value.hint or "")
    assert find_runs(store) == []


def test_two_models_in_one_run_are_refused(project: Path, store: mlflow.MlflowClient) -> None:
    with pytest.raises(PipelineMLError, match="serve different models") as caught:
        both = MlflowPipelineHook()
        from kedro.framework.project import pipelines

        pipeline = Pipeline([]) + pipelines["training"] + rename(pipelines["in_memory"])
        both.before_pipeline_run(run_params={}, pipeline=pipeline, catalog=DataCatalog())
    assert "one by one" in (caught.value.hint or "")


def rename(pipeline_ml: Any) -> Any:
    from kbuild import pipeline_ml_factory

    training = Pipeline([node(lambda: 1, None, "fresh", name="other")])
    return pipeline_ml_factory(training, pipeline_ml.inference, "raw", log_model_kwargs={"name": "in_memory"})


def test_a_training_that_fails_ends_its_run_as_failed(project: Path, store: mlflow.MlflowClient) -> None:
    with pytest.raises(ZeroDivisionError):
        run(project, pipeline_names=["failing"])
    assert [each.info.status for each in find_runs(store)] == ["FAILED"]
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_a_run_of_the_user_is_used_and_left_open(project: Path, store: mlflow.MlflowClient) -> None:
    mlflow.set_tracking_uri(None)
    with mlflow.start_run() as mine:
        run(project)
        active = mlflow.active_run()
        assert active is not None
        assert active.info.run_id == mine.info.run_id
    logged = store.get_run(mine.info.run_id)
    assert len(logged.outputs.model_outputs) == 1
    assert [name for name in logged.data.tags if name.startswith("kedro.")]
    assert find_runs(store) == []


@pytest.mark.slow
def test_without_a_variable_the_store_is_in_the_project(
    project: Path, store: mlflow.MlflowClient, migrated: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (project / "mlflow.db").write_bytes(migrated)
    run(project)
    assert not mlflow.tracking.is_tracking_uri_set()
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    (model,) = find_models(client)
    assert model.artifact_location.startswith(f"file://{project}/mlartifacts/")
    # What kbuild's other commands do, started in the project's folder.
    monkeypatch.chdir(project)
    if not mlflow.get_tracking_uri().startswith("sqlite:"):  # an older MLflow's own default is ./mlruns
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    assert mlflow.pyfunc.load_model(f"models:/{model.model_id}").metadata.run_id == find_runs(client)[0].info.run_id


def test_a_server_that_is_down_stops_the_run_before_it_starts(
    project: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingUnavailable, match="does not answer as one") as caught:
        run(project)
    assert "\n" not in caught.value.message


def test_a_deleted_experiment_stops_the_run_before_it_starts(project: Path, store: mlflow.MlflowClient) -> None:
    number = store.create_experiment("hooked")
    store.delete_experiment(number)
    with pytest.raises(TrackingUnavailable, match="experiment 'hooked' was deleted") as caught:
        run(project)
    assert f"restore --experiment-id {number}" in str(caught.value.hint)


@pytest.mark.slow
def test_trainings_that_begin_together_share_the_experiment_that_one_of_them_makes(
    project: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = store.create_experiment("hooked")
    find = mlflow.MlflowClient.get_experiment_by_name
    asked: list[str] = []

    def find_later(self: Any, name: str) -> Any:
        asked.append(name)
        return None if len(asked) <= 2 else find(self, name)  # not yet when it was looked ahead, and when it began

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", find_later)
    run(project)
    assert len(asked) == 3
    assert [each.info.experiment_id for each in store.search_runs([number])] == [number]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["log_text", "log_model_artifacts"])
def test_a_store_that_goes_away_is_one_line_and_tells_of_the_run(
    project: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Before the first node, where ``pipeline.json`` is put, and while a model is logged."""
    from mlflow.exceptions import MlflowException

    def gone(*_: Any, **__: Any) -> None:
        raise MlflowException("API request failed with exception: Connection refused")

    monkeypatch.setattr(mlflow.MlflowClient, call, gone)
    monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", gone)
    monkeypatch.setattr(mlflow.MlflowClient, "delete_logged_model", gone)
    with pytest.raises(RecordingError, match="could not be marked FAILED") as caught:
        run(project, pipeline_names=["training"])
    error: Any = caught.value
    assert isinstance(error, click.ClickException)
    assert error.exit_code == 17
    assert "\n" not in error.message
    assert [str(model.status) for model in find_models(store)] != ["READY"]
    assert mlflow.active_run() is None


@pytest.mark.slow
def test_the_check_without_training_finds_what_a_run_would(
    project: Path, store: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = check_project(project, names=["training", "in_memory"])
    assert (checked.findings, checked.pipelines) == ((), ("training", "in_memory"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    lost, only = check_project(project).findings  # once, though all of the pipelines would meet it
    assert isinstance(only[1].error, TrackingUnavailable)
    # Of this one a run says so.
    assert (lost[0], type(lost[1].error)) == ("wrapped", PipelineMLError)
    assert "night.fit" in lost[1].error.message and "without their inference pipeline" in lost[1].error.message
    everywhere: list[dict[str, Any]] = [{"stores": False}, {"names": ["wrapped"], "stores": False}]
    for asked in everywhere:
        (found,) = check_project(project, **asked).findings
        assert str(found[1]) == str(lost[1])
    with pytest.raises(PipelineMLError, match="no pipeline 'trainin'") as caught:
        check_project(project, names=["trainin"])
    assert caught.value.hint == "did you mean 'training'?"
    with pytest.raises(PipelineMLError, match="report logs a model"):
        check_project(project, names=["report"])


@pytest.mark.slow
def test_a_registry_that_fails_is_told_with_its_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {
        "pipeline_ml_factory(Pipeline([]), Pipeline([]), 'x', log_model_kwargs={'sigature': None})": "'sigature'",
        "{}['nope']": "KeyError: 'nope'",
    }
    try:
        for number, (text, told) in enumerate(wrong.items()):
            root, name = tmp_path / str(number), f"failing_{number}"
            files = {
                "pyproject.toml": f"[tool.kedro]\npackage_name = {name!r}\nproject_name = {name!r}\n"
                "kedro_init_version = '1.0.0'\n",
                f"src/{name}/__init__.py": "",
                f"src/{name}/pipeline_registry.py": "from kedro.pipeline import Pipeline\n"
                "from kbuild import pipeline_ml_factory\n"
                f"def register_pipelines():\n    return {{'a': {text}}}\n",
            }
            for place, content in files.items():
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_text(content, encoding="utf-8")
            monkeypatch.syspath_prepend(str(root / "src"))
            ((_, found),) = check_project(root).findings
            assert found.about == "pipeline_registry"
            assert told in found.error.message
            assert found.error.hint == f"see src/{name}/pipeline_registry.py, line 4"
    finally:
        bootstrap_project(project)


@pytest.mark.slow
def test_a_file_that_a_hook_brings_when_it_is_loaded_need_not_be_there_before(
    project: Path, store: mlflow.MlflowClient
) -> None:
    """Kedro's own hook specification: before_dataset_loaded is called right before the file is read."""

    class Fetching:
        @hook_impl  # type: ignore[untyped-decorator]
        def before_dataset_loaded(self, dataset_name: str) -> None:
            if dataset_name == "fetched":
                (project / "data/fetched.json").write_text('{"mean": 1.0}', encoding="utf-8")

    (project / "data/fetched.json").unlink()
    with pytest.raises(RecordingError, match=r"'fetched', which has no file yet \(fetched.json\)"):
        run(project, pipeline_names=["fetched"])
    with KedroSession.create(project_path=project) as session:
        session._hook_manager.register(Fetching())
        name = "pipeline_names" if "pipeline_names" in inspect.signature(KedroSession.run).parameters else None
        session.run(**({name: ["fetched"]} if name else {"pipeline_name": "fetched"}))
    assert len(find_models(store)) == 1


def test_errors_are_one_line_on_kedro_command_line(project: Path, store: mlflow.MlflowClient) -> None:
    with pytest.raises(PipelineMLError) as caught:
        run(project, pipeline_names=["wrapped"])
    error: Any = caught.value
    assert isinstance(error, click.ClickException)
    assert isinstance(error, KbuildError)
    assert error.exit_code == 16
    assert [line.partition(": ")[0] for line in error.format_message().splitlines()[1:]] == ["Hint", "More"]


def test_a_run_that_is_abandoned_is_killed(project: Path, store: mlflow.MlflowClient) -> None:
    from kedro.framework.project import pipelines

    hook = MlflowPipelineHook()
    catalog = DataCatalog({"raw": MemoryDataset(), "params:scale": MemoryDataset(2.0)})
    hook.before_pipeline_run(
        run_params={"project_path": str(project)}, pipeline=Pipeline([]) + pipelines["training"], catalog=catalog
    )
    hook._abandon()
    hook._abandon()
    assert [each.info.status for each in find_runs(store)] == ["KILLED"]


def test_a_run_that_sigterm_ends_is_killed_though_a_node_goes_on(project: Path, store: mlflow.MlflowClient) -> None:
    from kedro.framework.project import pipelines

    hook = MlflowPipelineHook()
    catalog = DataCatalog({"raw": MemoryDataset(), "params:scale": MemoryDataset(2.0)})
    bound = Pipeline([]) + pipelines["training"]
    asked: dict[str, Any] = {"run_params": {"project_path": str(project)}, "pipeline": bound, "catalog": catalog}
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whoever runs tests may have taken it
    try:
        hook.before_pipeline_run(**asked)
        assert hook._training is not None
        atexit.unregister(hook._training.guard._finish)  # which would end this process
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        with pytest.raises(Terminated):
            next(hook.after_pipeline_run(**asked))
        hook._abandon()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [each.info.status for each in find_runs(store)] == ["KILLED"]
    assert find_models(store) == []


def test_the_state_of_a_repository(tmp_path: Path) -> None:
    assert read_git_state(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init")
    (tmp_path / "a").write_text("")
    git("add", "a")
    git("commit", "-m", "a")
    assert read_git_state(tmp_path) == GitState(commit=git("rev-parse", "HEAD"), dirty=False)
    (tmp_path / "a").write_text("b")
    state = read_git_state(tmp_path)
    assert state is not None
    assert state.dirty
    tags = make_tags({"tags": (), "namespaces": {"b", "a"}, "runtime_params": {"p": 1}}, state, "me")
    assert tags == {
        "kedro.namespaces": '["a", "b"]',
        "kedro.runtime_params": '{"p": 1}',
        "mlflow.source.name": "me",
        "mlflow.source.git.commit": state.commit,
        "mlflow.source.git.dirty": "true",
        "mlflow.source.git.branch": git("symbolic-ref", "--short", "HEAD"),
    }
    # What a training leaves by default changes no project; a repository further up without its files is not its own.
    git("commit", "-am", "b")
    (tmp_path / "mlflow.db").write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pyproject.toml").write_text("")
    assert read_git_state(tmp_path / "mine") is None
    git("add", "mine")
    git("commit", "-m", "c")
    found = read_git_state(tmp_path / "mine")
    assert found is not None and not found.dirty
    assert read_git_state(tmp_path) == GitState(commit=git("rev-parse", "HEAD"), dirty=False)


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ("https://git.example/team/shop.git", "https://git.example/team/shop.git"),
        ("https://user:secret@git.example:8443/shop?token=x#y", "https://git.example:8443/shop"),
        ("git@git.example:team/shop.git", "ssh://git@git.example/team/shop.git"),
        ("ssh://git:secret@git.example/shop", "ssh://git@git.example/shop"),
        ("/srv/git/shop.git", None),
        ("../shop", None),
        ("file:///srv/git/shop.git", None),
        (None, None),
    ],
)
def test_the_source_is_told_without_secrets_and_paths(tmp_path: Path, origin: str | None, source: str | None) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "x")
    if origin is not None:
        git("remote", "add", "origin", origin)
    state = read_git_state(tmp_path)
    assert state is not None and state.source == source
    assert make_tags({}, state, "shop").get("mlflow.source.git.repoURL") == source


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ('[project]\nlicense = "MIT OR (Apache-2.0 WITH LLVM-exception)"', "MIT OR (Apache-2.0 WITH LLVM-exception)"),
        ('[project]\nlicense = {file = "LICENSE"}', None),
        ('[project]\nlicense = "one\\ntwo"', None),
        ("[tool.x]", None),
        ("broken [", None),
        (None, None),
    ],
)
def test_the_projects_licence(tmp_path: Path, text: str | None, licence: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    assert read_licence(tmp_path) == licence
