"""Benchmarks, side by side in one run: ``nox -s bench``, and ``nox -s bench -- NAME`` for the other files' (OTHERS).

Whole processes are timed, medians of several runs are shown, and what counts is the ratio: the machine is what it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from engines import start_engine, start_registry
from tool import BIN, Tool

OTHERS = {
    "batch": "bench_batch.py",
    "cold": "bench_cold.py",
    "docker": "bench_docker.py",
    "layers": "bench_layers.py",
    "lock": "bench_lock.py",
    "predict": "bench_predict.py",
    "serving": "bench_serving.py",
}
_NEWEST = (
    "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
    " print(mlflow.search_runs(search_all_experiments=True, order_by=['start_time DESC']).run_id[0])"
)
_PACKAGES = ("kbuild", "mlflow", "kedro", "conda-lock", "py-rattler", "zstandard")


def timed(action: Callable[[], object], times: int) -> float:
    """The median of ``times`` runs, in seconds."""
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def new_models(tool: Tool, here: Path, address: str | None, times: int) -> dict[str, float]:
    """Seconds to an image of a run that was only just trained, its environment known; and pushed, to ``address``."""
    seconds: dict[str, list[float]] = {}
    for number in range(times):
        tool.run([BIN / "kedro", "run"], cwd=here)
        found = tool.run([BIN / "python", "-c", _NEWEST], cwd=here).out.strip()
        steps = {"kbuild image, new model": ["image", found, "-o", here.parent / f"layout{number}"]}
        if address is not None:
            steps["kbuild image --push, the same"] = ["image", found, "--push", f"{address}/new:{number}"]
        for name, argv in steps.items():
            begin = time.perf_counter()
            tool(*argv, cwd=here)
            seconds.setdefault(name, []).append(time.perf_counter() - begin)
    return {name: statistics.median(each) for name, each in seconds.items()}


def measure(folder: Path, docker_host: str | None, times: int) -> dict[str, float]:
    """Seconds of each step on the demo's model."""
    tool = Tool(cache=folder / "cache", environment={"DOCKER_HOST": docker_host or f"unix://{folder}/none.sock"})
    demo = tool("demo", "--dir", folder / "project", "--json").json
    here, run_id = Path(demo["dir"]), demo["run_id"]
    cold = {
        "cold lock": demo["seconds"]["lock"],
        "cold stage (packages laid out and compiled)": demo["seconds"]["stage"],
    }
    lock = ["lock", run_id, "-o", folder / "conda-lock.yml"]
    steps: dict[str, Callable[[], object]] = {
        "kbuild lock, nothing changed": lambda: tool(*lock, cwd=here),
        "kbuild image, nothing changed": lambda: tool("image", run_id, cwd=here),
        "kbuild image --no-cache, native": lambda: tool("image", run_id, "--no-cache", cwd=here),
    }
    if docker_host is not None:
        steps["kbuild image --no-cache, buildkit"] = lambda: tool(
            "image", run_id, "--no-cache", "--engine", "buildkit", cwd=here
        )
    known = {name: timed(step, times) for name, step in steps.items()}
    if docker_host is None:
        return {**cold, **known, **new_models(tool, here, None, times)}
    with start_registry(folder / "registry") as registry:
        tool("image", run_id, "--push", f"{registry.address}/new:first", cwd=here)
        return {**cold, **known, **new_models(tool, here, registry.address, times)}


def main() -> None:
    """Print a table and write ``bench.json``."""
    if sys.argv[1:2] and sys.argv[1] in OTHERS:
        sys.argv = sys.argv[1:]
        runpy.run_path(str(Path(__file__).with_name(OTHERS[sys.argv[0]])), run_name="__main__")
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kbuild-bench-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            with start_engine(folder / "dockerd") as engine:
                seconds = measure(folder, engine.host, options.times)
        else:
            print("no root, so no private Docker engine: buildkit is left out", file=sys.stderr)
            seconds = measure(folder, None, options.times)
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    result = {"machine": machine, "versions": {p: version(p) for p in _PACKAGES}, "seconds": seconds}
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    native = seconds["kbuild image --no-cache, native"]
    print(f"{'step':<48} {'seconds':>8} {'of native build':>16}")
    for step, took in seconds.items():
        print(f"{step:<48} {took:>8.2f} {took / native:>16.2f}")


if __name__ == "__main__":
    main()
