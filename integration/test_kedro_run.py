"""``kedro run`` in the forms that people type it: the model is logged, or the run fails saying why."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from tool import BIN, Done, Tool, Trained, copy_project, served


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> Path:
    """A copy of the demo project of its own, trained once."""
    folder = copy_project(tmp_path_factory.mktemp("runs") / "project")
    assert kedro(tool, folder).code == 0
    return folder


def kedro(tool: Tool, folder: Path, *argv: str) -> Done:
    return tool.run([BIN / "kedro", "run", *argv], cwd=folder, PYTHONWARNINGS="ignore")


@pytest.mark.parametrize(
    "argv",
    [
        ["--pipelines", "training"],
        ["--pipelines", "training,inference"],
        ["--tags", "learn,measure"],
        ["--from-nodes", "fit_regressor"],
        ["--to-nodes", "fit_regressor"],
    ],
    ids=" ".join,
)
def test_the_model_is_logged(tool: Tool, project: Path, argv: list[str]) -> None:
    done = kedro(tool, project, *argv)
    assert done.code == 0, done.err + done.out
    assert "Logged model models:/m-" in done.out + done.err


def test_a_run_that_cannot_log_fails_saying_why(tool: Tool, tmp_path: Path) -> None:
    folder = copy_project(tmp_path / "project")
    done = kedro(tool, folder, "--tags", "data")
    assert done.code == 17, done.err + done.out
    assert "encoder" in done.err + done.out
    assert "Traceback" not in done.err + done.out


def test_a_plain_pipeline_makes_no_mlflow_run(tool: Tool, project: Path) -> None:
    done = kedro(tool, project, "--pipelines", "inference")
    assert done.code == 0, done.err
    assert "Logged model" not in done.out + done.err


def test_a_model_of_kedro_mlflow_builds_and_serves(
    tool: Tool, trained: Trained, tmp_path: Path, kedro_mlflow: str
) -> None:
    folder = copy_project(tmp_path / "project")
    registry = folder / "src/diabetes/pipeline_registry.py"
    text = registry.read_text().replace("from kbuild import", "from kedro_mlflow.pipeline import")
    # kedro-mlflow leaves it to its user to send the project's code along.
    text = text.replace('"patients")', '"patients", log_model_kwargs={"code_paths": ["src/diabetes"]})')
    assert "code_paths" in text
    registry.write_text(text)
    (folder / "conf/base/mlflow.yml").write_text("server:\n  mlflow_tracking_uri: sqlite:///mlflow.db\n")
    done = tool.run([BIN / "kedro", "run"], cwd=folder, PYTHONWARNINGS="ignore", PYTHONPATH=kedro_mlflow)
    assert done.code == 0, done.err + done.out
    code = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
client = mlflow.MlflowClient()
[model] = client.search_logged_models([each.experiment_id for each in client.search_experiments()])
print(model.model_id)
"""
    found = tool.run([BIN / "python", "-c", code], cwd=folder)
    assert found.code == 0, found.err
    request = (trained.folder / "request.json").read_bytes()
    with served(tool, f"models:/{found.out.split()[-1]}", folder) as url:
        headers = {"Content-Type": "application/json"}
        answer = requests.post(f"{url}/invocations", data=request, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == 5
