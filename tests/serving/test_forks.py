"""A library whose threads no fork has: its model is asked in one process, where several would wait for ever."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline, node

from kbuild.training.pyfunc import KedroPipelineModel

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are named where Linux shows them")
ASK = "from kbuild.serving.process.forks import find_lost_threads; print(find_lost_threads())"
NUMPY = "import numpy as n; n.ones((300, 300)) @ n.ones((300, 300))"
ARROW = "import pandas, pyarrow as p; p.table({'x': [1, 2]}).to_pandas()"
# Below 256 rows scikit-learn asks OpenMP for one thread alone.
CLUSTERS = (
    "import numpy as n; from sklearn.cluster import KMeans; KMeans(2, n_init=1).fit(n.arange(4e3).reshape(-1, 2))"
)
FORK = """
import os, signal, sys
if os.fork() == 0:
    signal.alarm(5)
    {work}
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) != 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "threads", "lost"),
    [
        ("", "2", None),
        ("import polars", "2", None),
        (NUMPY, "2", None),
        (ARROW, "2", None),
        ("import polars as p; p.DataFrame({'x': [1.0]}).lazy().select(p.col('x') * 2).collect()", "1", "as polars has"),
        ("import sklearn.cluster", "2", None),
        (CLUSTERS, "1", None),
        (CLUSTERS, "2", "OMP_NUM_THREADS=1"),
    ],
)
def test_only_threads_that_no_fork_has_count(work: str, threads: str, lost: str | None) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", f"{work}\n{ASK}"], env=environment, capture_output=True, text=True, check=True
    )
    assert (lost in done.stdout) if lost else done.stdout == "None\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "threads", "answers"), [(CLUSTERS, "1", True), (CLUSTERS, "2", False), (NUMPY, "2", True)]
)
def test_what_counts_is_what_waits_for_ever(work: str, threads: str, answers: bool) -> None:
    """The same work in a fork of a process that has done it."""
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": "2"}
    program = work + FORK.format(work=work)
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=60)
    assert (done.returncode == 0) is answers


def add(table: pd.DataFrame, means: Any) -> pd.DataFrame:
    """Has polars at work in the process that answers."""
    wide = means.lazy().select(means["mean"].sum() * 2).collect()
    return table.assign(told=table["x"] + wide.item())


def save(folder: Path) -> Path:
    """A model whose table of means is read by polars as it is loaded, as MLflow saves it."""
    import cloudpickle
    import polars

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    polars.DataFrame({"mean": [1.0, 2.5]}).write_parquet(folder / "means.parquet")
    catalog = DataCatalog.from_config(
        {
            "means": {
                "type": "polars.EagerPolarsDataset",
                "filepath": str(folder / "means.parquet"),
                "file_format": "parquet",
            }
        }
    )
    model = KedroPipelineModel(
        pipeline=Pipeline([node(add, ["table", "means"], "told", name="add")]), catalog=catalog, input_name="table"
    )
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=model,
        artifacts=model.extract_pipeline_artifacts(folder),
        pip_requirements=["mlflow"],
    )
    return folder / "model"


def ask(port: int, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST" if body else "GET", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_model_that_reads_with_polars_answers_where_several_workers_are_asked_for(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "KBUILD_MODEL": str(save(tmp_path)),
        "KBUILD_HOST": "127.0.0.1",
        "KBUILD_PORT": str(port),
        "KBUILD_WORKERS": "2",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "kbuild.serving"], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        status, deadline = 0, time.monotonic() + 60
        while status != 200 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                status, _ = ask(port, "/health")
        told = ask(port, "/invocations", json.dumps({"dataframe_records": [{"x": 1.0}, {"x": 3.0}]}))
        assert told[0] == 200, told
        assert [each["told"] for each in json.loads(told[1])["predictions"]] == [8.0, 10.0]  # 2 * (1.0 + 2.5) more
    finally:
        process.terminate()
        killer = threading.Timer(20, process.kill)
        killer.start()
        said = process.communicate()[1]
        killer.cancel()
    assert "one worker in place of 2: no fork has the threads: a library of the model" in said


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_batch_says_that_one_process_scores_it(tmp_path: Path) -> None:
    model = save(tmp_path)
    (tmp_path / "archive.json").write_text('{"model_digest": "sha256:1", "lock_digest": "sha256:2"}')
    pd.DataFrame({"x": [1.0, 3.0, 5.0]}).to_parquet(tmp_path / "in.parquet", row_group_size=1)
    command = [sys.executable, "-m", "kbuild.scoring", "in.parquet", "out.parquet", "--part-rows=1"]
    environment = {**os.environ, "KBUILD_MODEL": str(model)}
    for workers, said in (
        ("3", "one process in place of 3: no fork has the threads: a library of the model"),
        ("1", ""),
    ):
        done = subprocess.run(
            [*command, f"--workers={workers}", "--overwrite"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert pd.read_parquet(tmp_path / "out.parquet")["told"].tolist() == [8.0, 10.0, 12.0]
        assert (said in done.stderr) and ("in place of" in done.stderr) == bool(said)
        (tmp_path / "out.parquet").unlink()
