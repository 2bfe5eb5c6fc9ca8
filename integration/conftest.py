"""Fixtures of the integration tests: one private engine and one registry for the whole run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engines import DockerEngine, Registry, start_engine, start_registry
from servers import save_model
from tool import Tool, Trained


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
def tool(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    """kbuild with one cache for the whole session; no Docker is found unless a test names one."""
    folder = tmp_path_factory.mktemp("kbuild")
    return Tool(cache=folder / "cache", environment={"DOCKER_HOST": f"unix://{folder}/no-docker.sock"})


@pytest.fixture(scope="session")
def demo(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``kbuild demo --json`` printed, run once, without Docker and without conda."""
    return tool("demo", "--dir", tmp_path_factory.mktemp("demo") / "project", "--json").json


@pytest.fixture(scope="session")
def trained(demo: dict[str, Any]) -> Trained:
    """The demo's project and run."""
    return Trained(folder=Path(demo["dir"]), run_id=demo["run_id"])


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cheap tests' model of mixed columns, saved as MLflow saves models."""
    return save_model("mixed", tmp_path_factory.mktemp("mixed") / "model")
