from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from docker.errors import APIError, NotFound

from kbuild.digest import digest_bytes
from kbuild.errors import ContainerFailed, EngineUnavailable, InvalidImage, KbuildError
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.run.docker import DockerContainer, DockerDaemon
from kbuild.progress import Silent


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


class Failing:
    """A container whose daemon answers everything with one error."""

    short_id, status, client = "1a2b3c", "running", None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def _fail(self, *_: object, **__: object) -> object:
        raise self.error

    reload = logs = get_archive = stop = _fail


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (APIError("500 Server Error", explanation="containerd is gone"), ContainerFailed),
        (requests.ConnectionError("Connection refused"), EngineUnavailable),
    ],
    ids=["error of the API", "no daemon any more"],
)
@pytest.mark.parametrize("what", ["alive", "logs", "read_file", "stop"])
def test_what_the_daemon_fails_at_is_no_defect(what: str, error: Exception, kind: type[KbuildError]) -> None:
    container = DockerContainer(container=Failing(error), url="http://127.0.0.1:1")  # type: ignore[arg-type]
    arguments = ["/opt/kbuild"] if what == "read_file" else []
    with pytest.raises(kind, match=r"^Docker (cannot|does not) ") as caught:
        getattr(container, what)(*arguments)
    assert "containerd is gone" in caught.value.message or "onnection refused" in caught.value.message


def test_a_container_or_file_that_is_not_there_is_an_answer() -> None:
    gone = DockerContainer(container=Failing(NotFound("404")), url="http://127.0.0.1:1")  # type: ignore[arg-type]
    assert not gone.alive()
    assert gone.read_file("/x") is None
    gone.stop()


class Odd:
    """What a program says that is no Docker daemon, and what docker-py makes of it."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def ask(self, *_: object, **__: object) -> object:
        return self.answer["Id"]  # type: ignore[index]

    def archive(self, path: str) -> tuple[list[bytes], None]:
        return [b"<html>"], None

    get = create = reload = logs = stop = ask
    get_archive = archive


@pytest.mark.parametrize("answer", [[1], {}, None])
def test_what_answers_as_no_daemon_does_is_told_as_such(answer: object) -> None:
    odd = Odd(answer)
    daemon = DockerDaemon.__new__(DockerDaemon)
    daemon._client, daemon.version = SimpleNamespace(images=odd, containers=odd), "1"
    container = DockerContainer(container=odd, url="")
    reference = ImageReference.parse("churn")
    for ask in (
        lambda: daemon.find(reference),
        lambda: daemon.run(reference, progress=Silent()),
        container.alive,
        container.logs,
        container.stop,
        lambda: container.read_file("/x"),
    ):
        with pytest.raises(EngineUnavailable, match="what answers is not a Docker daemon"):
            ask()
