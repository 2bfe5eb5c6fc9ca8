"""Tables scored by a model's archive, here and on a Spark cluster, beside what the server and the pipeline answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from batches import cluster, executors, write_tables
from tool import BIN, Tool, Trained, served

ROWS = 20_000


@pytest.fixture(scope="module")
def table(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table") / "in"
    write_tables(trained.model, folder, ROWS, files=1, group=1000)
    (path,) = folder.iterdir()
    return path


def read(folder: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("part-*"))).reset_index(drop=True)


def test_a_table_is_answered_as_the_server_and_as_the_pipeline_do(
    tool: Tool, trained: Trained, table: Path, tmp_path: Path
) -> None:
    score = ["score", trained.run_id, table, tmp_path / "out", "--part-rows", "4000", "--workers", "2"]
    manifest = tool(*score, "--json", cwd=trained.folder, PYTHONPATH="/nothing/of/this/counts").json
    assert (manifest["rows"], manifest["failed"], len(manifest["parts"])) == (ROWS, 0, 5)
    found, given = read(tmp_path / "out"), pd.read_parquet(table)
    pd.testing.assert_frame_equal(found[given.columns.tolist()], given)
    sample = given.drop(columns="id").sample(500, random_state=1)
    body = json.dumps({"dataframe_split": sample.to_dict(orient="split", index=False)})
    image = tool("image", trained.run_id, cwd=trained.folder).out.strip()
    with served(tool, image, trained.folder) as url:
        answer = requests.post(f"{url}/invocations", body, headers={"Content-Type": "application/json"}, timeout=60)
    outputs = ["progression", "high_risk"]
    expected = pd.DataFrame(answer.json()["predictions"], index=sample.index)
    pd.testing.assert_frame_equal(found.loc[sample.index, outputs], expected[outputs], check_exact=True)
    # In the training environment, by MLflow, of what nothing of this went through.
    code = "import sys, mlflow.pyfunc, pandas as pd\nmodel, table, out = sys.argv[1:]\n" + (
        "mlflow.pyfunc.load_model(model).predict(pd.read_parquet(table).drop(columns='id')).to_parquet(out)"
    )
    subprocess.run([BIN / "python", "-c", code, trained.model, table, tmp_path / "own.parquet"], check=True)
    pd.testing.assert_frame_equal(found[outputs], pd.read_parquet(tmp_path / "own.parquet")[outputs])


@pytest.mark.heavy
def test_a_cluster_whose_executors_have_no_python_answers_the_same_though_it_is_killed(
    tool: Tool, trained: Trained, table: Path, tmp_path: Path
) -> None:
    def argv(out: str, *more: str) -> list[str]:
        parts = ["--part-rows", "1000", "--batch-rows", "500"]
        return ["score", trained.run_id, str(table), str(tmp_path / out), *parts, *more]

    tool(*argv("here"), cwd=trained.folder)
    with cluster(tmp_path / "cluster") as (master, local, workers):
        conf = ["--spark", master, "--spark-conf", "spark.executor.memory=512m"]
        conf += ["--spark-conf", "spark.driver.host=127.0.0.1"]
        done = tmp_path / "there/_kbuild/done"
        command = [str(BIN / "kbuild"), *argv("there", *conf)]
        env = tool.environ(**local)

        def begin() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, cwd=trained.folder, env=env, start_new_session=True)

        def wait_for(parts: int, driver: subprocess.Popen[bytes]) -> None:
            deadline = time.monotonic() + 300
            while not done.is_dir() or len(list(done.iterdir())) < parts:
                assert driver.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)

        driver = begin()
        wait_for(2, driver)
        os.kill(executors(workers)[0], signal.SIGKILL)
        wait_for(6, driver)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        kept = {path: path.stat().st_ino for path in (tmp_path / "there").glob("part-*")}
        assert 6 <= len(kept) < 20
        manifest: dict[str, Any] = tool(*argv("there", *conf), "--json", cwd=trained.folder, **local).json
    assert manifest["rows"] == ROWS and len(manifest["parts"]) == 20
    assert {path: path.stat().st_ino for path in kept} == kept, "what was finished is not scored again"
    # Nothing lost, nothing doubled, and the very bytes of what was scored without Spark.
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / n).glob("part-*")} for n in ("here", "there"))
    assert here == there
    assert read(tmp_path / "there")["id"].tolist() == list(range(ROWS))
