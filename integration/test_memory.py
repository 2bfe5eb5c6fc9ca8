"""A model larger than the memory that building it may take: from the MLflow store to the image layout."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import requests
from servers import ours, save_model
from tool import BIN, Tool, Trained

LIMIT = 300 << 20
SIZE = int(os.environ.get("KBUILD_ARTIFACT_MIB", "512")) << 20
# Adds a file to the model that was logged last, as MLflow's own API does it.
ADD = """
import sys
import mlflow

mlflow.set_tracking_uri("sqlite:///mlflow.db")
(run,) = mlflow.search_runs(search_all_experiments=True, max_results=1, output_format="list")
(model,) = run.outputs.model_outputs
mlflow.MlflowClient().log_model_artifact(model.model_id, sys.argv[1])
print(run.info.run_id)
"""


def test_a_large_artifact_needs_little_memory(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    """KBUILD_ARTIFACT_MIB says how large. All processes together, pages that they share counted in each of them."""
    tool("image", trained.run_id, cwd=trained.folder)  # what has nothing to do with the artifact is there
    assert tool.run([BIN / "kedro", "run"], cwd=trained.folder).code == 0
    weights = tmp_path / "weights.bin"
    block = os.urandom(64 << 20)  # what no compressor with a window of a few megabytes makes smaller
    with weights.open("wb") as file:
        for start in range(0, SIZE, len(block)):
            file.write(block[: SIZE - start])
    added = tool.run([sys.executable, "-c", ADD, weights], cwd=trained.folder)
    weights.unlink()
    run_id = added.out.split()[-1]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / "kbuild"), "image", run_id, "--json"],
            cwd=trained.folder,
            env=tool.environ(),
            stdout=subprocess.PIPE,
            stderr=out,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(resident, family(process.pid))))
            time.sleep(0.01)
        built, _ = process.communicate()
    assert process.returncode == 0, log.read_text()[-3000:]
    assert max(layer["size"] for layer in json.loads(built)["layers"]) >= SIZE
    print(f"{SIZE >> 20} MiB of artifact, {peak >> 20} MiB of memory at most")
    assert peak < LIMIT


def family(pid: int) -> list[int]:
    """A process and all that come from it (proc(5), /proc/pid/task/tid/children)."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                found += [int(child) for child in children.read_text().split()]
    return found


def resident(pid: int) -> int:
    """Bytes of a process in memory, 0 once it ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _parquet(**columns: object) -> bytes:
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, file := io.BytesIO(), compression="zstd")
    return file.getvalue()


def hostile() -> dict[str, tuple[bytes, str]]:
    """Small bodies that stand for gigabytes."""
    json_kind, parquet_kind = "application/json", "application/vnd.apache.parquet"
    records = [{f"c{n}": 1} for n in range(30_000)]
    few = [{f"c{n}": 1} for n in range(9_500)]
    split = {"columns": [*range(9_500)], "index": [*range(100_000)], "data": None}
    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 6_700, pyarrow.int32()), ["x" * 1_000_000])
    return {
        "parquet": (_parquet(a=text), parquet_kind),
        "numbers": (_parquet(a=pyarrow.array([[0] * 50_000_000])), parquet_kind),
        **{name: (json.dumps({name: records}).encode(), json_kind) for name in ("dataframe_records", "instances")},
        "inputs": (json.dumps({"inputs": {f"c{n}": {f"r{n}": 1} for n in range(9_500)}}).encode(), json_kind),
        "few": (json.dumps({"dataframe_records": few}).encode(), json_kind),
        "split": (json.dumps({"dataframe_split": split}).encode(), json_kind),
        "csv": (",".join(map(str, range(9_500))).encode() + b"\n1" * 500_000, "text/csv"),
        # The most that is let through to MLflow.
        "most": (json.dumps({"dataframe_records": records[:5_700]}).encode(), json_kind),
        "most numbers": (_parquet(a=[[0] * 20_000_000]), parquet_kind),
        "deep": (b"[" * 20_000_000, json_kind),
        "lists": (b'{"inputs":[' + b"[]," * 7_000_000 + b"1]}", json_kind),
    }


def test_a_server_under_hostile_requests_stays_below_a_gigabyte(tmp_path: Path) -> None:
    """As the kernel counts it at most (proc(5), VmHWM)."""
    model = save_model("numbers", tmp_path / "model")
    with ours(model, tmp_path, KBUILD_WORKERS="1") as (url, process):
        for name, (body, kind) in hostile().items():
            reply = requests.post(f"{url}/invocations", data=body, headers={"content-type": kind}, timeout=60)
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak = int(status.split("VmHWM:")[1].split()[0]) >> 10
            print(f"{name}: {len(body)} bytes, {reply.status_code}, {peak} MiB at most")
            assert reply.status_code in (400, 413), (name, reply.text[:300])
            assert peak < 1000, name
