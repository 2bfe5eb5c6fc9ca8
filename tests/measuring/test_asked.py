"""What ``kbuild.measure`` starts an image with, asks it, and keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.api import measuring
from kbuild.api.measuring import MeasureOptions, measure
from kbuild.api.running import RunOptions
from kbuild.errors import ConfigurationError
from kbuild.image.oci.image_reference import ImageReference

CHURN = ImageReference.parse("churn:1")
EXAMPLE = b'{"inputs": [1]}'


class World:
    """A machine of four processors, an image that is ready after 2.5 seconds, and what was asked of both."""

    def __init__(self, cache: Path) -> None:
        self.example: bytes | None = EXAMPLE
        self.started: list[Any] = []
        self.measured: list[Any] = []
        self.kept: list[Any] = []
        progress = SimpleNamespace(made=lambda text: None)
        self.session: Any = SimpleNamespace(
            tools=SimpleNamespace(cache=cache), voice=lambda phase: nullcontext(progress)
        )
        self.running = SimpleNamespace(host=lambda: SimpleNamespace(processors=4))

    @contextmanager
    def start(self, image: Any, asked: Any, session: Any, **more: Any) -> Iterator[Any]:
        self.started.append((image, asked, more))
        yield SimpleNamespace(
            running=self.running, digest="sha256:1", platform="linux/amd64", seconds=2.5, reference=CHURN
        )

    def measure(self, running: Any, body: bytes, what: Any, **more: Any) -> Any:
        more.pop("progress")
        self.measured.append((running is self.running, body, what, more))
        return SimpleNamespace(best=SimpleNamespace(told="fast"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "cache")

    class Profiles:
        def __init__(self, root: Path) -> None:
            self.root = root

        def write(self, profile: Any) -> None:
            made.kept.append((self.root, profile))

    monkeypatch.setattr(measuring, "started", made.start)
    monkeypatch.setattr(measuring, "measure_image", made.measure)
    monkeypatch.setattr(measuring, "Profiles", Profiles)
    monkeypatch.setattr(measuring, "read_example", lambda running: made.example)
    return made


def test_it_is_started_with_a_worker_a_processor_and_asked_its_own_example(world: World, tmp_path: Path) -> None:
    run = RunOptions(timeout=7.0)
    options = MeasureOptions(cpu="2500m", connections=(2, 16), seconds=3.0, run=run)
    found = measure("churn:1", options, session=world.session)
    ((image, asked, more),) = world.started
    assert (image, asked) == ("churn:1", run)
    workers = more["environment"]["KBUILD_WORKERS"]
    assert more == {"environment": {"KBUILD_WORKERS": workers}, "processors": 2.5} and workers in ("2", "3")
    ((same, body, what, loads),) = world.measured
    assert same and body == EXAMPLE and loads == {"connections": (2, 16), "seconds": 3.0}
    assert (what.digest, what.platform, what.cpu, what.start) == ("sha256:1", "linux/amd64", "2500m", 2.5)
    assert str(what.workers) == workers
    assert (found.image, found.digest) == ("churn:1", "sha256:1")
    assert world.kept == [(tmp_path / "cache/images", found.profile)]


def test_a_request_of_ones_own_is_asked_in_its_place(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"inputs": [2]}')
    world.example = None
    measure(None, MeasureOptions(request=tmp_path / "mine.json"), session=world.session)
    assert world.measured[0][1] == b'{"inputs": [2]}'
    with pytest.raises(ConfigurationError, match=r"gone\.json cannot be read"):
        measure(None, MeasureOptions(request=tmp_path / "gone.json"), session=world.session)
    assert len(world.started) == 1, "before anything is started"


@pytest.mark.parametrize(("cpu", "fits"), [("4", True), ("4001m", False), ("5", False)])
def test_no_more_processors_than_there_are(world: World, cpu: str, fits: bool) -> None:
    if fits:
        measure("churn:1", MeasureOptions(cpu=cpu), session=world.session)
        return
    with pytest.raises(ConfigurationError, match=f"has 4 processors, and {cpu} were asked for") as caught:
        measure("churn:1", MeasureOptions(cpu=cpu), session=world.session)
    assert "--cpu 4" in str(caught.value.hint) and world.measured == world.kept == []


def test_a_model_without_an_example_needs_a_request(world: World) -> None:
    world.example = None
    with pytest.raises(ConfigurationError, match="without an example") as caught:
        measure("churn:1", session=world.session)
    assert "--request FILE" in str(caught.value.hint) and world.kept == []
