"""An image measured, and served by what ``kbuild deploy`` wrote: Docker Compose, for real."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from engines import DockerEngine, Registry, free_port, require
from tool import Tool, Trained

SHORT = ("--seconds", "1", "--connections", "1,4")


@pytest.fixture(scope="module")
def pushed(tool: Tool, trained: Trained, registry: Registry) -> str:
    """The demo's image in a registry, by digest."""
    return tool("image", trained.run_id, "--push", f"{registry.address}/team/churn:1", cwd=trained.folder).out.strip()


@contextmanager
def composed(folder: Path, engine: DockerEngine) -> Iterator[None]:
    """``docker compose up`` with the file of a folder, and ``down``."""
    argv = ["docker", "compose", "--project-directory", str(folder)]
    try:
        up = subprocess.run([*argv, "up", "-d"], env=engine.env, capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        yield
    finally:
        subprocess.run([*argv, "down", "-t", "1"], env=engine.env, capture_output=True, check=False)


def ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except requests.RequestException:
            pass  # not up yet
        assert time.monotonic() < deadline
        time.sleep(0.2)


def check(profile: dict[str, Any], runtime: str, held: bool) -> None:
    """What no machine can be far from: the demo's server takes 100 to 500 MB and answers within a second."""
    assert profile["host"]["runtime"].startswith(runtime) and profile["host"]["held"] is held
    assert 0.3 < profile["start_seconds"] < 60
    assert 50e6 < profile["idle_bytes"] < 500e6 and profile["idle_bytes"] <= profile["peak_bytes"] * 1.05 < 600e6
    one, four = profile["loads"]
    assert [each["connections"] for each in (one, four)] == [1, 4]
    for each in (one, four):
        assert each["failed"] == 0 and each["answers"] > 3 and 0 < each["p50_ms"] <= each["p99_ms"] < 5000
        assert 0.05 < each["used"] < 1.6


def test_compose_serves_what_was_measured_with_trainings_answers(
    tool: Tool, trained: Trained, pushed: str, docker_engine: DockerEngine, tmp_path: Path
) -> None:
    measured = tool("measure", pushed, *SHORT, "--json", DOCKER_HOST=docker_engine.host).json
    check(measured, "Docker ", held=True)
    assert pushed.endswith(measured["digest"])
    port = free_port()
    done = tool("deploy", pushed, "--to", "compose", "-o", tmp_path / "out", "--port", str(port))
    assert f"on {measured['host']['processors']} processors" in done.err
    (service,) = yaml.safe_load((tmp_path / "out/compose.yaml").read_text())["services"].values()
    assert service["image"] == pushed and measured["peak_bytes"] < service["mem_limit"] < 2 * measured["peak_bytes"]
    url = f"http://127.0.0.1:{port}"
    with composed(tmp_path / "out", docker_engine):
        ready(url)
        example = (trained.model / "serving_input_example.json").read_bytes()
        answer = requests.post(
            f"{url}/invocations", data=example, headers={"Content-Type": "application/json"}, timeout=30
        )
        assert answer.status_code == 200
        assert answer.json() == json.loads((trained.model / "recorded_prediction.json").read_text())


@pytest.mark.parametrize(("runtime", "named"), [("bwrap", "bubblewrap"), ("unshare", "Linux namespaces")])
def test_every_runtime_measures(tool: Tool, pushed: str, runtime: str, named: str, tmp_path: Path) -> None:
    path = os.environ["PATH"]
    if runtime == "bwrap" and shutil.which("bwrap") is None:
        # Unpacked and not installed: all tests after it would have another runtime.
        require(shutil.which("apt-get") and os.geteuid() == 0, "bubblewrap comes from Debian, for root")
        subprocess.run(["apt-get", "-q", "download", "bubblewrap"], cwd=tmp_path, check=True, capture_output=True)
        (archive,) = tmp_path.glob("bubblewrap_*.deb")
        subprocess.run(["dpkg", "-x", archive, tmp_path], check=True)
        path = f"{tmp_path}/usr/bin{os.pathsep}{path}"
    shown = tool("measure", pushed, *SHORT, "--json", KBUILD_RUNTIME=runtime, PATH=path)
    check(shown.json, named, held=False)
