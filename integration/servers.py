"""Servers as processes: our scoring server, ``mlflow models serve``, and MLflow's tracking server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from engines import free_port
from tool import BIN, Tool, running

SERVING_TESTS = Path(__file__).parent.parent / "tests" / "serving"


def save_model(name: str, folder: Path) -> Path:
    """One of the cheap tests' models, saved as MLflow saves models."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import models, pathlib; "
    code += "models.save_model(sys.argv[2], pathlib.Path(sys.argv[3]))"
    subprocess.run([BIN / "python", "-c", code, SERVING_TESTS, name, folder], check=True, capture_output=True)
    return folder


def environ(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("KBUILD_", "MLFLOW_"))}
    # MLflow tells names out of sets: two servers tell them in one order only with the same hashes.
    return {**kept, "DO_NOT_TRACK": "1", "PYTHONHASHSEED": "0", **more}


def wait(url: str, process: subprocess.Popen[bytes], log: Path, *, path: str = "ping") -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/{path}", timeout=5).status_code == 200:
                return
        except (requests.ConnectionError, requests.Timeout):
            pass  # not up yet
        time.sleep(0.1)
    pytest.fail(f"no answer: {log.read_text(encoding='utf-8')[-2000:]}")


@contextmanager
def ours(model: Path, folder: Path, **variables: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Our server of a model: its url and process."""
    port = free_port()
    env = environ(KBUILD_MODEL=str(model), KBUILD_HOST="127.0.0.1", KBUILD_PORT=str(port), **variables)
    log = folder / "ours.log"
    with running([BIN / "python", "-m", "kbuild.serving"], log, env=env) as process:
        wait(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}", process


@contextmanager
def theirs(model: Path, folder: Path) -> Iterator[str]:
    """``mlflow models serve`` of a model: its url."""
    port = free_port()
    argv = [BIN / "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-h", "127.0.0.1"]
    log = folder / "theirs.log"
    # It starts uvicorn through a shell: only the whole group can be ended.
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(word) for word in [*argv, "-p", port]],
            stdout=out, stderr=out, env=environ(PATH=f"{BIN}:{os.environ['PATH']}"), start_new_session=True,
        )  # fmt: skip
        try:
            wait(f"http://127.0.0.1:{port}", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


@contextmanager
def tracking_server(folder: Path, tool: Tool) -> Iterator[str]:
    """MLflow's tracking server, which also takes the artifacts: its uri."""
    uri = f"http://127.0.0.1:{free_port()}"
    argv: list[str | Path] = [
        BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2], "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts",
    ]  # fmt: skip
    log = folder / "log"
    with running(argv, log, env=tool.environ(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"), cwd=folder) as process:
        wait(uri, process, log, path="health")
        yield uri
