"""Servers that are killed while a model is logged; see test_tracking_table for those that live."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import warnings
from pathlib import Path

import pytest
from engines import free_port
from tool import BIN, Tool, copy_project
from tracking_setups import PROJECT, Setup, counting, mlflow_server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own dependencies while it is imported
    import mlflow

from kbuild.errors import RecordingError
from kbuild.model.bundle import read_bundle
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import DirectStore
from kbuild.recording.log import log_checked_files

KILLS = 10


def test_a_server_killed_while_a_model_is_logged_leaves_no_ready_half(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KBUILD_KILL_SEED repeats the moments of a run, which prints its own."""
    seed = int(os.environ.get("KBUILD_KILL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KBUILD_KILL_SEED={seed}")
    moments = random.Random(seed)  # noqa: S311  a seed, so that a failure can be had again
    whole = {file.path: file.size for file in read_bundle(mixed).files}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    port = free_port()
    asked: list[str] = []
    killed = 0
    state: dict[str, int] = {"left": -1, "pid": 0}

    def before(line: str) -> None:
        if state["left"] >= 0 and state["pid"]:
            if state["left"] == 0:
                os.killpg(state["pid"], signal.SIGKILL)
                state["pid"] = 0
            state["left"] -= 1

    with counting(f"http://127.0.0.1:{port}", asked, before=before) as uri:
        mlflow.set_tracking_uri(uri)
        try:
            client = mlflow.MlflowClient(uri)
            for number in range(KILLS + 1):
                with mlflow_server(tmp_path / "server", port=port) as (_, process):
                    run_id = client.create_run("0").info.run_id
                    saved = tmp_path / f"saved-{number}"
                    shutil.copytree(mixed, saved)
                    asked.clear()
                    if number == 0:
                        log_checked_files(saved, {"name": "model"}, run_id, source="here", git=None)
                        steps = len(asked)
                        continue
                    state |= {"left": moments.randrange(steps), "pid": process.pid}
                    try:
                        log_checked_files(saved, {"name": "model"}, run_id, source="here", git=None)
                    except RecordingError as error:
                        killed += 1
                        assert "\n" not in error.message
            state["left"] = -1
            with mlflow_server(tmp_path / "server", port=port):
                found = client.search_logged_models(["0"])
                ready = [model for model in found if str(model.status) == "READY"]
                for model in ready:
                    into = tmp_path / "fetched" / str(model.model_id)
                    into.mkdir(parents=True)
                    mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(into))
                    there = {file.path: file.size for file in read_bundle(into).files}
                    assert there.keys() == whole.keys()
                    assert {k: v for k, v in there.items() if k != "MLmodel"} == {
                        k: v for k, v in whole.items() if k != "MLmodel"
                    }
        finally:
            mlflow.set_tracking_uri(None)
    print(f"{killed} of {KILLS} were killed within {steps} requests; {len(found)} models, {len(ready)} ready and whole")
    assert killed >= KILLS - 2 and len(ready) >= 1


class Bursts:
    """A server's answers of 503: for some seconds from the n-th request on, for each n; ``refused`` counts them."""

    def __init__(self, *begin: int, seconds: float) -> None:
        self.begin, self.seconds = set(begin), seconds
        self.asked = self.refused = 0
        self.until = 0.0

    def __call__(self, line: str) -> int | None:
        self.asked += 1
        if self.asked in self.begin:
            self.until = time.monotonic() + self.seconds
        if time.monotonic() >= self.until:
            return None
        self.refused += 1
        return 503


def test_bursts_of_503_are_ridden_out_while_a_model_is_logged_fetched_and_tagged(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By MLflow's client as it is set, and by kbuild's own questions, with a real server behind."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    saved = tmp_path / "saved"
    shutil.copytree(mixed, saved)
    logging, building = Bursts(2, 20, seconds=1.2), Bursts(1, 12, seconds=1.2)
    current = logging
    with (
        mlflow_server(tmp_path / "server") as (address, _),
        counting(address, [], before=lambda line: current(line)) as uri,
    ):
        mlflow.set_tracking_uri(uri)
        try:
            client = mlflow.MlflowClient(uri)
            run_id = client.create_run("0").info.run_id
            log_checked_files(saved, {"name": "model"}, run_id, source="here", git=None)
            assert logging.refused >= 2
            current = building
            store = DirectStore(tracking_uri=uri, cache=tmp_path / "cache")
            bundle = store.fetch(ModelReference.parse(run_id), tmp_path / "model", kept=True)
            store.set_tags(run_id, {"kbuild.image": "a@sha256:1"}, model_uri=bundle.facts.uri)
            assert building.refused >= 1
            assert {file.path for file in bundle.files} == {file.path for file in read_bundle(mixed).files}
            assert client.get_run(run_id).data.tags["kbuild.image"] == "a@sha256:1"
        finally:
            mlflow.set_tracking_uri(None)


def test_a_server_that_dies_in_a_training_run_is_told_in_one_line(tool: Tool, tmp_path: Path) -> None:
    """``kedro run`` ends with the reason and that the run could not be marked, not with MLflow's tracebacks."""
    project = copy_project(tmp_path / "project", PROJECT)
    asked: list[str] = []
    pids: list[int] = []

    def before(line: str) -> None:
        # Of the model; pipeline.json and its picture are put before the first node.
        if line.startswith("PUT ") and "/pipeline." not in line and pids:
            os.killpg(pids.pop(), signal.SIGKILL)

    with mlflow_server(tmp_path / "server") as (address, process), counting(address, asked, before=before) as uri:
        pids.append(process.pid)
        begin = time.monotonic()
        mine = Setup(uri=uri).tool(tool, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1")
        done = mine.run([BIN / "kedro", "run"], cwd=project, PYTHONWARNINGS="ignore")
    assert not pids, "the server was not killed"
    assert done.code == 17, done.out + done.err
    assert "Traceback" not in done.out + done.err
    (error,) = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert "could not be marked FAILED" in error
    assert time.monotonic() - begin < 300
