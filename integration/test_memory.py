"""A model larger than the memory that building it may take: from the MLflow store to the image layout."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

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
