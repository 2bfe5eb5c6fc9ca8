"""Benchmark of the scoring server: ours, ``mlflow models serve`` and a bare endpoint, side by side in one run.

    python integration/bench_serving.py [--seconds 5] [--json FILE] [--model FOLDER] [--only NAME ...]

All serve the demo's model from this environment on 127.0.0.1. The bare endpoint parses JSON, builds a table, calls the
inference nodes' plan and writes JSON: what nobody can be faster than by much. Load comes from a process of its own.
Ratios mean something, seconds only on this machine; a busy machine means nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
JSON = {"Content-Type": "application/json"}
BARE = """
import asyncio, sys
import mlflow.pyfunc, pandas as pd, uvicorn
try:
    from orjson import dumps, loads
except ImportError:
    import json
    loads = json.loads
    def dumps(value): return json.dumps(value).encode()
model = mlflow.pyfunc.load_model(sys.argv[1]).unwrap_python_model()
def score(body):
    split = loads(body)["dataframe_split"]
    table = pd.DataFrame(dict(zip(split["columns"], zip(*split["data"]))))
    out = model._plan.run({**model.loaded_inputs, model.input_name: table})[model.output_names[0]]
    names = list(out.columns)
    return dumps({"predictions": [dict(zip(names, row)) for row in zip(*[out[n].tolist() for n in names])]})
async def app(scope, receive, send):
    body = b""
    while scope["path"] == "/invocations":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    out = await asyncio.to_thread(score, body) if body else b"\\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(out)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": out})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning", lifespan="off")
"""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests a second, latencies in milliseconds."""

    server: str
    workers: int
    rows: int
    connections: int
    rate: float
    p50: float
    p99: float


def commands(model: Path) -> dict[str, Callable[[int, int], tuple[list[str], dict[str, str]]]]:
    """By server: argv and environment for a port and a number of workers."""

    def ours(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        variables = {"KBUILD_MODEL": str(model), "KBUILD_HOST": "127.0.0.1", "KBUILD_PORT": str(port)}
        return [sys.executable, "-m", "kbuild.serving"], {**variables, "KBUILD_WORKERS": str(workers)}

    def mlflow(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        words = ["models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1"]
        return [str(BIN / "mlflow"), *words, "-p", str(port), "-w", str(workers)], {
            "PATH": f"{BIN}:{os.environ['PATH']}"  # it starts uvicorn by name
        }

    def bare(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-c", BARE, str(model), str(port)], {}

    return {"bare": bare, "kbuild": ours, "mlflow": mlflow}


@contextmanager
def served(argv: list[str], environment: dict[str, str], port: int, question: bytes) -> Iterator[tuple[int, float]]:
    """Yields the process id and the seconds until it answered ``question``; ends it by its process group."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KBUILD_")}
    with tempfile.TemporaryFile() as log:
        begun = time.monotonic()
        process = subprocess.Popen(
            argv, env={**kept, "DO_NOT_TRACK": "1", **environment}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            while not answers(port, question):
                if process.poll() is not None or time.monotonic() - begun > 120:
                    log.seek(0)
                    raise SystemExit(f"{argv[0]} did not start: {log.read()[-500:].decode()}")
                time.sleep(0.02)
            yield process.pid, time.monotonic() - begun
        finally:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, 15)
            process.wait(30)


def answers(port: int, question: bytes) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/invocations", question, JSON)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def drive(port: int, body: bytes, connections: int, seconds: float, answer: Any) -> None:
    """Ask over kept connections for ``seconds``; sends all latencies in seconds to ``answer``."""
    latencies: list[float] = []
    end = time.monotonic() + seconds

    def one() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < end:
            begun = time.perf_counter()
            connection.request("POST", "/invocations", body, JSON)
            got = connection.getresponse()
            got.read()
            if got.status != 200:
                raise SystemExit(f"answered {got.status}")
            latencies.append(time.perf_counter() - begun)
        connection.close()

    threads = [threading.Thread(target=one) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer.send(latencies)


def ask_for(port: int, body: bytes, connections: int, seconds: float) -> list[float]:
    """The latencies, in seconds, of what another process asks meanwhile."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=drive, args=(port, body, connections, seconds, there))
    process.start()
    latencies: list[float] = here.recv()
    process.join()
    return latencies


def memory(pid: int) -> float:
    """PSS in MB of a process and all below it (proc(5), smaps_rollup)."""
    total, waiting = 0, [pid]
    while waiting:
        each = waiting.pop()
        text = Path(f"/proc/{each}/smaps_rollup").read_text()
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        waiting += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return total / 1000


def question_of(model: Path, rows: int) -> bytes:
    """The model's example, repeated to so many rows."""
    split = json.loads((model / "serving_input_example.json").read_text())["dataframe_split"]
    data = (split["data"] * (rows // len(split["data"]) + 1))[:rows]
    return json.dumps({"dataframe_split": {"columns": split["columns"], "data": data}}).encode()


def train() -> Path:
    """The demo project trained in a new folder; its model's folder."""
    from kbuild.demo import copy_project, train
    from kbuild.process import run
    from kbuild.progress import Silent

    folder = Path(tempfile.mkdtemp(prefix="kbuild-bench-")) / "project"
    copy_project(folder)
    train(folder, run, Silent())
    return next((folder / "mlartifacts" / "models").iterdir()) / "artifacts"


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each load")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--only", nargs="*", default=["bare", "kbuild", "mlflow"])
    options = parser.parse_args()
    model = options.model or train()
    loads: list[Load] = []
    sys.path.insert(0, str(HERE))
    from engines import free_port

    for workers in (1, 2):
        with contextlib.ExitStack() as running:
            ports: dict[str, int] = {}
            for name, command in commands(model).items():
                if name not in options.only or (name == "bare" and workers > 1):
                    continue
                ports[name] = free_port()
                argv, environment = command(ports[name], workers)
                running.enter_context(served(argv, environment, ports[name], question_of(model, 1)))
            loads += measure_loads(model, ports, workers, options.seconds)
    _print(loads)
    if options.json:
        options.json.write_text(json.dumps({"loads": [asdict(x) for x in loads]}, indent=1))


def measure_loads(model: Path, ports: dict[str, int], workers: int, seconds: float) -> list[Load]:
    """Every load on every server, a second of each in turn, so that what else the machine does falls on all."""
    found = []
    for rows, connections in ((1, 1), (1, 8), (1000, 1)):
        question = question_of(model, rows)
        latencies: dict[str, list[float]] = {name: [] for name in ports}
        for port in ports.values():
            ask_for(port, question, connections, 0.5)
        turns = max(1, round(seconds))
        for _ in range(turns):
            for name, port in ports.items():
                latencies[name] += ask_for(port, question, connections, seconds / turns)
        for name, each in latencies.items():
            each.sort()
            found.append(
                Load(
                    server=name,
                    workers=workers,
                    rows=rows,
                    connections=connections,
                    rate=len(each) / seconds,
                    p50=1000 * each[len(each) // 2],
                    p99=1000 * each[int(len(each) * 0.99)],
                )
            )
    return found


def _print(loads: list[Load]) -> None:
    base = {(x.workers, x.rows, x.connections): x.rate for x in loads if x.server == "mlflow"}
    print(f"{'server':8}{'workers':>8}{'rows':>6}{'conns':>6}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'x mlflow':>10}")
    for x in loads:
        against = base.get((x.workers, x.rows, x.connections))
        times = f"{x.rate / against:10.2f}" if against else f"{'':10}"
        print(f"{x.server:8}{x.workers:8}{x.rows:6}{x.connections:6}{x.rate:9.1f}{x.p50:9.2f}{x.p99:9.2f}{times}")


if __name__ == "__main__":
    main()
