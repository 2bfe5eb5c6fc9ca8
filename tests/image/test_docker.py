from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest

from kbuild.digest import digest_bytes
from kbuild.errors import EngineUnavailable, InvalidImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.run.docker import DockerDaemon


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


class Api:
    """A daemon's ``load_image`` that says one thing after another."""

    def __init__(self, *answers: list[dict[str, str]]) -> None:
        self.answers = list(answers)

    def load_image(self, data: object) -> list[dict[str, str]]:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("first", "loads"),
    [("parent snapshot sha256:1 does not exist: not found", 2), ("no space left on device", 1)],
)
def test_a_layer_that_was_collected_meanwhile_is_loaded_again(
    first: str, loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api([{"stream": "loading"}, {"error": first}], [{"stream": "loaded"}])
    daemon = DockerDaemon.__new__(DockerDaemon)
    daemon._client, daemon.version = SimpleNamespace(api=api), "26.1"
    digest = digest_bytes(b"manifest")
    image = SimpleNamespace(layout=Path("/nowhere"), digest=digest, config_digest=digest)
    monkeypatch.setattr("kbuild.image.run.docker.layout_tar", lambda *_, **__: iter(()))
    monkeypatch.setattr(DockerDaemon, "find", lambda *_: digest)
    if loads == 2:
        assert daemon.load(image, ImageReference.parse("churn")).keeps_digest
    else:
        with pytest.raises(InvalidImage, match="refuses the image: no space left"):
            daemon.load(image, ImageReference.parse("churn"))
    assert len(api.answers) == 2 - loads


def test_an_engine_that_reads_no_zstd_gets_the_layers_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api([{"error": "Error processing tar file(exit status 1): archive/tar: invalid tar header"}], [])
    daemon = DockerDaemon.__new__(DockerDaemon)
    daemon._client, daemon.version = SimpleNamespace(api=api), "20.10"
    image = SimpleNamespace(layout=Path("/nowhere"), digest=digest_bytes(b"manifest"), config_digest=digest_bytes(b"c"))
    asked: list[object] = []
    monkeypatch.setattr("kbuild.image.run.docker.layout_tar", lambda *_, **__: iter(()))
    monkeypatch.setattr("kbuild.image.run.docker.docker_archive", lambda *words: asked.append(words) or iter(()))
    monkeypatch.setattr(DockerDaemon, "find", lambda *_: image.config_digest)
    loaded = daemon.load(image, ImageReference.parse("churn"))
    assert loaded.unpacked and not loaded.keeps_digest
    assert asked == [(image.layout, image.digest, ImageReference.parse("churn:latest"))]


@pytest.mark.parametrize("found", [digest_bytes(b"another"), None])
def test_another_image_under_the_name_that_was_loaded_is_told(found: object, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = DockerDaemon.__new__(DockerDaemon)
    daemon._client, daemon.version = SimpleNamespace(api=Api([{"stream": "loaded"}])), "26.1"
    image = SimpleNamespace(
        layout=Path("/nowhere"), digest=digest_bytes(b"manifest"), config_digest=digest_bytes(b"config")
    )
    monkeypatch.setattr("kbuild.image.run.docker.layout_tar", lambda *_, **__: iter(()))
    monkeypatch.setattr(DockerDaemon, "find", lambda *_: found)
    with pytest.raises(InvalidImage, match=str(image.digest)):
        daemon.load(image, ImageReference.parse("churn"))
