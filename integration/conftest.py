"""Fixtures of the integration tests: one private engine and one registry for the whole run."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from debian import DOCKER_20, DOCKER_28, unpack_engine
from engines import DockerEngine, Registry, install_engine, require, start_engine, start_registry
from environments import make_kbuild_wheel
from servers import save_model
from tool import INSTALLED, SHARED, Tool, Trained, link_parts


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the digests that tests recorded and what gave each, and their tables: a worker's own words nobody sees.

    Each worker trains a model of its own, so there is one digest a worker, and that of the small tree.
    """
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    recorded = [pair for report in reports if report.when == "call" for pair in report.user_properties]
    digests = [(name, value) for name, value in recorded if not name.startswith("table:")]
    for digest in dict.fromkeys(str(value) for _, value in digests):
        terminalreporter.write_line(digest)
        for name, value in digests:
            if value == digest:
                terminalreporter.write_line(f"    {name}")
    for title in dict.fromkeys(name for name, _ in recorded if name.startswith("table:")):
        rows = [value for name, value in recorded if name == title and isinstance(value, dict)]
        terminalreporter.section(title.removeprefix("table:"))
        for line in _table(rows):
            terminalreporter.write_line(line)


def _table(rows: list[dict[str, str]]) -> list[str]:
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


@pytest.fixture(scope="session")
def docker_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """A private Docker engine with the containerd image store."""
    with start_engine(tmp_path_factory.mktemp("dockerd")) as engine:
        yield engine


@pytest.fixture(scope="session")
def old_store_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """A private Docker engine that keeps images as Docker did before containerd."""
    with start_engine(tmp_path_factory.mktemp("dockerd-old"), containerd_store=False) as engine:
        yield engine


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A private registry on 127.0.0.1."""
    with start_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def docker_host(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    """The private engine, made the one that ``docker`` and kbuild find."""
    monkeypatch.setenv("DOCKER_HOST", docker_engine.host)
    return docker_engine


@pytest.fixture(scope="session")
def docker_20(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """Docker 20.10, from before the containerd store and zstd."""
    programs = unpack_engine(tmp_path_factory.getbasetemp().parent, *DOCKER_20)
    with start_engine(tmp_path_factory.mktemp("docker20"), containerd_store=False, programs=programs) as engine:
        yield engine


@pytest.fixture(scope="session")
def docker_28(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    """Docker 28, of two years after the one that is installed."""
    programs = unpack_engine(tmp_path_factory.getbasetemp().parent, *DOCKER_28)
    with start_engine(tmp_path_factory.mktemp("docker28"), programs=programs) as engine:
        yield engine


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program without libraries, from Debian."""
    install_engine()
    folder = tmp_path_factory.mktemp("busybox")
    got = subprocess.run(["apt-get", "-q", "download", "busybox-static"], cwd=folder, capture_output=True, text=True)
    require(got.returncode == 0, f"busybox-static cannot be downloaded: {got.stderr.strip()}")
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    return folder / "bin" / "busybox"


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """kbuild with one cache for the whole session; no Docker is found unless a test names one."""
    folder = tmp_path_factory.mktemp("kbuild")
    return Tool(cache=folder / "cache", environment={"DOCKER_HOST": f"unix://{folder}/no-docker.sock"})


@pytest.fixture(scope="session")
def demo(tool: Tool, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, Any]:
    """What ``kbuild demo --json`` printed, run once, without Docker and without conda.

    A second worker waits for the first, whose processes take all processors anyway, and is given what that downloaded
    and made of packages.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base if worker_id == "master" else base.parent) / "made-by-demo"
    argv = ["demo", "--dir", tmp_path_factory.mktemp("demo") / "project", "--json"]
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            said = tool(*argv).json
            # Copies, since the tests of this worker go on to change its cache.
            link_parts(tool.cache, made, (*SHARED, *INSTALLED))
            return said
    link_parts(made, tool.cache, (*SHARED, *INSTALLED))
    return tool(*argv).json


@pytest.fixture(scope="session")
def trained(demo: dict[str, Any]) -> Trained:
    """The demo's project and run."""
    return Trained(folder=Path(demo["dir"]), run_id=demo["run_id"])


@pytest.fixture(scope="session")
def kbuild_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kbuild as users get it."""
    return make_kbuild_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def kedro_mlflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with kedro-mlflow; what it depends on is here already."""
    folder = tmp_path_factory.mktemp("kedro-mlflow")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*command, "kedro-mlflow==2.0.3"], capture_output=True, text=True)
    require(done.returncode == 0, f"kedro-mlflow does not install: {done.stderr.strip()[-400:]}")
    return str(folder)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cheap tests' model of mixed columns, saved as MLflow saves models."""
    return save_model("mixed", tmp_path_factory.mktemp("mixed") / "model")
