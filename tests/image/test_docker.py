from __future__ import annotations

import gc
from pathlib import Path

import pytest

from kbuild.errors import EngineUnavailable
from kbuild.image.docker import DockerDaemon


# docker-py leaves its socket open when nobody answers; the collector says so, here and not in a later test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_daemon_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/absent.sock")
    with pytest.raises(EngineUnavailable, match="no Docker daemon answers") as caught:
        DockerDaemon()
    assert "\n" not in caught.value.message
    assert "DOCKER_HOST" in str(caught.value.hint)
    del caught
    gc.collect()


def test_an_address_that_makes_no_sense_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "nonsense://x")
    with pytest.raises(EngineUnavailable):
        DockerDaemon()
