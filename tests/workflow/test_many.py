import queue
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import EngineUnavailable, InvalidModel
from kbuild.process import run
from kbuild.progress import Progress, Silent
from kbuild.workflow import Delivery, ImageRequest, Outcome, Tools, build_many, many


@contextmanager
def silent(phase: str) -> Iterator[Progress]:
    yield Silent()


class Watched:
    def __init__(self) -> None:
        self.ended: list[Outcome] = []

    def begin(self, model: str) -> Any:
        return silent

    def end(self, outcome: Outcome) -> None:
        self.ended.append(outcome)


def requests(count: int) -> list[ImageRequest]:
    return [ImageRequest(model=f"m{number}", lock=LockRequest(platforms=())) for number in range(count)]


def tools(tmp_path: Path) -> Tools:
    store: Any = None
    return Tools(store=store, run=run, cache=tmp_path, phases=silent)


class Bounded(queue.SimpleQueue[Any]):
    """Who waits for a builder that never comes is told so: without an end no assertion would be reached."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return super().get(block, timeout or 10)


def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, build: Any, count: int, **options: Any) -> Any:
    monkeypatch.setattr(many, "build_image", build)
    monkeypatch.setattr(many, "queue", SimpleNamespace(SimpleQueue=Bounded))
    return build_many(requests(count), Delivery(), tools(tmp_path), watcher=Watched(), **options)


def test_a_failure_stops_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(request: ImageRequest, *args: Any, **options: Any) -> str:
        if request.model == "m1":
            raise InvalidModel("broken")
        if request.model == "m2":
            raise RuntimeError("a defect")
        return request.model

    outcomes = {each.model: each for each in start(monkeypatch, tmp_path, build, 5, jobs=2)}
    assert [name for name, each in sorted(outcomes.items()) if each.result is not None] == ["m0", "m3", "m4"]
    assert outcomes["m1"].error is not None and outcomes["m1"].error.message == "broken"
    assert outcomes["m2"].error is not None and outcomes["m2"].error.message == "RuntimeError: a defect"


def test_stopping_ends_programs_and_long_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = threading.Barrier(3)

    def build(request: ImageRequest, delivery: Delivery, tools: Tools, **options: Any) -> str:
        if request.model == "m0":
            return "m0"
        begun.wait(10)
        if request.model == "m1":
            tools.run(["sleep", "60"])
        with tools.phases("build") as progress:
            while time.monotonic() < begin + 30:
                progress.note("on and on")
                time.sleep(0.01)
        return "nobody ended it"

    begin = time.monotonic()
    with closing(start(monkeypatch, tmp_path, build, 6, jobs=2)) as outcomes, pytest.raises(KeyboardInterrupt):
        for outcome in outcomes:
            assert outcome.model == "m0"
            begun.wait(10)
            time.sleep(0.1)
            raise KeyboardInterrupt
    assert time.monotonic() - begin < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("model")]


def test_stopping_while_the_work_is_being_handed_out_ends_it_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun = threading.Event()

    def build(request: ImageRequest, delivery: Delivery, tools: Tools, **options: Any) -> str:
        begun.set()
        tools.run(["sleep", "60"])
        return request.model

    def interrupted() -> Iterator[ImageRequest]:
        yield from requests(3)
        begun.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr(many, "build_image", build)
    begin = time.monotonic()
    handed: Any = interrupted()
    with pytest.raises(KeyboardInterrupt):
        list(build_many(handed, Delivery(), tools(tmp_path), watcher=Watched(), jobs=1))
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("reuse", [True, False])
def test_each_model_is_built_with_what_was_said_for_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reuse: bool
) -> None:
    given: list[tuple[Any, ...]] = []

    def build(request: ImageRequest, delivery: Delivery, tools: Tools, *, reuse: bool) -> str:
        given.append((request.model, delivery, tools.cache, reuse))
        return request.model

    list(start(monkeypatch, tmp_path, build, 2, jobs=1, reuse=reuse))
    assert given == [(model, Delivery(), tmp_path, reuse) for model in ("m0", "m1")]


def test_builders_share_and_one_that_is_gone_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def build(request: ImageRequest, *args: Any, **options: Any) -> str:
        asked.append(request.builder)
        time.sleep(0.01)
        if request.builder == "gone":
            raise EngineUnavailable("no answer")
        return str(request.builder)

    outcomes = list(start(monkeypatch, tmp_path, build, 12, jobs=3, builders=("gone", "a", "b")))
    assert {each.result for each in outcomes} == {"a", "b"}
    assert asked.count("gone") == 1


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("builders", [(), ("a",), ("a", "b"), ("a", "b", "c")])
def test_every_builder_has_its_turn_whatever_is_built_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: int, builders: tuple[str, ...]
) -> None:
    both = threading.Barrier(min(jobs, 3))

    def build(request: ImageRequest, *args: Any, **options: Any) -> str | None:
        both.wait(10)  # so many are built at once, and none takes what another one waits for
        return request.builder

    outcomes = list(start(monkeypatch, tmp_path, build, 6, jobs=jobs, builders=builders))
    assert [each.error for each in outcomes] == 6 * [None]
    assert {each.result for each in outcomes} == ({*builders} or {None})


def test_a_builder_that_is_named_twice_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str | None] = []

    def build(request: ImageRequest, *args: Any, **options: Any) -> str:
        asked.append(request.builder)
        if request.builder == "gone":
            raise EngineUnavailable("no answer")
        return str(request.builder)

    outcomes = list(start(monkeypatch, tmp_path, build, 4, jobs=1, builders=("gone", "gone", "a")))
    assert [each.result for each in outcomes] == 4 * ["a"] and asked.count("gone") == 1


def test_with_every_builder_gone_every_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(request: ImageRequest, *args: Any, **options: Any) -> str:
        raise EngineUnavailable(f"{request.builder} does not answer")

    outcomes = list(start(monkeypatch, tmp_path, build, 5, jobs=2, builders=("a", "b")))
    assert all(isinstance(each.error, EngineUnavailable) for each in outcomes)


@pytest.mark.parametrize("error", [InvalidModel("cut off"), RuntimeError("cut off")])
def test_what_was_stopped_failed_of_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    """Its programs were killed: that says nothing of the model, and nobody is told of it."""
    begun, watched = threading.Event(), Watched()
    asked: list[str] = []
    seen: list[Outcome] = []
    real = many.replace

    def build(request: ImageRequest, delivery: Delivery, tools: Tools, **options: Any) -> str:
        asked.append(request.model)
        if request.model == "m0":
            begun.wait(10)
            return "m0"
        begun.set()
        with suppress(KeyboardInterrupt):
            tools.run(["sleep", "60"])  # ended by whoever stops
        raise error

    def note(value: Any, **changes: Any) -> Any:
        changed = real(value, **changes)
        seen.extend([changed] if isinstance(changed, Outcome) else [])
        return changed

    monkeypatch.setattr(many, "build_image", build)
    monkeypatch.setattr(many, "replace", note)
    outcomes = build_many(requests(4), Delivery(), tools(tmp_path), watcher=watched, jobs=2)
    assert next(outcomes).model == "m0"
    outcomes.close()
    assert [each.model for each in watched.ended] == ["m0"]
    assert seen and all((each.error, each.result) == (None, None) for each in seen)
