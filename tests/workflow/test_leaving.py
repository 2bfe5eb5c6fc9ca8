"""A watch that leaves builds to a queue, and what the workers write into the versions' tags."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.api.fleet import watching
from kbuild.api.fleet.queueing import tell_end
from kbuild.api.fleet.watching import WatchOptions, open_watch
from kbuild.api.request import ImageOptions
from kbuild.api.session import open_session
from kbuild.errors import BuildFailed, InvalidModel, QueueUnavailable, TrackingUnavailable
from kbuild.model.find import RegisteredVersion
from kbuild.project.config import ProjectConfig
from kbuild.tracking.image_tags import Tag
from kbuild.workflow.fleet.leaving import LeavingWatch
from kbuild.workflow.fleet.wanted import Rules
from kbuild.workflow.many import Outcome
from kbuild.workflow.queue.asked import Asked

DIGEST = "sha256:" + "b" * 64
PUSH = "registry.example/{name}:{version}"


def version(number: str, **more: Any) -> RegisteredVersion:
    return RegisteredVersion(
        name="churn", version=number, created=float(number), ready=True, **{"tags": {}, "aliases": (), **more}
    )


class Fleet:
    """MLflow's registry, and a queue."""

    def __init__(self, *versions: RegisteredVersion) -> None:
        self.kept = {str(each.version): each for each in versions}
        self.queued: dict[str, bool] = {}
        self.dropped: set[str] = set()
        self.told: list[str] = []
        self.away = self.down = False

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        if self.down:
            raise TrackingUnavailable("nobody answers")
        return list(self.kept.values())

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        number = str(version.version)
        merged = {**self.kept[number].tags, **tags}
        self.kept[number] = replace(self.kept[number], tags={k: v for k, v in merged.items() if v})

    def put(self, model: str, *, first: bool) -> None:
        if self.away:
            raise QueueUnavailable("away")
        self.queued[model] = first

    def live(self, models: Collection[str]) -> set[str]:
        return {each for each in models if each in self.queued}

    def cancelled(self, models: Collection[str]) -> set[str]:
        return {each for each in models if each in self.dropped}

    def say(self, text: str, *, style: str | None = None) -> None:
        self.told.append(text)

    complain = say

    def watch(self, *aliases: str) -> LeavingWatch:
        return LeavingWatch(
            registry=self, rules=Rules(push=PUSH, aliases=aliases), teller=self,
            build=lambda _: pytest.fail("it builds nothing"), retag=lambda source, target: True,
            queue=self, clock=lambda: 1000.0,
        )  # type: ignore[arg-type]  # fmt: skip


def test_each_version_is_left_to_the_queue_once_and_an_alias_goes_first() -> None:
    fleet = Fleet(version("1"), version("2", aliases=("champion",)))
    watch = fleet.watch()
    assert [str(each.version) for each in watch.run_once()] == ["models:/churn/2", "models:/churn/1"]
    assert fleet.queued == {"models:/churn/2": True, "models:/churn/1": False}
    assert fleet.watch().run_once() == []
    wanted = watch.reconcile()
    assert wanted.builds == [] and wanted.again == 1030.0  # looked at again soon: an alias waits


def test_an_alias_that_becomes_no_tag_waits_like_others() -> None:
    fleet = Fleet(version("1", aliases=("seen",)), version("2", aliases=("seen", "champion")))
    fleet.watch("champion").run_once()
    assert fleet.queued == {"models:/churn/2": True, "models:/churn/1": False}


def test_what_somebody_cancelled_is_not_left_there_again() -> None:
    fleet = Fleet(version("1"), version("2"))
    fleet.dropped = {"models:/churn/1"}
    watch = fleet.watch()
    assert [str(each.version) for each in watch.run_once()] == ["models:/churn/2"]
    fleet.queued.clear()
    fleet.dropped = {"models:/churn/1", "models:/churn/2"}
    wanted = watch.reconcile()
    assert (wanted.builds, wanted.again) == ([], None)  # and nothing is to be looked for soon


def test_a_queue_that_is_away_is_said_and_asked_again() -> None:
    fleet = Fleet(version("1"))
    fleet.away = True
    with pytest.raises(QueueUnavailable):
        fleet.watch().run_once()
    fleet.away = False
    assert len(fleet.watch().run_once()) == 1


def test_a_worker_tells_the_version_what_became_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(version("1"), version("2"))
    monkeypatch.setattr(watching, "open_registry", lambda session: fleet)
    session: Any = SimpleNamespace(voice=fleet)
    result: Any = SimpleNamespace(
        reference=f"churn@{DIGEST}", digest=DIGEST, pushed=f"registry.example/churn@{DIGEST}", reused=False
    )
    watching.tell_version("models:/churn/1", result, ImageOptions(push=PUSH), session)
    assert fleet.kept["2"].tags == {}  # nothing of another version's image
    watching.tell_version("models:/churn/2", InvalidModel("no model"), ImageOptions(push=PUSH), session)
    assert fleet.kept["1"].tags[Tag.NAMED] == f"registry.example/churn:1@{DIGEST}"
    assert fleet.kept["2"].tags[Tag.ERROR] == "no model" and fleet.kept["2"].tags[Tag.ATTEMPTS] == "1"
    assert fleet.watch().reconcile().builds == []  # one is built, the other is tried again later
    fleet.down = True
    watching.tell_version("models:/churn/1", result, ImageOptions(push=PUSH), session)
    assert "models:/churn/1 is not told of it" in fleet.told[-1]


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Outcome(model="models:/churn/1", error=BuildFailed("3 workers ended")), "3 workers ended"),
        (Outcome(model="models:/churn/1"), "its job was cancelled"),
    ],
)
@pytest.mark.parametrize("options", [{"push": PUSH}, {"push": 3}, "of another release"])
def test_an_end_without_a_build_is_told_too(
    outcome: Outcome, says: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(version("1"))
    monkeypatch.setattr(watching, "open_registry", lambda session: fleet)
    session: Any = SimpleNamespace(voice=fleet)
    tell_end({"watched": True, "options": options}, outcome, session)
    assert fleet.kept["1"].tags[Tag.ERROR].startswith(says) and fleet.watch().reconcile().builds == []


@pytest.mark.parametrize(("push", "named"), [(PUSH, "registry.example/churn:1"), (None, None)])
def test_an_image_is_told_by_the_name_that_its_job_pushed_it_under(
    push: str | None, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(version("1"))
    monkeypatch.setattr(watching, "open_registry", lambda session: fleet)
    session: Any = SimpleNamespace(voice=fleet)
    result: Any = SimpleNamespace(
        reference=f"churn@{DIGEST}", digest=DIGEST, pushed=push and f"r/x@{DIGEST}", reused=False
    )
    tell_end({"watched": True, "options": {"push": push}}, Outcome(model="models:/churn/1", result=result), session)
    assert fleet.kept["1"].tags.get(Tag.NAMED) == (named and f"{named}@{DIGEST}")


def test_a_job_that_names_no_model_is_told_to_nobody() -> None:
    fleet = Fleet(version("1"))
    session: Any = SimpleNamespace(voice=fleet)
    tell_end({"watched": True}, Outcome(model="no such thing", error=InvalidModel("no model")), session)
    assert "no such thing is not told of it" in fleet.told[-1]


def test_a_watch_with_a_queue_puts_what_it_wants_into_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    class Board:
        def put(self, jobs: Any, *, priority: int) -> None:
            asked.append(("put", [(each.model, each.watched, each.options["push"], priority) for each in jobs]))

        def live(self, jobs: Any) -> set[str]:
            asked.append(("live", [(each.model, each.options["push"]) for each in jobs]))
            return {jobs[0].model}

        def cancelled(self, jobs: Any) -> set[str]:
            asked.append(("cancelled", [(each.model, each.options["push"]) for each in jobs]))
            return {jobs[-1].model}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracking.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path}/registry.db")
    image = ImageOptions(push=PUSH)
    watch = open_watch(
        WatchOptions(image=image, every=7.0, models=("churn*",)),
        session=open_session(),
        board=Board(),  # type: ignore[arg-type]
    )
    assert isinstance(watch, LeavingWatch) and watch.every == 7.0
    assert watch.rules == Rules(push=PUSH, models=("churn*",))
    store = watch.registry.store  # type: ignore[attr-defined]
    assert (store.tracking_uri, store.registry_uri) == (
        f"sqlite:///{tmp_path}/tracking.db", f"sqlite:///{tmp_path}/registry.db",
    )  # fmt: skip
    watch.queue.put("models:/churn/1", first=True)
    watch.queue.put("models:/churn/2", first=False)
    both = ["models:/churn/1", "models:/churn/2"]
    assert watch.queue.live(both) == {both[0]} and watch.queue.cancelled(both) == {both[1]}
    pushed = [(each, PUSH) for each in both]
    assert asked == [
        ("put", [(both[0], True, PUSH, 1)]), ("put", [(both[1], True, PUSH, 0)]), ("live", pushed),
        ("cancelled", pushed),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("aliases", "named"),
    [((), ["canary", "champion"]), (("champ*",), ["champion"]), (("other",), [])],
)
def test_a_worker_has_the_aliases_that_are_followed_name_what_it_built(
    aliases: tuple[str, ...], named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watch with --once has ended by then: until the next one the tag named the image before."""
    fleet = Fleet(version("1", aliases=("champion", "canary")), version("2", aliases=("old",)))
    board: Any = SimpleNamespace(
        put=lambda asked, **_: put.extend(asked), live=lambda _: set(), cancelled=lambda _: set()
    )
    put: list[Any] = []
    tagged: list[tuple[str, str]] = []
    monkeypatch.setattr(watching, "open_registry", lambda session: fleet)
    monkeypatch.setattr(
        watching, "retag", lambda source, target: bool(tagged.append((str(source), str(target)))) or True
    )
    session: Any = SimpleNamespace(voice=fleet, config=ProjectConfig(), tools=None)
    options = WatchOptions(aliases=aliases, image=ImageOptions(push=PUSH))
    open_watch(options, session=session, board=board).run_once()
    stated = next(each for each in put if each.model == "models:/churn/1").to_json()
    assert Asked.from_json(stated).to_json() == stated
    result: Any = SimpleNamespace(
        reference=f"churn@{DIGEST}", digest=DIGEST, pushed=f"registry.example/churn@{DIGEST}", reused=False
    )
    tell_end(stated, Outcome(model="models:/churn/1", error=BuildFailed("no")), session)
    assert tagged == []
    tell_end(stated, Outcome(model="models:/churn/1", result=result), session)
    assert sorted(tagged) == [(f"registry.example/churn@{DIGEST}", f"registry.example/churn:{each}") for each in named]
