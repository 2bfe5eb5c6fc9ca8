"""Tables scored by ``kbuild score`` here and on Spark, by MLflow's ``spark_udf`` on that cluster, by a pandas loop.

    nox -s bench -- batch [--rows 20000 200000] [--kill] [--most-of-peers 1000000] [--output bench-batch.json]

The cluster is a standalone master with two workers of one core, whose own Python has neither kbuild nor pandas;
MLflow's executors are given this one, which has the model's packages. Each keeps ``id`` and the answer. Told: seconds
of the whole command, processor seconds, the most memory (PSS, sampled) here and of an executor, and whether each id is
answered once and with the very bits that ``--workers 2`` wrote; those are compared with the server's answers to a
sample. ``--kill`` kills an executor and then the driver by -9, and starts again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
from asking import ask_once
from batches import cluster, executors, write_tables
from tool import BIN, Tool, Trained, served
from usage import measured

Told = tuple[dict[str, Any], list[Any]]
COLUMNS = ("rows", "seconds", "rows/s", "cpu s", "MB here", "MB an executor", "of it Python", "equal", "kept")
OUTPUTS = ("progression", "high_risk")
GROUP = 125_000  # rows of a row group
SAMPLE = 5_000
PART_ROWS = 250_000  # as kbuild has it by default
_PACKAGES = ("kbuild", "pyspark", "mlflow", "pandas", "pyarrow", "scikit-learn")


# The peers, each a process of its own


def spark_udf(model: str, table: str, out: str, master: str) -> None:
    """MLflow's own function of columns, in executors that have the model's packages."""
    import mlflow.pyfunc
    from pyspark.sql import SparkSession

    built = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
    for name, value in SETTINGS.items():
        built = built.config(name, value)
    spark = built.getOrCreate()
    answer = mlflow.pyfunc.spark_udf(
        spark, model, result_type="progression double, high_risk boolean", env_manager="local"
    )
    rows = spark.read.parquet(table)
    names = [name for name in rows.columns if name != "id"]
    rows.withColumn("answer", answer(*names)).select("id", "answer.*").write.parquet(out)
    spark.stop()


def pandas_loop(model: str, table: str, out: str) -> None:
    """What anybody writes first."""
    import mlflow.pyfunc
    import pyarrow as pa

    loaded, writer = mlflow.pyfunc.load_model(model), None
    for path in sorted(Path(table).iterdir()):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=50_000):
            frame = batch.to_pandas()
            answer = loaded.predict(frame.drop(columns="id"))
            answer.insert(0, "id", frame["id"])
            made = pa.Table.from_pandas(answer, preserve_index=False)
            writer = writer or pq.ParquetWriter(out, made.schema)
            writer.write_table(made)
    writer.close()


SETTINGS = {"spark.executor.memory": "512m", "spark.driver.host": "127.0.0.1"}
PEERS = {"spark_udf": spark_udf, "pandas_loop": pandas_loop}


# What is compared


def answers(path: Path, rows: int) -> list[Any]:
    """The answers by id; stops where an id is there twice or not at all."""
    found = pyarrow.dataset.dataset(path, format="parquet").to_table(columns=["id", *OUTPUTS])
    ids = found["id"].to_numpy()
    if len(ids) != rows or not (np.bincount(ids, minlength=rows) == 1).all():
        raise SystemExit(f"{path}: {len(ids)} answers to {rows} rows, {len({*ids.tolist()})} of them different ones")
    order = np.argsort(ids)
    # Bits, since nothing is equal to nothing.
    return [np.ascontiguousarray(found[name].to_numpy()[order]).view("u1") for name in OUTPUTS]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def sample_of(table: Path, seed: int) -> Any:
    """Some rows of one row group in each file."""
    import pandas as pd

    chance, paths = random.Random(seed), sorted(table.iterdir())  # noqa: S311  the same rows again
    groups = []
    for path in paths:
        file = pq.ParquetFile(path)
        group = file.read_row_group(chance.randrange(file.num_row_groups)).to_pandas()
        groups.append(group.sample(min(len(group), SAMPLE // len(paths)), random_state=seed))
    return pd.concat(groups)


def as_served(url: str, table: Path, rows: int, found: list[Any]) -> int:
    """How many rows of a sample the server was asked; stops where it answers otherwise."""
    sample = sample_of(table, rows)
    for first in range(0, len(sample), 1000):
        asked = sample.iloc[first : first + 1000]
        split = asked.drop(columns="id").to_dict(orient="split", index=False)
        port = int(url.rpartition(":")[2].strip("/"))
        status, body = ask_once(port, json.dumps({"dataframe_split": split}).encode())
        for name, mine in zip(OUTPUTS, found, strict=True):
            theirs = np.array([each[name] for each in body["predictions"]])
            if status != 200 or not np.array_equal(theirs, mine.view(theirs.dtype)[asked["id"]]):
                raise SystemExit(f"{name} is not what the server answers")
    return len(sample)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The model, the cluster, and where everything lies."""

    tool: Tool
    trained: Trained
    folder: Path
    master: str
    local: dict[str, str]
    workers: list[subprocess.Popen[bytes]]

    def score(self, table: Path, out: Path, *more: str) -> list[str]:
        return [str(BIN / "kbuild"), "score", self.trained.run_id, str(table), str(out), "--keep", "id", *more]

    def spark(self) -> list[str]:
        return ["--spark", self.master, *(w for n, v in SETTINGS.items() for w in ("--spark-conf", f"{n}={v}"))]

    def peer(self, name: str, table: Path, out: Path, *more: str) -> list[str]:
        return [sys.executable, __file__, "--peer", name, str(self.trained.model), str(table), str(out), *more]

    def udf(self, table: Path, out: Path, rows: int) -> Told:
        """MLflow's executors have this very Python, with all of the model's packages."""
        argv = self.peer("spark_udf", table, out, self.master)
        return self.run(argv, out, rows, PYSPARK_PYTHON=sys.executable)

    def run(self, argv: list[str], out: Path, rows: int, **environ: str) -> Told:
        """A row of the table, and the answers."""
        executing = {f"executor {n}": self.folder / f"spark/work{n}" for n in (1, 2)}
        with measured({"here": self.trained.folder, **executing}) as used:
            begin = time.monotonic()
            done = self.tool.run([*argv], cwd=self.trained.folder, **self.local, **environ)
            took = time.monotonic() - begin
        if done.code:
            raise SystemExit(done.err[-3000:])
        told = {"rows": rows, "seconds": round(took, 1), "rows/s": round(rows / took)}
        told |= {"cpu s": round(sum(used.cpu.values()), 1), "MB here": round(used.whole["here"])}
        told["MB an executor"] = round(max(used.whole[name] for name in executing))
        told["of it Python"] = round(max(used.python[name] for name in executing))
        return told, answers(out, rows)

    def killed(self, argv: list[str], out: Path, rows: int) -> Told:
        """Executor and driver killed by -9 at a quarter and at half of the parts; then the same command again."""
        done = out / "_kbuild/done"
        driver = subprocess.Popen(
            argv, cwd=self.trained.folder, env=self.tool.environ(**self.local), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def wait_for(part: float) -> int:
            while not done.is_dir() or len(list(done.iterdir())) < part * (parts := parts_of(out)):
                if driver.poll() is not None:
                    raise SystemExit("it ended before it was killed: more rows")
                time.sleep(0.05)
            return parts

        wait_for(0.25)
        os.kill(executors(self.workers)[0], signal.SIGKILL)
        parts = wait_for(0.5)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        kept = {path: path.stat().st_ino for path in out.glob("part-*")}
        told, found = self.run(argv, out, rows)
        if {path: path.stat().st_ino for path in kept} != kept:
            raise SystemExit("what was finished was scored again")
        return told | {"kept": f"{len(kept)} of {parts} parts"}, found


def parts_of(out: Path) -> int:
    """How many parts the job of a folder has."""
    return len(json.loads((out / "_kbuild/job.json").read_text(encoding="utf-8"))["parts"])


def compare(bench: Bench, image: str, asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row of the table for each, by its name."""
    known: dict[int, list[Any]] = {}
    for rows in sorted(asked.rows):
        table, out = bench.folder / f"in{rows}", bench.folder / "out"
        write_tables(bench.trained.model, table, rows, files=4, group=max(1, min(GROUP, rows // 16)))
        parts = ["--part-rows", str(max(1, min(PART_ROWS, rows // 8)))]
        here = bench.score(table, out, *parts, "--workers", "2")
        there = bench.score(table, out, *parts, *bench.spark())
        few = max((each for each in asked.rows if each <= min(rows, asked.most_of_peers)), default=rows)
        small = bench.folder / f"in{few}"
        runs: dict[str, Callable[[], Told]] = {
            "kbuild score --workers 2": partial(bench.run, here, out, rows),
            "kbuild score --spark": partial(bench.run, there, out, rows),
            "MLflow spark_udf": partial(bench.udf, small, out, few),
            "pandas loop": partial(bench.run, bench.peer("pandas_loop", small, out), out, few),
        }
        if asked.kill and rows == max(asked.rows):
            runs["kbuild score --spark, killed twice, again"] = partial(bench.killed, there, out, rows)
        for name, run in runs.items():
            told, found = run()
            known.setdefault(told["rows"], found)
            yield name, told | {"equal": same(found, known[told["rows"]])}
            shutil.rmtree(out) if out.is_dir() else out.unlink()
        with served(bench.tool, image, bench.trained.folder) as url:
            yield "the server, a sample", {"rows": as_served(url, table, rows, known[rows]), "equal": True}


def measure(asked: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same, after the demo's model was trained and its archive sent once."""
    tool = Tool(cache=asked.cache or folder / "cache", environment={"DOCKER_HOST": f"unix://{folder}/none.sock"})
    demo = tool("demo", "--dir", folder / "project", "--json").json
    trained = Trained(folder=Path(demo["dir"]), run_id=demo["run_id"])
    bare = folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    for name in ("kbuild", "pandas"):
        assert subprocess.run([bare / "bin/python", "-c", f"import {name}"], capture_output=True, cwd=folder).returncode
    with cluster(folder / "spark", bare / "bin") as (master, local, workers):
        bench = Bench(tool=tool, trained=trained, folder=folder, master=master, local=local, workers=workers)
        write_tables(trained.model, folder / "first", 1000, files=1, group=1000)
        out = folder / "out"
        yield "kbuild score --spark, packs", bench.run(bench.score(folder / "first", out, *bench.spark()), out, 1000)[0]
        shutil.rmtree(out)
        yield from compare(bench, demo["image"], asked)


def main() -> None:
    """Print a table and write JSON."""
    if sys.argv[1:2] == ["--peer"]:
        PEERS[sys.argv[2]](*sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--most-of-peers", type=int, default=10**9, help="more rows than these only kbuild is asked")
    parser.add_argument("--kill", action="store_true", help="kill executor and driver at the most rows")
    parser.add_argument("--cache", type=Path, help="of an earlier run, so that nothing is downloaded or laid out anew")
    parser.add_argument("--output", type=Path, default=Path("bench-batch.json"))
    asked = parser.parse_args()
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    result = {"machine": machine, "versions": {each: version(each) for each in _PACKAGES}, "runs": []}
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as folder:
        print(f"{'':<42}" + "".join(f"{name:>15}" for name in COLUMNS))
        for name, told in measure(asked, Path(folder)):
            print(f"{name:<42}" + "".join(f"{told.get(column, ''):>15}" for column in COLUMNS), flush=True)
            result["runs"].append({"name": name, "load": os.getloadavg()[0], **told})
            asked.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
