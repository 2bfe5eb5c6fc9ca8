"""``kbuild image --queue`` and ``kbuild worker`` with a real PostgreSQL and registry: killed, restarted, right."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import psycopg
import pytest
from engines import Registry
from small_models import write_small
from tool import BIN, INSTALLED, SHARED, Tool, cold, running
from tracking_setups import Postgres, counting, postgres

from kbuild.workflow.queue.address import QueueAddress
from kbuild.workflow.queue.board import open_board

LEASE = "4"  # seconds


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as running:
        yield running


def count(database: Postgres, status: str) -> int:
    try:
        with psycopg.connect(database.uri) as connection:
            found = connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status::text = %s", (status,))
            return int((found.fetchone() or (0,))[0])
    except psycopg.errors.UndefinedTable:
        return 0  # nobody has asked for anything yet


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"{what} took more than {seconds} s"
        time.sleep(0.05)


def test_of_many_that_come_at_once_one_makes_the_tables(database: Postgres) -> None:
    with psycopg.connect(database.uri, autocommit=True) as connection:
        connection.execute("CREATE DATABASE crowded")
    address = QueueAddress(database.uri.replace("/tracking", "/crowded"))
    start = threading.Barrier(8)

    def come(_: int) -> int:
        start.wait()
        with open_board(address) as board:
            return board.figures().jobs["waiting"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(come, range(8))) == [0] * 8


def test_a_killed_worker_and_a_database_restarted_cost_nothing(
    tool: Tool, registry: Registry, database: Postgres, tmp_path: Path
) -> None:
    models = [str(write_small(tmp_path / f"m{number}", number)) for number in range(300, 306)]
    alone = {model: tool("image", model).out.strip().partition("@")[2] for model in models}
    refs, report, asked = tmp_path / "refs.txt", tmp_path / "report.json", list[str]()
    refs.write_text("".join(f"{model}\n" for model in (*models, tmp_path / "broken")))
    write_small(tmp_path / "broken", 399).joinpath("MLmodel").write_text("flavors: {spark: {}}\n")
    with ExitStack() as stack:
        proxy = stack.enter_context(counting(f"http://{registry.address}", asked))
        push = f"{proxy.removeprefix('http://')}/queued/{{name}}:{{model_id}}"
        environ = {"KBUILD_QUEUE": database.uri}
        waiting = subprocess.Popen(
            [BIN / "kbuild", "image", "--from-file", refs, "--queue", "--wait", "--report", report, "--push", push],
            env=tool.environ(**environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(waiting.kill)

        def start(name: str) -> subprocess.Popen[bytes]:
            mine = cold(tool, tmp_path / f"cache-{name}", keep=(*SHARED, *INSTALLED))
            argv: list[str | Path] = [BIN / "kbuild", "worker", "--no-audit", "--lease", LEASE, "--name", name]
            return stack.enter_context(running(argv, tmp_path / f"{name}.log", env=mine.environ(**environ)))

        first = start("first")
        wait_until(lambda: count(database, "succeeded") >= 2, "two images")
        wait_until(lambda: count(database, "doing"), "the next job")
        first.send_signal(signal.SIGKILL)
        second = start("second")
        database.restart()
        out, err = waiting.communicate(timeout=240)
        assert waiting.returncode == 70, err
        second.send_signal(signal.SIGTERM)
        assert second.wait(20) == 0, (tmp_path / "second.log").read_text()
    lines = [line.partition("\t") for line in out.splitlines()]
    assert {model: image.partition("@")[2] for model, _, image in lines} == alone
    entries = {entry["model"]: entry for entry in json.loads(report.read_text())["models"]}
    assert {entries[model]["digest"] for model in models} == set(alone.values())
    assert "no python_function flavor" in entries[str(tmp_path / "broken")]["error"]["message"]
    pushed = Counter(line for line in asked if line.startswith("PUT ") and "/manifests/" in line)
    assert len(pushed) == len(models) and set(pushed.values()) == {1}
    log = (tmp_path / "second.log").read_text()
    assert "first is gone" in log and "Traceback" not in log + err

    mine = Tool(cache=tool.cache, environment={**tool.environment, **environ})
    (failed,) = mine("queue", "list", "--status", "failed", "--json").json["jobs"]
    assert failed["model"] == str(tmp_path / "broken") and failed["result"]["status"] == "failed"
    number = str(failed["job"])
    assert mine("queue", "retry", "--failed").out.split() == [number]
    assert mine("queue", "cancel", number).out.split() == [number]
    assert mine("queue", "show", number).json["status"] == "cancelled"
    assert mine("queue", "cancel", number, code=64).error_lines[0].endswith(f"being built: {number}")


@pytest.mark.filterwarnings("ignore")  # of the store of MLflow, in this process
def test_a_watch_leaves_builds_to_workers(
    tool: Tool, registry: Registry, database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They build, audit, push and tell the version; the watch has the alias become a tag."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(uri)
    client.create_experiment("left", (tmp_path / "artifacts").as_uri())
    client.create_registered_model("Left")
    run = client.create_run("1")
    client.log_artifacts(run.info.run_id, str(write_small(tmp_path / "m", 310)), "model")
    client.create_model_version("Left", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("Left", "champion", "1")
    environ = {**tool.environment, "MLFLOW_TRACKING_URI": uri, "KBUILD_QUEUE": database.uri}
    mine = Tool(cache=tool.cache, environment=environ)
    watch = ["watch", "--once", "--queue", "--push", f"{registry.address}/left/{{name}}:{{version}}"]
    assert mine(*watch, cwd=tmp_path).out == "models:/Left/1\n"
    assert mine(*watch, cwd=tmp_path).out == ""  # it waits there
    worked = mine("worker", "--once", cwd=tmp_path)
    named = client.get_model_version("Left", "1").tags["kbuild.named"]
    assert named.startswith(f"{registry.address}/left/left:1@sha256:") and "Traceback" not in worked.err
    assert f"{registry.address}/left/left:champion is models:/Left/1" in mine(*watch, cwd=tmp_path).err
    (job,) = mine("queue", "list", "--status", "done", "--limit", "1", "--json").json["jobs"]
    assert job["priority"] == 1 and job["result"]["audit"] in ("clean", "findings", "incomplete")
    assert "not_audited" not in job["result"]
