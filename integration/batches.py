"""Tables to score, and a Spark cluster to score them on."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debian import install_tools
from engines import free_port, require
from tool import BIN, running

if TYPE_CHECKING:
    import pandas as pd

# What the workers' scripts, Spark's unpacking and the archive's starter call.
_PROGRAMS = (
    "sh", "tar", "gzip", "readlink", "dirname", "ln", "rm", "mkdir", "mv", "sleep", "chmod", "java", "bash", "setsid",
)  # fmt: skip


def example_rows(model: Path, first: int, rows: int) -> pd.DataFrame:
    """The model's example many times over, a little different each time, with an ``id`` from ``first`` on."""
    import numpy as np
    import pandas as pd

    split = json.loads((model / "serving_input_example.json").read_text())["dataframe_split"]
    frame = pd.DataFrame(split["data"], columns=split["columns"])
    frame = pd.concat([frame] * -(-rows // len(frame)), ignore_index=True)[:rows]
    random = np.random.default_rng([5, first])
    for name in frame.select_dtypes(float):
        frame[name] += random.normal(size=len(frame)) * 0.1
    frame.insert(0, "id", range(first, first + rows))
    return frame


def write_tables(model: Path, folder: Path, rows: int, *, files: int, group: int) -> None:
    """So many rows in files of Parquet with row groups of at most ``group`` rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    each = -(-rows // files)
    for number, begin in enumerate(range(0, rows, each)):
        writer: Any = None
        for first in range(begin, min(begin + each, rows), group):
            frame = example_rows(model, first, min(group, begin + each - first, rows - first))
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pq.ParquetWriter(folder / f"in-{number:03d}.parquet", table.schema)
            writer.write_table(table)
        writer.close()


@contextmanager
def cluster(
    folder: Path, python: Path | None = None
) -> Iterator[tuple[str, dict[str, str], list[subprocess.Popen[bytes]]]]:
    """A standalone master with two workers of one core: its url, the driver's environment, the workers.

    Executors find no Python at all, or the one whose folder of programs is given.
    """
    install_tools("default-jre-headless")
    found = subprocess.run([BIN / "python", "-c", "import pyspark; print(pyspark.__path__[0])"], capture_output=True)
    require(found.returncode == 0, "PySpark is not installed: pip install 'kbuild[spark]'")
    home, local = found.stdout.decode().strip(), {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_HOSTNAME": "localhost"}
    (folder / "bin").mkdir(parents=True)
    for name in _PROGRAMS:
        program = subprocess.run(["which", name], capture_output=True, text=True).stdout.strip()
        (folder / "bin" / name).symlink_to(program)
    path = f"{folder}/bin" if python is None else f"{folder}/bin:{python}"
    # What they have of the driver's: a killed executor leaves it behind.
    kept = {"SPARK_LOCAL_DIRS": f"{folder}/local"}
    environ = {"PATH": path, "SPARK_HOME": home, "SPARK_SCALA_VERSION": "2.13", **local, **kept}
    java: list[str | Path] = [folder / "bin/java", "-Xmx256m", "-cp", f"{home}/jars/*"]
    port, url = free_port(), "org.apache.spark.deploy"
    master: list[str | Path] = [*java, f"{url}.master.Master", "--host", "127.0.0.1", "--port", str(port)]
    master += ["--webui-port", "0"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(running(master, folder / "master.log", env=environ))
        workers = []
        for number in (1, 2):
            worker = [*java, f"{url}.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "640m"]
            worker += ["--webui-port", "0", "--work-dir", folder / f"work{number}", f"spark://127.0.0.1:{port}"]
            workers.append(stack.enter_context(running(worker, folder / f"worker{number}.log", env=environ)))
        yield f"spark://127.0.0.1:{port}", local, workers


def executors(workers: list[subprocess.Popen[bytes]]) -> list[int]:
    """The processes that the workers started."""
    parents = {worker.pid for worker in workers}
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(stat.parent.name))
    return found
