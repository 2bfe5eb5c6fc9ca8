"""What one room asks of the next: each thing that was stated is handed on under its own name, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from world import HOST, World

from kbuild.answers import DEFAULT, EXACT
from kbuild.api.running import RunOptions, started
from kbuild.api.session import Logged, Session
from kbuild.api.verifying import VerifyOptions, verify
from kbuild.errors import ConfigurationError, VerificationFailed
from kbuild.image.store.local import LocalImages
from kbuild.progress import Silent
from kbuild.project.config import ProjectConfig
from kbuild.verify.judging import judge_image
from kbuild.verify.verify_image import verify_image
from kbuild.workflow import Delivery, build_image
from kbuild.workflow.delivery import verify_built
from kbuild.workflow.once import Shared


class Heard(Exception):
    """Ends the work where it has come to what is looked at."""


@pytest.fixture
def hear(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Has a function, as ``module:name``, note what it is given, and answer or end the work."""

    def listen(where: str, *answer: Any) -> dict[str, Any]:
        module, _, name = where.partition(":")
        form = inspect.signature(getattr(import_module(module), name))
        given: dict[str, Any] = {}

        def stand_in(*args: Any, **more: Any) -> Any:
            bound = form.bind(*args, **more)
            bound.apply_defaults()
            given.update(bound.arguments)
            if not answer:
                raise Heard
            return answer[0]

        monkeypatch.setattr(f"{module}.{name}", stand_in)
        return given

    return listen


Hear = Callable[..., dict[str, Any]]


def part(given: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in expected}


@pytest.fixture
def image(world: World) -> Any:
    return build_image(world.request(), Delivery(record=False, tag="till:1"), world.tools).image


def session_of(world: World) -> Session:
    return Session(config=ProjectConfig(), tools=replace(world.tools, shared=Shared()), voice=Logged())


def test_what_verify_was_asked_for_reaches_who_judges(world: World, image: Any, hear: Hear) -> None:
    given = hear("kbuild.api.verifying:judge_image")
    asked = VerifyOptions(timeout=7.5, rtol=0.25)
    session = session_of(world)
    with pytest.raises(Heard):
        verify("till:1", asked, session=session)
    expected = {"run": session.tools.run, "cache": session.tools.cache, "timeout": 7.5, "option": "--timeout"}
    assert part(given, expected) == expected and given["image"].digest == image.digest
    assert given["choose"](DEFAULT) == replace(DEFAULT, relative=0.25, relative_single=0.25)


@pytest.mark.parametrize("more", [{"rtol": 0.1}, {"atol": 0.1}])
def test_exact_allows_no_difference(more: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="exact allows no difference: leave out rtol and atol"):
        verify("till:1", VerifyOptions(exact=True, **more), session=SimpleNamespace())  # type: ignore[arg-type]
    assert VerifyOptions(exact=True).choose(DEFAULT) == EXACT


def test_what_a_build_verifies_with_reaches_who_judges(world: World, image: Any, hear: Hear) -> None:
    given = hear("kbuild.verify.judging:judge_image")
    looked: list[object] = []
    with pytest.raises(Heard):
        verify_built(
            {HOST: image}, LocalImages(world.tools.cache / "images"), world.tools, Delivery(patience=9.5),
            again=False, look=looked.append,
        )  # fmt: skip
    # The hint of an image that is too slow names the option of the command that was typed.
    expected = {
        "image": image, "run": world.tools.run, "cache": world.tools.cache, "timeout": 9.5,
        "option": "--verify-timeout",
    }  # fmt: skip
    assert part(given, expected) == expected and looked == [given["progress"]]
    assert given["choose"](DEFAULT) == DEFAULT


@pytest.mark.parametrize("record", [True, False])
def test_who_judges_tells_the_run_only_where_it_is_recorded(
    world: World, image: Any, monkeypatch: pytest.MonkeyPatch, record: bool
) -> None:
    def judge(image: Any, run: Any, *, tell: Callable[[str], None], **_: Any) -> None:
        tell("failed")
        raise VerificationFailed("no", hint="look")

    monkeypatch.setattr("kbuild.verify.judging.judge_image", judge)
    images = LocalImages(world.tools.cache / "images")
    with pytest.raises(VerificationFailed) as caught:
        verify_built({HOST: image}, images, world.tools, Delivery(record=record), again=False, look=lambda _: None)
    assert [tags["kbuild.verify"] for _, tags, _ in world.store.tags] == ["failed"] * record
    assert str(caught.value.hint).startswith("look; the image was given to nobody; kbuild run sha256:")
    assert str(caught.value.hint).endswith(" starts it, --no-verify delivers it all the same")


def test_who_judges_hands_on_what_the_image_is_asked_with(tmp_path: Path, hear: Hear) -> None:
    given = hear("kbuild.verify.judging:verify_image")
    stated = {
        "cache": tmp_path, "timeout": 3.5, "progress": Silent(), "option": "--x", "choose": lambda own: own,
    }  # fmt: skip
    with pytest.raises(Heard):
        judge_image("the image", "the runner", tell=lambda _: None, **stated)  # type: ignore[arg-type]
    assert given == {"image": "the image", "run": "the runner", **stated}


def test_an_image_is_started_on_a_free_port_and_stopped(tmp_path: Path, hear: Hear) -> None:
    stopped: list[str] = []
    running = SimpleNamespace(stop=lambda: stopped.append("stopped"), read_file=lambda path: b"{}")
    start = hear("kbuild.verify.verify_image:start_image", running)
    wait = hear("kbuild.verify.verify_image:wait_until_ready", None)
    ask = hear("kbuild.verify.verify_image:verify_predictions")
    progress = Silent()
    with pytest.raises(Heard):
        verify_image(
            "the image", "the runner", cache=tmp_path, timeout=4.5, progress=progress, option="--y",
            choose=lambda own: EXACT,
        )  # type: ignore[arg-type]  # fmt: skip
    expected = {"port": None, "cache": tmp_path, "run": "the runner", "progress": progress}
    assert part(start, expected) == expected and stopped == ["stopped"]
    assert not start["log"].parent.exists(), "the log's folder goes with the image"
    expected = {"running": running, "timeout": 4.5, "progress": progress, "option": "--y"}
    assert part(wait, expected) == expected
    expected = {
        "running": running, "model_path": "/opt/model", "example": None, "prediction": None, "tolerance": EXACT,
        "own": DEFAULT, "timeout": 4.5,
    }  # fmt: skip
    assert part(ask, expected) == expected


@pytest.mark.parametrize("ready", [True, False])
def test_what_run_was_asked_for_reaches_who_starts(world: World, image: Any, hear: Hear, ready: bool) -> None:
    stopped: list[str] = []
    running = SimpleNamespace(stop=lambda: stopped.append("stopped"), started=0.0, url="")
    start = hear("kbuild.api.running:start_image", running)
    wait = hear("kbuild.api.running:wait_until_ready", *([None] if ready else []))
    session = session_of(world)
    asked = RunOptions(port=None, timeout=2.5)
    with (
        pytest.raises(Heard) if not ready else nullcontext(),
        started("till:1", asked, session, environment={"A": "b"}, processors=1.5) as found,
    ):
        assert not stopped and found.digest == image.digest and found.platform == str(HOST)
        assert found.reference.familiar == "till:1"
    expected = {
        "port": None, "environment": {"A": "b"}, "cache": session.tools.cache, "run": session.tools.run,
        "processors": 1.5,
    }  # fmt: skip
    assert part(start, expected) == expected and stopped == ["stopped"]
    assert (wait["timeout"], wait["option"]) == (2.5, "--timeout")


def test_what_a_base_is_looked_for_with(world: World, hear: Hear) -> None:
    given = hear("kbuild.workflow.prepare:resolve_base")
    request = world.request(debian_mirror="https://mirror.example/debian", allow_unsigned_base=True)
    with pytest.raises(Heard):
        build_image(replace(request, lock=replace(request.lock, locked=True)), Delivery(), world.tools)
    expected = {
        "platform": HOST, "recorded": None, "locked": True, "cache": world.tools.cache,
        "settings": {"debian-mirror": "https://mirror.example/debian", "allow-unsigned": True},
    }  # fmt: skip
    assert part(given, expected) == expected


@pytest.mark.parametrize("reuse", [True, False])
def test_what_an_image_is_built_with(world: World, hear: Hear, reuse: bool) -> None:
    given = hear("kbuild.workflow.build:build")
    request = world.request(builder="remote", network="host", compression="gzip", engine="native")
    with pytest.raises(Heard):
        build_image(request, Delivery(), world.tools, reuse=reuse)
    prepared = given["prepared"]
    assert (prepared.settings.builder, prepared.settings.network) == ("remote", "host")
    assert dict(prepared.settings.contexts) == {} and prepared.compression == "gzip"
    assert (prepared.platform, prepared.cache_from, given["reuse"]) == (HOST, None, reuse)
    assert given["request"].engine == "native"
