"""What a build of many models says while it goes on, and of each at its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.cli import many
from kbuild.cli.many import image_many
from kbuild.cli.show import Show
from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import InvalidModel, OutputError, SomeFailed
from kbuild.workflow import Delivery, ImageRequest, Outcome


def result(name: str, **given: Any) -> Any:
    facts = {"pushed": None, "untagged": None, "reused": False, "verified": None, "yanked": ()}
    return SimpleNamespace(reference=name, digest=f"digest of {name}", **(facts | given))


def built_by(work: Callable[[str, Any], Outcome]) -> Callable[..., Iterator[Outcome]]:
    """In place of ``build_many``: each model in turn, told of as the real one does."""

    def build_many(requests: Any, *_: Any, watcher: Any, **__: Any) -> Iterator[Outcome]:
        for request in requests:
            phases = watcher.begin(request.model)
            outcome = work(request.model, phases)
            watcher.end(outcome)
            yield outcome

    return build_many


def run(models: str, **given: Any) -> None:
    requests = [ImageRequest(model=name, lock=LockRequest(platforms=())) for name in models]
    tools: Any = None
    options: dict[str, Any] = {"jobs": 1, "builders": (), "reuse": True, "report": None, "to_json": None}
    image_many(requests, Delivery(), tools, Show(quiet=given.pop("quiet", False)), **(options | given))


@pytest.mark.parametrize("silent", [True, False])
def test_what_takes_long_is_told_where_nothing_else_was(
    silent: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(model: str, phases: Any) -> Outcome:
        with phases("stage") as progress:
            progress.note("compiling")
            progress.count(3, 9, "wheels")
        return Outcome(model=model, seconds=1.0, result=result("a@x"))

    monkeypatch.setattr(many, "build_many", built_by(work))
    monkeypatch.setattr(many.Lines, "_SILENCE", -1.0 if silent else 10.0)
    run("a")
    told = capsys.readouterr().err.splitlines()
    assert told == [
        *(["a stage: compiling", "a stage: compiling 3/9 wheels"] if silent else []),
        "[1/1] a built a@x (1.0 s)",
    ]


def test_each_model_has_a_line_on_each_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    def work(model: str, phases: Any) -> Outcome:
        with phases("build") as progress:
            progress.tell("the same for all")
            progress.made("never shown")
        if model == "c":
            return Outcome(model=model, seconds=0.25, error=InvalidModel("broken", hint="mend it"))
        yanked = ("one 1.0 is yanked",)
        return Outcome(model=model, seconds=61.04, result=result(f"{model}@x", reused=model == "b", yanked=yanked))

    monkeypatch.setattr(many, "build_many", built_by(work))
    report = tmp_path / "report.json"
    with pytest.raises(SomeFailed, match="1 of 3 models have no image") as caught:
        run("abc", report=report)
    assert "the other 2 have" in str(caught.value.hint)
    told = capsys.readouterr()
    assert told.out == "a\ta@x\nb\tb@x\n"
    assert told.err.splitlines() == [
        "a build: the same for all",
        "[1/3] a built a@x (61.0 s)",
        "one 1.0 is yanked",
        "[2/3] b reused b@x (61.0 s)",
        "[3/3] c failed: broken (0.2 s)",
        "c: broken",
    ]
    entries = json.loads(report.read_text())["models"]
    assert [(each["status"], each.get("image")) for each in entries] == [
        ("built", "a@x"), ("reused", "b@x"), ("failed", None)
    ]  # fmt: skip
    # Nobody's other file is lost for a folder of that name.
    with pytest.raises(OutputError, match="cannot write"):
        run("a", report=tmp_path)


def test_what_takes_long_tells_its_phase_once_in_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(many.time, "monotonic", lambda: clock.now)

    def work(model: str, phases: Any) -> Outcome:
        with phases("download") as progress:
            progress.note("fetching")
            clock.now += 9.9
            progress.count(1_000_000, 250_000_000)
            clock.now += 0.1
            progress.count(2_000_000, 250_000_000)
            clock.now += 9.9
            progress.count(3, 110, "packages")
            clock.now += 0.1
            progress.count(4, 110, "packages")
        return Outcome(model=model, seconds=1.0, result=result("a@x"))

    monkeypatch.setattr(many, "build_many", built_by(work))
    run("a", to_json=lambda each, seconds: {"name": each.reference, "seconds": seconds})
    told = capsys.readouterr()
    assert json.loads(told.out) == {"model": "a", "name": "a@x", "seconds": {"all": 1.0}}
    assert told.err.splitlines()[:-1] == [
        "a download: fetching 2.0/250.0 MB", "a download: fetching 4/110 packages"
    ]  # fmt: skip


def test_quiet_keeps_what_went_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work(model: str, phases: Any) -> Outcome:
        return Outcome(model=model, seconds=1.0, error=InvalidModel("broken"))

    monkeypatch.setattr(many, "build_many", built_by(work))
    with pytest.raises(SomeFailed) as caught:
        run("a", quiet=True)
    assert capsys.readouterr().err == "a: broken\n" and caught.value.hint is None, "none has an image"
