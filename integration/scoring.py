"""Scoring servers of the demo's pipeline as processes, for benchmarks: ours, others', and what they hold of memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import peers
from asking import answers
from engines import free_port

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
NAMES = ("bare", "kbuild", "peer", "peer-quiet", "mlflow", "mlserver")
Command = Callable[[int, int], tuple[list[str], dict[str, str]]]


def commands(model: Path, bare_site: Path | None = None) -> dict[str, Command]:
    """By server of our model: argv and environment for a port and a number of workers."""

    def ours(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        variables = {"KBUILD_MODEL": str(model), "KBUILD_HOST": "127.0.0.1", "KBUILD_PORT": str(port)}
        return [sys.executable, "-m", "kbuild.serving"], {**variables, "KBUILD_WORKERS": str(workers)}

    def bare(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        argv = [sys.executable, str(HERE / "bare.py"), str(model), str(port), str(workers)]
        # As in ours, see kbuild.serving.process.cpus.limit_pools; what is compared is what lies around the nodes.
        threads = {name: os.environ.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        return argv, {**threads, "PYTHONPATH": str(bare_site)}

    return {"bare": bare, "kbuild": ours, "mlflow": mlflow_command(model, {})}


def mlflow_command(model: Path, variables: dict[str, str]) -> Command:
    """``mlflow models serve`` of a model."""

    def command(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        words = ["models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1"]
        # It starts uvicorn by name.
        path = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        return [str(BIN / "mlflow"), *words, "-p", str(port), "-w", str(workers)], {**path, **variables}

    return command


def mlserver_command(model: Path, folder: Path, bin_folder: Path) -> Command:
    """MLServer of a model."""

    def command(port: int, workers: int) -> tuple[list[str], dict[str, str]]:
        settings = folder / f"mlserver{workers}"
        variables = peers.mlserver_variables(settings, model, (port, free_port(), free_port()), workers)
        return [str(bin_folder / "mlserver"), "start", str(settings)], {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            **variables,
        }

    return command


def all_commands(model: Path, folder: Path, names: list[str]) -> dict[str, Command]:
    """The commands of ``names``; what does not install is left out, with a word on stderr."""
    bare_site = peers.install(folder / "orjson", "orjson") if "bare" in names else None
    ours = {"kbuild", "mlflow", *(["bare"] if bare_site else [])} & {*names}
    found = {name: command for name, command in commands(model, bare_site).items() if name in ours}
    if {"peer", "peer-quiet"} & {*names} and (site := peers.install(folder / "kedro-mlflow", peers.KEDRO_MLFLOW)):
        project = folder / "peer"
        theirs = peers.train_peer(project, site)
        variables = {"PYTHONPATH": f"{site}:{project / 'src'}"}
        quiet = {**variables, "KEDRO_LOGGING_CONFIG": str(peers.write_quiet(folder))}
        found |= {"peer": mlflow_command(theirs, variables), "peer-quiet": mlflow_command(theirs, quiet)}
    if "mlserver" in names and (bin_folder := peers.install_mlserver(folder / "mlserver")):
        found["mlserver"] = mlserver_command(model, folder, bin_folder)
    return {name: found[name] for name in NAMES if name in found and name in names}


@contextmanager
def served(argv: list[str], environment: dict[str, str], port: int, question: bytes) -> Iterator[tuple[int, float]]:
    """Yields the process id and the seconds until it answered ``question``; ends it by its process group."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KBUILD_", "KEDRO_"))}
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
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:  # MLServer's workers, on a busy machine
                    os.killpg(process.pid, 9)
            process.wait(30)


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from tree(int(child))


def memory(pid: int, kind: str = "Pss") -> float:
    """PSS in MB of a process and all below it, or of a kind of its pages such as Pss_Anon (proc(5), smaps_rollup)."""
    lines = [
        line.split()
        for each in tree(pid)
        for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    ]
    return sum(int(words[1]) for words in lines if words[0] == f"{kind}:") / 1000


def memory_alone(pid: int) -> float:
    """What ``memory`` would be if no other server ran: pages of files, which others map too, count once, in full."""
    total = 0
    files: dict[tuple[str, ...], int] = {}
    for each in tree(pid):
        rollup = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="utf-8").splitlines()
        total += sum(int(line.split()[1]) for line in rollup if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
        mapping, resident = None, 0
        for line in Path(f"/proc/{each}/smaps").read_text(encoding="utf-8").splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                # Offset, device and inode of what is a file's.
                mapping = None if words[4] == "0" else tuple(words[2:5])
            elif words[0] == "Rss:":
                resident = int(words[1])
            elif words[0] == "Anonymous:" and mapping is not None:
                files[mapping] = max(files.get(mapping, 0), resident - int(words[1]))
    return (total + sum(files.values())) / 1000


def question_of(model: Path, rows: int) -> bytes:
    """The model's example, repeated to so many rows."""
    split = json.loads((model / "serving_input_example.json").read_text())["dataframe_split"]
    data = (split["data"] * (rows // len(split["data"]) + 1))[:rows]
    return json.dumps({"dataframe_split": {"columns": split["columns"], "data": data}}).encode()


def tensors_of(model: Path, rows: int) -> bytes:
    """The same as a request of the Open Inference Protocol."""
    split = json.loads(question_of(model, rows))["dataframe_split"]
    columns = zip(split["columns"], zip(*split["data"], strict=True), strict=True)
    inputs = [
        {"name": name, "datatype": "INT64" if type(values[0]) is int else "FP64", "shape": [rows, 1], "data": values}
        for name, values in columns
    ]
    return json.dumps({"inputs": inputs}).encode()


def train() -> Path:
    """The demo project trained in a new folder; its model's folder."""
    from kbuild.process import run
    from kbuild.progress import Silent
    from kbuild.workflow.demo import copy_project, train

    folder = Path(tempfile.mkdtemp(prefix="kbuild-bench-")) / "project"
    copy_project(folder)
    train(folder, run, Silent())
    return next((folder / "mlartifacts" / "models").iterdir()) / "artifacts"
