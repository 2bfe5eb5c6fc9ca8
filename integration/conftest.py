"""Fixtures of the integration tests: one private engine and one registry for the whole run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engines import DockerEngine, Registry, start_engine, start_registry


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
