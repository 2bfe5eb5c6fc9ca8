"""Tracking servers as teams have them: what builds ask of each, the whole way on one, and servers that are killed.

They are of the MLflow that is installed here, and once of the oldest that is supported.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from engines import free_port
from tool import BIN, Tool, copy_project
from tracking_setups import SETUPS, Setup, counting, mlflow_server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "model"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own dependencies while it is imported
    import mlflow
    import mlflow.pyfunc
    from store_questions import Echo

from kbuild.errors import RecordingError
from kbuild.model.bundle import read_bundle
from kbuild.model.model_reference import ModelReference
from kbuild.model.store import LeanStore
from kbuild.recording.log import log_checked_files

KILLS = 10
TAGS = {"kbuild.image": "model@sha256:1", "kbuild.image_digest": "sha256:1"}
NAME, COPY = "o'brien & co", "prod copy"
# The training's own version of MLflow decides what the model is; its server may be another.
DATASET = """
import sys
from kbuild.io.models import MlflowModelLoggerDataSet
entry = MlflowModelLoggerDataSet(
    flavor="mlflow.pyfunc", pyfunc_workflow="python_model", run_id=sys.argv[1], artifact_path=sys.argv[2]
)
model = entry.load()
print("answers", len(model.predict(model.input_example)))
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A set-up with a project that was trained there."""

    setup: Setup
    tool: Tool
    project: Path
    run_id: str
    model_id: str


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("tracking") / "project")


@pytest.fixture(scope="module", params=["postgresql"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tool: Tool, project: Path
) -> Iterator[Site]:
    with SETUPS[request.param](tmp_path_factory.mktemp(request.param) / "server") as setup:
        mine = setup.tool(tool)
        run_id, model_id = train(mine, project)
        yield Site(setup=setup, tool=mine, project=project, run_id=run_id, model_id=model_id)


def train(tool: Tool, project: Path, **environment: str) -> tuple[str, str]:
    done = tool.run([BIN / "kedro", "run"], cwd=project, PYTHONWARNINGS="ignore", **environment)
    assert done.code == 0, done.err[-3000:] + done.out[-1000:]
    logged = re.search(r"Logged model models:/(m-[0-9a-f]{32}) in run ([0-9a-f]{32})", done.out + done.err)
    assert logged is not None, done.out + done.err
    return logged[2], logged[1]


def test_a_model_goes_all_the_way(site: Site) -> None:
    setup, tool, run_id = site.setup, site.tool, site.run_id
    setup.register(NAME, f"models:/{site.model_id}", run_id, model_id=site.model_id)
    setup.ask("POST", "registered-models/alias", name=NAME, alias="prod", version="1")
    setup.register(COPY, f"models:/{NAME}/1", run_id)
    named = ["--tag", "table:1", "--json"]  # else each reference gives the image another name, and the run a new tag
    begin = len(setup.asked)
    built = tool("image", run_id, *named, cwd=site.project).json
    first = len(setup.asked) - begin
    assert built["tagged"]
    for tags in (setup.tags(run_id), setup.version_tags(NAME), setup.version_tags(COPY)):
        assert tags["kbuild.image_digest"] == built["digest"]
    counts = {}
    for reference in (run_id, f"models:/{NAME}/1", f"models:/{NAME}@prod", f"models:/{COPY}/1"):
        setup.asked.clear()
        again = tool("image", reference, *named, cwd=site.project)
        assert again.json["digest"] == built["digest"] and "nothing has changed" in again.err
        counts[reference] = len(setup.asked)
        assert counts[reference] <= 6, "\n".join(setup.asked)
    print(f"requests: {first} of the first build, then {counts}")
    tool("audit", run_id, "--offline", cwd=site.project, code=None)
    assert setup.tags(run_id)["kbuild.audit"] in ("clean", "findings", "incomplete")
    assert setup.version_tags(COPY)["kbuild.audit"] == setup.tags(run_id)["kbuild.audit"]
    name = setup.ask("GET", f"logged-models/{site.model_id}")["model"]["info"]["name"]
    loaded = tool.run([BIN / "python", "-W", "ignore", "-c", DATASET, run_id, name], cwd=site.project)
    assert loaded.code == 0 and "answers " in loaded.out, loaded.err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SETUPS)
def test_what_a_build_asks_of_its_store(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The questions of ``kbuild image`` in their order, first and again, of a model that MLflow's client logged."""
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with SETUPS[name](tmp_path / "server") as setup:
        for variable, value in setup.variables.items():
            monkeypatch.setenv(variable, value)
        mlflow.set_tracking_uri(setup.uri)
        try:
            with mlflow.start_run(experiment_id=mlflow.create_experiment("mine")) as run:
                logged = mlflow.pyfunc.log_model(name="model", python_model=Echo(), pip_requirements=["mlflow"])
        finally:
            mlflow.set_tracking_uri(None)
        run_id = run.info.run_id
        setup.register(NAME, f"models:/{logged.model_id}", run_id, model_id=logged.model_id)
        setup.ask("POST", "registered-models/alias", name=NAME, alias="prod", version="1")
        setup.register(COPY, f"models:/{NAME}/1", run_id)
        lock = tmp_path / "conda-lock.yml"
        lock.write_text("version: 1\n")
        LeanStore(tracking_uri=setup.uri).upload(run_id, [lock], "kbuild")
        counts, digests = [], set()
        for text in (run_id, run_id, f"models:/{NAME}/1", f"models:/{NAME}@prod", f"models:/{COPY}/1"):
            setup.asked.clear()
            store = LeanStore(tracking_uri=setup.uri, cache=tmp_path / "cache")  # as a process of its own has it
            bundle = store.fetch(store.pin(ModelReference.parse(text)), tmp_path / "work", kept=True)
            found = store.download(run_id, "kbuild/conda-lock.yml", tmp_path / "lock")
            assert found is not None and found.read_bytes() == lock.read_bytes()
            store.set_tags(run_id, TAGS, model_uri=bundle.facts.uri)
            counts.append(len(setup.asked))
            digests.add(bundle.digest)
        print(f"{name}: {counts[0]} requests of the first build, then {counts[1:]}")
        assert len(digests) == 1 and max(counts[1:]) <= 6
        for tags in (setup.tags(run_id), setup.version_tags(NAME), setup.version_tags(COPY)):
            assert tags.items() >= TAGS.items()


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
                        log_checked_files(saved, {"name": "model"}, run_id)
                        steps = len(asked)
                        continue
                    state |= {"left": moments.randrange(steps), "pid": process.pid}
                    try:
                        log_checked_files(saved, {"name": "model"}, run_id)
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
