"""The model of one project in the catalog of another; each command as a user types it."""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tool import BIN, Done, Tool, Trained, copy_project, running

WARD = Path(__file__).parent / "projects" / "ward"
LOGGED = re.compile(r"Logged model models:/(?P<model>m-[0-9a-f]{32}) in run (?P<run>[0-9a-f]{32})(?P<rest>.*)")


@dataclass(frozen=True, kw_only=True)
class Served:
    """A project that was trained against a tracking server, and where that server keeps the model's files."""

    uri: str
    project: Trained
    model: Path

    @property
    def example(self) -> dict[str, Any]:
        """The model's input example, as pandas splits a table."""
        found: dict[str, Any] = json.loads((self.model / "input_example.json").read_text())
        return found

    @property
    def recorded(self) -> list[dict[str, Any]]:
        """What the model predicted for it when training ended."""
        predictions: list[dict[str, Any]] = json.loads((self.model / "recorded_prediction.json").read_text())[
            "predictions"
        ]
        return predictions


def kedro(tool: Tool, folder: Path, *arguments: str, **environment: str) -> Done:
    return tool.run(
        [BIN / "python", "-m", "kedro", *arguments], cwd=folder, PYTHONWARNINGS="ignore", COLUMNS="400", **environment
    )


def answers_of(folder: Path, name: str = "answers") -> list[dict[str, str]]:
    with (folder / "data" / "07_model_output" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def as_text(predictions: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: str(value) for name, value in each.items()} for each in predictions]


@pytest.fixture(scope="module")
def served(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("reuse")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/artifacts"]
    command: list[str | Path] = [BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with running([*command, *store], folder / "server.log", cwd=folder, env=tool.environ()):
        wait_for(f"{uri}/health", folder / "server.log")
        project = copy_project(folder / "diabetes")
        done = kedro(tool, project, "run", MLFLOW_TRACKING_URI=uri)
        logged = LOGGED.search(done.out)
        assert logged, done.out + done.err
        (model,) = (each.parent for each in (folder / "artifacts").rglob("MLmodel"))
        yield Served(uri=uri, project=Trained(folder=project, run_id=logged["run"]), model=model)


def wait_for(url: str, log: Path) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=2).close()  # noqa: S310 - our own server
        except OSError:
            time.sleep(0.25)
        else:
            return
    pytest.fail(f"no server: {log.read_text(encoding='utf-8')[-2000:]}")


@pytest.fixture
def ward(served: Served, tmp_path: Path) -> Path:
    """The second project, where the patients are those of the model's input example."""
    folder = copy_project(tmp_path / "ward", WARD)
    example = served.example
    with (folder / "data" / "01_raw" / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([example["columns"], *example["data"]])
    return folder


def test_the_second_project_has_none_of_the_first_ones_code(tool: Tool, ward: Path) -> None:
    for source in ward.rglob("*.py"):
        assert "diabetes" not in source.read_text()
    done = tool.run([sys.executable, "-c", "import ward, diabetes"], cwd=ward / "src")
    assert "No module named 'diabetes'" in done.err


@pytest.mark.parametrize("runner", ["SequentialRunner", "ThreadRunner", "ParallelRunner"])
def test_it_predicts_what_training_recorded(tool: Tool, served: Served, ward: Path, runner: str) -> None:
    entry = (ward / "conf" / "base" / "catalog.yml").read_text()
    assert "type: kbuild.io.models.MlflowModelLoggerDataSet" in entry
    done = kedro(
        tool,
        ward,
        "run",
        f"--runner={runner}",
        f"--params=model_run={served.project.run_id}",
        MLFLOW_TRACKING_URI=served.uri,
        TMPDIR=str(ward.parent),
    )
    assert done.code == 0, done.out + done.err
    assert answers_of(ward) == as_text(served.recorded)
    assert len(answers_of(ward, "worklist")) == 3
    assert not list(ward.parent.glob("kbuild-model-*")), "the copies of the model are gone with the processes"


def test_all_patients_of_the_study_as_the_first_project_predicts_them(tool: Tool, served: Served, ward: Path) -> None:
    done = kedro(tool, served.project.folder, "run", "--pipelines=inference", MLFLOW_TRACKING_URI=served.uri)
    assert done.code == 0, done.out + done.err
    patients = served.project.folder / "data" / "01_raw" / "patients.csv"
    (ward / "data" / "01_raw" / "patients.csv").write_bytes(patients.read_bytes())
    done = kedro(tool, ward, "run", f"--params=model_run={served.project.run_id}", MLFLOW_TRACKING_URI=served.uri)
    assert done.code == 0, done.out + done.err
    assert len(answers_of(ward)) == 442
    assert answers_of(ward) == answers_of(served.project.folder, "predictions")


def test_modelify_logs_and_registers_without_training_and_the_registry_entry_loads_it(
    tool: Tool, served: Served, ward: Path
) -> None:
    done = kedro(
        tool,
        served.project.folder,
        "kbuild",
        "modelify",
        "--pipeline=inference",
        "--input-name=patients",
        "--training=training",
        "--registered-model-name=progression",
        MLFLOW_TRACKING_URI=served.uri,
    )
    assert done.code == 0, done.out + done.err
    assert re.fullmatch(r"models:/m-[0-9a-f]{32}", done.out.splitlines()[-1])
    (ward / "conf" / "local" / "catalog.yml").write_text(
        textwrap.dedent(
            """
            "{name}_model":
              type: kbuild.io.models.MlflowModelRegistryDataset
              model_name: "{name}"
              stage_or_version: 1
            """
        )
    )
    base = ward / "conf" / "base" / "catalog.yml"
    base.write_text(re.sub(r"progression_model:\n(  .*\n)+", "", base.read_text()))
    done = kedro(tool, ward, "run", MLFLOW_TRACKING_URI=served.uri)
    assert done.code == 0, done.out + done.err
    assert answers_of(ward) == as_text(served.recorded)


BAD_ENTRIES = {
    "no_workflow": ({"flavor": "mlflow.pyfunc"}, "flavor mlflow.pyfunc needs a pyfunc_workflow"),
    "wrong_workflow": ({"pyfunc_workflow": "python"}, "pyfunc_workflow 'python' is unknown; it is python_model or"),
    "wrong_flavor": ({"flavor": "mlflow.sklern"}, "flavor 'mlflow.sklern' cannot be imported"),
    "no_such_run": ({"run_id": "f" * 32}, f"there is no run {'f' * 32} in http://"),
    "no_such_model": ({"artifact_path": "regressor"}, "has no model 'regressor': it has 'model'; name one of these"),
    "no_run": ({"run_id": None}, "the entry has no run_id and no MLflow run is active"),
    "other_flavor": ({"flavor": "mlflow.sklearn"}, 'Model does not have the "sklearn" flavor'),
    "unknown_argument": ({"artefact_path": "model"}, "unexpected keyword argument 'artefact_path'"),
    "bad_load_args": ({"load_args": {"dst": "x"}}, "unexpected keyword argument 'dst'"),
}
SCRIPT = """
    import json, sys, warnings
    warnings.simplefilter("ignore")
    from kedro.io import DataCatalog
    from kedro.io.core import DatasetError
    said = {}
    for name, entry in json.load(sys.stdin).items():
        try:
            DataCatalog.from_config({name: entry}).load(name)
        except DatasetError as error:
            said[name] = str(error)
    print(json.dumps(said))
"""


def test_entries_that_cannot_work_are_told_with_their_cause(tool: Tool, served: Served, tmp_path: Path) -> None:
    good = {
        "type": "kbuild.io.models.MlflowModelLoggerDataSet",
        "flavor": "mlflow.pyfunc",
        "pyfunc_workflow": "python_model",
        "artifact_path": "model",
        "run_id": served.project.run_id,
    }
    entries = {name: {**good, **changed} for name, (changed, _) in BAD_ENTRIES.items()}
    del entries["no_workflow"]["pyfunc_workflow"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        input=json.dumps(entries),
        env=tool.environ(MLFLOW_TRACKING_URI=served.uri),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    for name, (_, expected) in BAD_ENTRIES.items():
        assert expected in said[name], name


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-p", "inferense", "-i", "patients"], 16, "there is no pipeline 'inferense'"),
        (["-p", "training", "-i", "patients"], 16, "pipeline 'training' is a training pipeline"),
        (["-p", "inference", "-i", "patient"], 16, "input_name 'patient' is not an input of the inference pipeline"),
        (["-p", "inference", "-i", "patients"], 17, "the input 'patients' has no data yet"),
        (["-p", "inference", "-i", "patients", "--no-infer-signature"], 17, "'encoder' has no file yet"),
        (["-p", "inference", "-i", "patients", "--conda-env", "no.yml"], 2, "'no.yml' does not exist"),
    ],
)
def test_modelify_tells_what_it_cannot_do(
    tool: Tool, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    """In a project that was never trained, whose default store is made on the way."""
    done = kedro(tool, copy_project(tmp_path / "diabetes"), "kbuild", "modelify", *arguments)
    assert done.code == code, done.out + done.err
    assert said in done.err
    assert "Traceback" not in done.err
