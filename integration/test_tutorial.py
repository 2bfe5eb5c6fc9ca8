"""A project of the shape of kedro-mlflow's tutorial: the whole way, and what its run holds with kedro-mlflow.

Texts, stop words of a YAML file, a tokenizer of the project's own, xgboost, histories of metrics, a plot, nodes that
change what they are given, and an environment that names the project as its one dependency.
"""

from __future__ import annotations

import csv
import json
import pickle
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tool import BIN, PROJECT, Done, Tool, copy_project

from kbuild.hooks.kedro_mlflow import THEY_LOG, WE_LOG

# MLflow's database layer warns of itself.
pytestmark = pytest.mark.filterwarnings("ignore")

REVIEWS = PROJECT.parent / "reviews"
# With flattened parameters, which are kbuild's default: the names are the same then.
THEIR_SETTINGS = """
server: {mlflow_tracking_uri: "sqlite:///mlflow.db"}
tracking: {params: {dict_params: {flatten: true}}}
"""
# Its own entry for a model that is there; it has no other name for the one of a run.
THEIR_ENTRY = """
  load_args:
    model_uri: models:/reviews
"""

MEASURED = [("train", "logloss"), ("train", "error"), ("eval", "logloss"), ("eval", "error")]


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a run of training holds. ``metrics`` are steps and numbers, ``model`` is the folder of its one model."""

    run_id: str
    said: str
    name: str
    parameters: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]]
    tags: dict[str, str]
    artifacts: set[str]
    model: Path
    model_name: str

    @property
    def described(self) -> dict[str, Any]:
        """The model's MLmodel file."""
        found: dict[str, Any] = yaml.safe_load((self.model / "MLmodel").read_text())
        return found

    @property
    def environment(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((self.model / "conda.yaml").read_text())
        return found


def kedro(tool: Tool, folder: Path, *arguments: str, **environment: str) -> Done:
    argv = [BIN / "python", "-m", "kedro", "run", *arguments]
    done = tool.run(argv, cwd=folder, PYTHONWARNINGS="ignore", COLUMNS="400", **environment)
    assert done.code == 0, done.err[-4000:] + done.out[-4000:]
    return done


def train(tool: Tool, folder: Path, **environment: str) -> Held:
    """``kedro run --pipeline=training`` in a project that keeps its runs in ``mlflow.db``."""
    done = kedro(tool, folder, "--pipeline=training", **environment)

    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "reviews")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
    assert str(model.status) == "READY"
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return Held(
        run_id=run.info.run_id,
        said=done.out,
        name=run.info.run_name,
        parameters=run.data.params,
        metrics={name: sorted((each.step, each.value) for each in found) for name, found in histories.items()},
        tags=run.data.tags,
        artifacts={each.path for each in client.list_artifacts(run.info.run_id)},
        model=Path(model.artifact_location.removeprefix("file://")),
        model_name=model.name,
    )


@pytest.fixture(scope="module")
def project(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its texts and labels."""
    folder = copy_project(tmp_path_factory.mktemp("tutorial") / "alone", REVIEWS)
    kedro(tool, folder, "--pipeline=etl")
    return folder


@pytest.fixture(scope="module")
def alone(tool: Tool, project: Path) -> Held:
    """Trained with kbuild alone."""
    return train(tool, project)


def test_the_image_answers_as_training_did(tool: Tool, project: Path, alone: Held) -> None:
    assert f"Logged model models:/{alone.model.parent.name} in run {alone.run_id}" in alone.said
    assert alone.environment["dependencies"][0] == f"python={platform.python_version()}"
    built = tool("image", "--tag", "reviews:1", "--json", cwd=project, KBUILD_VERIFY="1").json
    assert (built["engine"], built["verified"], built["tagged"]) == ("native", "passed", True)


def test_the_application_scores_new_texts_as_the_projects_own_inference_does(
    tool: Tool, project: Path, alone: Held
) -> None:
    entry = yaml.safe_load((project / "conf/base/catalog.yml").read_text())["pipeline_inference_model"]
    assert entry["type"] == "kbuild.io.models.MlflowModelLoggerDataSet"
    kedro(tool, project, "--pipelines=etl,inference,user_app", f"--params=part=test,model_run={alone.run_id}")
    with (project / "data/07_model_output/answers_test.csv").open() as file:
        answers = list(csv.DictReader(file))
    path = project / "data/07_model_output/predictions_test.pkl"
    expected = pickle.loads(path.read_bytes())  # noqa: S301 - our own
    assert [each["answer"] for each in answers] == list(expected)
    assert len(answers) == 60 and {each["answer"] for each in answers} == {"negative", "positive"}
    assert any(letter.isupper() for letter in answers[0]["text"]), "what was asked is as it came"


@pytest.fixture(scope="module")
def both(tool: Tool, project: Path, alone: Held, kedro_mlflow: str) -> Held:
    """The same with kedro-mlflow installed, and its settings in the project."""
    folder = copy_project(project.parent / "both", project)
    (folder / "conf/local/mlflow.yml").write_text(THEIR_SETTINGS)
    return train(tool, folder, PYTHONPATH=kedro_mlflow)


@pytest.fixture(scope="module")
def theirs(tool: Tool, project: Path, alone: Held, kedro_mlflow: str) -> Held:
    """As kedro-mlflow's documentation has it: its factory, its datasets."""
    folder = copy_project(project.parent / "theirs", project)
    (folder / "conf/local/mlflow.yml").write_text(THEIR_SETTINGS)
    registry, catalog = folder / "src/reviews/pipeline_registry.py", folder / "conf/base/catalog.yml"
    registry.write_text(registry.read_text().replace("from kbuild import", "from kedro_mlflow.pipeline import"))
    text = catalog.read_text().replace("kbuild.io.", "kedro_mlflow.io.")
    text = text.replace("MlflowModelLoggerDataSet", "MlflowModelTrackingDataset")
    catalog.write_text(re.sub(r"\n  artifact_path: reviews\n  run_id: .*\n", THEIR_ENTRY, text))
    assert "kbuild" not in registry.read_text() + catalog.read_text()
    return train(tool, folder, PYTHONPATH=kedro_mlflow)


def test_runs_hold_the_same_parameters_metrics_and_artifacts_and_nothing_twice(
    alone: Held, both: Held, theirs: Held
) -> None:
    assert theirs.parameters == both.parameters == alone.parameters
    assert alone.parameters["xgb_hyperparameters.eval_metric"] == "['logloss', 'error']"
    assert theirs.metrics == both.metrics == alone.metrics
    steps = [step for step, _ in alone.metrics["xgb.eval_logloss"]]
    assert steps == list(range(len(steps))) and len(steps) > 10
    assert set(alone.metrics) == {
        "accuracy",
        *(f"xgb.{a}_{b}" for a in ("train", "eval") for b in ("logloss", "error")),
    }
    assert theirs.artifacts == {"xgb_feature_importance.png"}
    assert both.artifacts == alone.artifacts == {"xgb_feature_importance.png", "pipeline.json", "pipeline.svg"}
    # Kedro's arguments are tags of one of them, and what kbuild knows of a model is its own.
    ours = {name for name in alone.tags if name.startswith("kedro.")}
    assert {"kedro.runner", "kedro.pipeline_names", "kedro.run_id"} <= ours
    assert not [name for name in {**theirs.tags, **both.tags} if name.startswith("kedro.")]
    assert {"runner", "pipeline_names", "run_id", "project_path"} <= theirs.tags.keys() & both.tags.keys()
    made = {name for name in alone.tags if name.startswith("kbuild.made.")}
    assert made == {f"kbuild.made.{name}" for name in ("label_encoder", "tokenizer", "xgb_model")}
    assert made <= both.tags.keys() and not [name for name in theirs.tags if name.startswith("kbuild.")]
    assert theirs.name == both.name == "training"


def test_one_model_is_logged_and_it_is_said_by_whom(alone: Held, both: Held, theirs: Held) -> None:
    assert both.said.count("Logged model") == 1 and WE_LOG in both.said
    assert THEY_LOG in theirs.said and "Logged model" not in theirs.said
    assert WE_LOG not in alone.said and THEY_LOG not in alone.said + both.said


MODEL = """
import json, sys, mlflow.pyfunc
request = json.load(open(sys.argv[1]))
for folder in sys.argv[2:]:
    try:
        import pandas
        data = pandas.DataFrame(**request["dataframe_split"])
        print("answer", json.dumps(list(mlflow.pyfunc.load_model(folder).predict(data))))
    except ModuleNotFoundError as error:
        print("answer", json.dumps(str(error)))
"""


def test_models_side_by_side(
    tool: Tool,
    alone: Held,
    both: Held,
    theirs: Held,
    kedro_mlflow: str,
    record_property: Callable[[str, object], None],
    tmp_path: Path,
) -> None:
    """What ``load_model`` gives where the project is not installed, which is what serves it."""
    request, prediction = (alone.model / name for name in ("serving_input_example.json", "recorded_prediction.json"))
    argv = [BIN / "python", "-c", MODEL, request, theirs.model, both.model, alone.model]
    # Its own model is loaded by kedro-mlflow, which the environment above does not name either.
    done = tool.run(argv, cwd=tmp_path, PYTHONWARNINGS="ignore", PYTHONPATH=kedro_mlflow)
    assert done.code == 0, done.err
    said = done.out.splitlines()  # Kedro tells its log there, too
    answers = [json.loads(line.removeprefix("answer ")) for line in said if line.startswith("answer ")]
    recorded = json.loads(prediction.read_text())["predictions"]
    assert answers == ["No module named 'reviews'", recorded, recorded]
    rows = [describe(each, answer) for each, answer in zip((theirs, both, alone), answers, strict=True)]
    for what in rows[0]:
        row = {"": what, "kedro-mlflow": rows[0][what], "with both": rows[1][what], "kbuild": rows[2][what]}
        record_property("table:What a run of training holds of its model", row)
    assert rows[1] == rows[2]
    assert rows[0] == {
        "model": "reviews",
        "artifacts": "english_stopwords, label_encoder, tokenizer, xgb_model",
        "signature": "text: string; no output; runner",
        "code": "none",
        "packages": "reviews==0.1, mlflow",
        "example, prediction": "none",
        "loaded elsewhere": "No module named 'reviews'",
    }
    assert rows[2] == {
        "model": "reviews",
        "artifacts": rows[0]["artifacts"],
        "signature": "text: string; its output",
        "code": "reviews",
        "packages": "cloudpickle, kedro-datasets, mlflow, numpy, pandas, scikit-learn, xgboost-cpu",
        "example, prediction": "both",
        "loaded elsewhere": "the recorded prediction",
    }


def describe(held: Held, answer: Any) -> dict[str, str]:
    """A model in few words."""
    function, signature = held.described["flavors"]["python_function"], held.described["signature"]
    conda = [each for each in held.environment["dependencies"] if isinstance(each, str)]
    (pip,) = (each["pip"] for each in held.environment["dependencies"] if isinstance(each, dict))
    packages = [each for each in conda if each.partition("=")[0] not in ("python", "pip")]
    packages += sorted(each.partition("==")[0] for each in pip if not each.startswith("-"))
    inputs = ", ".join(f"{each['name']}: {each['type']}" for each in json.loads(signature["inputs"]))
    parameters = [each["name"] for each in json.loads(signature["params"] or "[]")]
    code = sorted(path.name for path in (held.model / "code").glob("*") if path.name != "kbuild")
    kept = [name for name in ("serving_input_example.json", "recorded_prediction.json") if (held.model / name).exists()]
    return {
        "model": held.model_name,
        "artifacts": ", ".join(sorted(function["artifacts"])),
        "signature": "; ".join([inputs, "its output" if signature["outputs"] else "no output", *parameters]),
        "code": ", ".join(code) or "none",
        "packages": ", ".join(packages),
        "example, prediction": {0: "none", 2: "both"}.get(len(kept), ", ".join(kept)),
        "loaded elsewhere": answer if isinstance(answer, str) else "the recorded prediction",
    }
