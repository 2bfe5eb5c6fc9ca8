"""``kbuild image --queue`` and ``kbuild worker`` with a real PostgreSQL and registry: killed, restarted, right."""

from __future__ import annotations

import asyncio
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
import requests
from engines import Registry
from procrastinate.jobs import Job
from procrastinate.jobs import Status as JobStatus
from procrastinate.schema import SchemaManager
from small_models import write_small
from tool import BIN, INSTALLED, SHARED, Tool, cold, running
from tracking_setups import Postgres, counting, postgres

from kbuild.errors import QueueUnavailable
from kbuild.workflow.queue.address import QueueAddress
from kbuild.workflow.queue.asked import Asked, printable
from kbuild.workflow.queue.board import Board, open_board
from kbuild.workflow.queue.database import QUEUE, open_app
from kbuild.workflow.queue.ledger import PostgresLedger

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


def registered(database: Postgres) -> int:
    with psycopg.connect(database.uri) as connection:
        return int((connection.execute("SELECT count(*) FROM procrastinate_workers").fetchone() or (0,))[0])


def fresh(database: Postgres, name: str) -> QueueAddress:
    """An empty database on the same server."""
    with psycopg.connect(database.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return QueueAddress(database.uri.replace("/tracking", f"/{name}"))


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 300) -> None:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"{what} took more than {seconds} s"
        time.sleep(0.05)


def test_of_many_that_come_at_once_one_makes_the_tables(database: Postgres) -> None:
    address = fresh(database, "crowded")
    start = threading.Barrier(8)

    def come(_: int) -> int:
        start.wait()
        with open_board(address) as board:
            return board.figures().jobs["waiting"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(come, range(8))) == [0] * 8


def test_tables_of_an_older_procrastinate_are_said(database: Postgres) -> None:
    address = fresh(database, "old")
    with psycopg.connect(address.url, autocommit=True) as connection:
        connection.execute(SchemaManager.get_schema())
        connection.execute("DROP FUNCTION procrastinate_retry_job_v2")
        with (
            pytest.raises(QueueUnavailable, match=r"are of a procrastinate before 3\.4") as caught,
            open_board(address),
        ):
            pass
        typed = str(caught.value.hint).partition("then: ")[2].partition(" | psql")[0]
        # The trigger is replaced, the event's kind is there already.
        path = {"PATH": f"{BIN}:/usr/bin:/bin"}
        script = subprocess.run(["sh", "-c", typed], capture_output=True, text=True, check=True, env=path).stdout
        connection.execute(script[script.index("-- Procedure") :])
    with open_board(address) as board:
        assert board.figures().workers == 0


def test_how_jobs_change_hands(database: Postgres) -> None:
    """The statements that only PostgreSQL understands."""
    address = fresh(database, "hands")
    asked = Asked(model="0" * 32, options={"tag": "x:1"})

    async def work() -> None:
        app = open_app(address, program="hands")
        ledger = PostgresLedger(app)
        async with app.open_async():
            manager, ask = app.job_manager, app.connector.execute_query_all_async

            async def fetch() -> Job:
                worker = await manager.register_worker()
                await ledger.register(worker, 600)
                job = await manager.fetch_job([QUEUE], worker)
                assert job is not None
                await ledger.begin(job, "w")
                return job

            async def status(number: int) -> str:
                return str(
                    (await ask("SELECT status FROM procrastinate_jobs WHERE id = %(id)s", id=number))[0]["status"]
                )

            def on_board(do: Callable[[Board], Any]) -> Any:
                with open_board(address) as board:
                    return do(board)

            async def look(do: Callable[[Board], Any]) -> Any:
                return await asyncio.to_thread(on_board, do)

            await look(lambda board: board.put([asked]))
            one = await fetch()
            await ledger.end(one, printable({"error": {"message": "a\0b \ud800"}}), failed=True)
            await manager.finish_job(one, JobStatus.FAILED, delete_job=False)
            (two,) = await look(lambda board: board.put([asked]))
            assert await look(lambda board: board.retry([1, two.id])) == []  # waits already
            first = await fetch()
            assert await look(lambda board: board.retry([1])) == []  # is being built
            assert await ledger.owns(first) and (await look(lambda board: board.figures())).workers == 2
            assert await ledger.give_back(first, at=None, lock=None) and await status(2) == "todo"
            second = await fetch()
            assert not await ledger.owns(first) and await ledger.claim(first, "plan x") is None
            assert await ledger.give_back(first, at=None, lock="plan x") and await status(2) == "doing"
            await ask("UPDATE procrastinate_jobs SET status = 'todo' WHERE id = 1 RETURNING id")
            assert await ledger.take_over(first) is None
            assert await ledger.take_over(second) == ("w", "failed") and await ledger.take_over(second) is None
            third = await fetch()
            assert third.id == 1 and await look(lambda board: board.retry([2])) == []
            assert await look(lambda board: board.cancel([1])) == [1]
            assert await ledger.take_over(third) == ("w", "aborted")
            assert await look(lambda board: board.cancelled([asked])) == set()  # a newer one has failed
            await ask("DELETE FROM procrastinate_jobs WHERE id = 2 RETURNING id")
            assert await look(lambda board: board.cancelled([asked])) == {asked.model}
            assert await look(lambda board: board.gone([1, 2])) == {2}
            await ask("UPDATE procrastinate_events SET at = at - interval '1 day' RETURNING id")
            assert await look(lambda board: board.retry([1])) == [1]
            assert await look(lambda board: board.cancelled([asked])) == set()
            await ask("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour' RETURNING id")
            figures = await look(lambda board: board.figures())
            assert figures.oldest < 60 and figures.workers == 0 and not await ledger.up_for(3600)
            assert await ledger.up_for(0) and await status(1) == "todo"

    asyncio.run(work())


def test_old_jobs_that_have_ended_are_deleted(database: Postgres) -> None:
    address = fresh(database, "pruned")
    # Of each: what it is in procrastinate, for how many days, and of which image.
    jobs = [
        ("succeeded", 40, "a"), ("failed", 40, "b"), ("cancelled", 40, "c"), ("succeeded", 20, "d"),
        ("aborted", 40, "e"), ("succeeded", 40, "e"), ("todo", 40, "f"), ("doing", 40, "g"),
    ]  # fmt: skip
    with open_board(address) as board, psycopg.connect(address.url, autocommit=True) as connection:
        board.put([Asked(model=f"{number:032x}", options={"tag": "x:1"}) for number in range(len(jobs))])
        for number, (status, days, image) in enumerate(jobs, 1):
            changed = "UPDATE procrastinate_jobs SET status = %s, queueing_lock = %s WHERE id = %s"
            connection.execute(changed, (status, image, number))
            changed = "UPDATE procrastinate_events SET at = at - make_interval(days => %s) WHERE job_id = %s"
            connection.execute(changed, (days, number))
        connection.execute("INSERT INTO kbuild_builds (job_id) VALUES (1), (7)")
        assert board.prune(days=30, statuses=("done",)) == 3  # 1, 5 and 6: of e there is a newer one
        assert {each.id for each in board.jobs()} == {2, 3, 4, 7, 8}
        assert connection.execute("SELECT job_id FROM kbuild_builds").fetchall() == [(7,)]
        assert board.prune(days=30, statuses=("done", "failed")) == 1
        assert board.prune(days=30, statuses=("cancelled",)) == 1
        assert board.prune(days=0, statuses=("done", "failed", "cancelled")) == 1
        assert {each.id for each in board.jobs()} == {7, 8}
        with pytest.raises(ValueError, match="waiting"):
            board.prune(days=0, statuses=("waiting",))


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
        wait_until(lambda: registered(database) == 2, "the second worker")  # the first's row stays for a while
        database.restart()
        out, err = waiting.communicate(timeout=600)
        assert waiting.returncode == 70, err
        second.send_signal(signal.SIGTERM)
        assert second.wait(120) == 0, (tmp_path / "second.log").read_text()
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
    """They build, audit, push and tell the version, and have its alias become a tag."""
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
    manifest = f"http://{registry.address}/v2/left/left/manifests/champion"
    asked = requests.head(manifest, headers={"Accept": "application/vnd.oci.image.manifest.v1+json"}, timeout=10)
    assert asked.headers["docker-content-digest"] == named.partition("@")[2]
    assert mine(*watch, cwd=tmp_path).out == ""
    (job,) = mine("queue", "list", "--status", "done", "--limit", "1", "--json").json["jobs"]
    assert job["priority"] == 1 and job["result"]["audit"] in ("clean", "findings", "incomplete")
    assert "not_audited" not in job["result"]
