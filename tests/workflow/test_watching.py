"""Watching: what is done to a registry that is told of in a list."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.api.fleet.watching import parse_duration, parse_since
from kbuild.errors import BuildFailed, ConfigurationError, RegistryError, TrackingUnavailable
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.find import RegisteredVersion
from kbuild.workflow.fleet import watching
from kbuild.workflow.fleet.failed import Failed, pause
from kbuild.workflow.fleet.wanted import Rules, Wanted
from kbuild.workflow.fleet.watching import Watch

DIGEST = "sha256:" + "b" * 64


class Fleet:
    """A registry of MLflow, one of images, and builds; ``broken`` fails, ``down`` answers nothing."""

    def __init__(self, *versions: RegisteredVersion) -> None:
        self.kept = {(each.name, str(each.version)): each for each in versions}
        self.built: list[str] = []
        self.names: dict[str, str] = {}
        self.broken: set[str] = set()
        self.down = self.read_only = False
        self.told: list[str] = []
        self.now = 1_800_000_000.0
        self.held = threading.Event()
        self.held.set()

    def versions(self, name: str | None = None) -> list[RegisteredVersion]:
        if self.down:
            raise TrackingUnavailable("nobody answers")
        return [each for each in self.kept.values() if name in (None, each.name)]

    def tag(self, version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        if self.read_only:
            raise TrackingUnavailable("you may only read")
        now = self.kept[version.name, str(version.version)]
        merged = {**now.tags, **tags}
        self.kept[version.name, str(version.version)] = replace(now, tags={k: v for k, v in merged.items() if v})

    def build(self, model: str) -> Any:
        self.held.wait(10)
        self.built.append(model)
        if model in self.broken:
            raise BuildFailed("no room")
        name = model.removeprefix("models:/").partition("/")[0]
        return SimpleNamespace(reference=f"{name}@{DIGEST}", digest=DIGEST, pushed=f"registry.example/{name}@{DIGEST}")

    def retag(self, source: ImageReference, target: ImageReference) -> bool:
        if "unreachable" in self.broken:
            raise RegistryError("no answer")
        was, self.names[str(target)] = self.names.get(str(target)), str(source)
        return was != str(source)

    def say(self, text: str, *, style: str | None = None) -> None:
        self.told.append(text)

    complain = say

    def watch(self, **more: Any) -> Watch:
        rules = Rules(push="registry.example/{name}:{version}")
        return Watch(
            registry=self, rules=rules, build=self.build, teller=self, clock=lambda: self.now, retag=self.retag, **more
        )  # type: ignore[arg-type]

    def alias(self, name: str, number: str, *aliases: str) -> None:
        self.kept[name, number] = replace(self.kept[name, number], aliases=aliases)


def version(name: str, number: int, *aliases: str) -> RegisteredVersion:
    return RegisteredVersion(name=name, version=str(number), aliases=aliases)


def test_all_that_was_registered_meanwhile_is_built_once_and_tagged() -> None:
    fleet = Fleet(version("churn", 1), version("churn", 2), version("churn", 3, "champion"))
    done = fleet.watch().run_once()
    assert [str(each.version) for each in done] == ["models:/churn/3", "models:/churn/1", "models:/churn/2"]
    assert fleet.names == {"registry.example/churn:champion": f"registry.example/churn@{DIGEST}"}
    assert fleet.watch().run_once() == [], "another that watches finds all done"
    fleet.alias("churn", "3")
    fleet.alias("churn", "1", "champion")
    assert fleet.watch().run_once() == [] and len(fleet.built) == 3, "an alias that moves builds nothing"


def test_what_is_built_is_told_on_its_version() -> None:
    fleet = Fleet(version("churn", 1))
    fleet.watch().run_once()
    assert fleet.kept["churn", "1"].tags == {
        "kbuild.image": f"churn@{DIGEST}",
        "kbuild.image_digest": DIGEST,
        "kbuild.pushed": f"registry.example/churn@{DIGEST}",
        "kbuild.named": f"registry.example/churn:1@{DIGEST}",
    }


def test_what_fails_says_so_on_its_version_and_stops_no_other() -> None:
    fleet = Fleet(version("churn", 1), version("fraud", 1))
    fleet.broken = {"models:/churn/1"}
    done = fleet.watch().run_once()
    assert [each.error is None for each in done] == [False, True]
    tags = fleet.kept["churn", "1"].tags
    assert (tags["kbuild.error"], tags["kbuild.attempts"]) == ("no room", "1")
    assert tags["kbuild.retry"].endswith("+00:00")
    assert fleet.watch().run_once() == [], "not before its time, after a restart too"
    assert fleet.told[-1] == "what failed before is tried again from 2027-01-15T08:01:00+00:00 on"
    fleet.now += 61
    fleet.broken = set()
    assert len(fleet.watch().run_once()) == 1
    assert "kbuild.error" not in fleet.kept["churn", "1"].tags


def test_who_may_only_read_has_the_same_patience() -> None:
    fleet = Fleet(version("churn", 1))
    fleet.read_only, fleet.broken = True, {"models:/churn/1"}
    watch = fleet.watch()
    for _ in range(3):
        watch.run_once()
    assert fleet.built == ["models:/churn/1"]
    fleet.broken = set()
    fleet.now += 61
    for _ in range(3):
        watch.run_once()
    assert len(fleet.built) == 2
    assert len([each for each in fleet.told if "is not told of it yet" in each]) == 1
    fleet.read_only = False
    watch.run_once()
    assert len(fleet.built) == 2
    assert fleet.kept["churn", "1"].tags["kbuild.named"] == f"registry.example/churn:1@{DIGEST}", (
        "told once that can be"
    )
    assert "kbuild.error" not in fleet.kept["churn", "1"].tags


def test_an_alias_that_cannot_be_tagged_says_so_until_it_can() -> None:
    fleet = Fleet(version("churn", 1, "champion"))
    fleet.broken = {"unreachable"}
    watch = fleet.watch()
    watch.run_once()
    watch.reconcile()
    assert "does not name models:/churn/1: no answer" in fleet.kept["churn", "1"].tags["kbuild.error"]
    assert len([each for each in fleet.told if "no answer" in each]) == 1
    fleet.broken = set()
    watch.reconcile()
    assert "kbuild.error" not in fleet.kept["churn", "1"].tags


def test_two_that_watch_for_two_registries_do_not_undo_each_other() -> None:
    fleet = Fleet(version("churn", 1, "champion"), version("churn", 2))
    one, other = fleet.watch(), fleet.watch()
    other.rules = Rules(push="other.example/{name}:{version}")
    # Both found both wanted before either was done.
    for watch, wanted in [(each, each.reconcile().builds) for each in (one, other)]:
        for each in wanted:
            watch.make(each)
    assert len(fleet.built) == 4
    for watch in (one, other, one, other):
        assert watch.run_once() == []
    assert fleet.names == {
        "registry.example/churn:champion": f"registry.example/churn@{DIGEST}",
        "other.example/churn:champion": f"other.example/churn@{DIGEST}",
    }


def test_of_models_that_were_heard_of_the_names_of_all_others_count() -> None:
    fleet = Fleet(version("churn", 1, "champion"), version("fraud", 1))
    watch = fleet.watch()
    watch.run_once()
    fleet.kept["Churn", "1"] = version("Churn", 1)
    wanted = watch.reconcile({"Churn"})
    assert wanted.builds == [], "its image would have the name of another model's"
    assert [str(each) for each, _ in wanted.refused] == ["models:/Churn/1"]


def test_aliases_of_models_that_nothing_was_heard_of_are_left_alone() -> None:
    fleet = Fleet(version("churn", 1, "champion"), version("fraud", 1, "champion"))
    watch = fleet.watch()
    watch.run_once()
    asked: list[str] = []
    watch.retag = lambda source, target: not asked.append(target.name)  # type: ignore[func-returns-value]
    watch.reconcile({"fraud"})
    assert asked == ["registry.example/fraud"]
    watch.reconcile()
    assert sorted(asked) == ["registry.example/churn", "registry.example/fraud", "registry.example/fraud"]


def test_a_registry_that_stays_away_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(version("churn", 1))
    fleet.down = True
    watch, asked = fleet.watch(every=600.0), list[None]()

    def wait(until: float, *, retry: bool) -> None:
        asked.append(None)
        if len(asked) == 4:
            watch._stopped.set()

    monkeypatch.setattr(watch, "_await", wait)
    watch._ask_on()
    assert fleet.told == ["nobody answers"]


def test_a_hint_does_not_hurry_a_registry_that_is_away() -> None:
    watch = Fleet().watch()
    for retry, heard in ((True, None), (False, {"churn"})):
        watch.hint("churn")
        assert watch._await(time.monotonic() + (0.05 if retry else 5), retry=retry) == heard


def test_what_another_built_meanwhile_is_not_built_again_and_what_is_being_built_waits_for_nobody() -> None:
    fleet = Fleet(version("a", 1), version("b", 1))
    watch = fleet.watch(every=600.0)
    fleet.held.clear()
    ending = threading.Event()

    def run() -> None:
        with contextlib.suppress(SystemExit):
            watch.run()

    building = fleet.build

    def build(model: str) -> Any:
        if ending.is_set():
            raise SystemExit
        return building(model)

    watch.build = build
    running = threading.Thread(target=run, daemon=True)
    running.start()
    wait_for(lambda: watch.building == "models:/a/1")
    # Heard of while it is being built, it does not wait as well.
    fleet.kept["c", "1"] = version("c", 1)
    watch.hint("c")
    wait_for(lambda: watch.state()["waiting"] == 2)
    for name in ("b", "c"):
        digest = "sha256:" + "c" * 64
        fleet.tag(fleet.kept[name, "1"], {"kbuild.named": f"registry.example/{name}:1@{digest}"})
    fleet.held.set()
    wait_for(lambda: watch.state()["waiting"] == 0 and watch.building is None)
    assert fleet.built == ["models:/a/1"]
    fleet.kept["d", "1"] = version("d", 1)
    ending.set()
    watch.hint("d")
    running.join(5)
    assert not running.is_alive()


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_just_built_is_asked_about_at_once(fails: bool) -> None:
    """Its aliases name it then, and not when it is time to ask about all of them again."""
    fleet = Fleet(version("churn", 1, "champion"), version("fraud", 1, "champion"))
    fleet.broken = {"models:/fraud/1"} if fails else set()
    watch, ending = fleet.watch(every=3600.0), threading.Event()
    building = fleet.build

    def build(model: str) -> Any:
        if ending.is_set():
            raise SystemExit
        return building(model)

    def run() -> None:
        with contextlib.suppress(SystemExit):
            watch.run()

    watch.build = build
    running = threading.Thread(target=run, daemon=True)
    running.start()
    named = ["churn"] if fails else ["churn", "fraud"]
    wait_for(lambda: sorted(fleet.names) == [f"registry.example/{name}:champion" for name in named])
    wait_for(lambda: len(fleet.built) == 2)
    fleet.kept["last", "1"] = version("last", 1)
    ending.set()
    watch.hint("last")
    running.join(5)
    assert not running.is_alive()


def test_a_long_message_is_told_once() -> None:
    fleet = Fleet(version("churn", 1, "champion"))

    def retag(source: ImageReference, target: ImageReference) -> bool:
        raise RegistryError("x" * 1000)

    watch = fleet.watch()
    watch.retag = retag
    watch.run_once()
    watch.reconcile()
    watch.reconcile()
    assert len([each for each in fleet.told if "xxx" in each]) == 1


def test_a_registry_that_was_away_for_long_is_asked_again() -> None:
    assert (pause(0), pause(1)) == (5.0, 10.0)
    assert pause(5000) == pause(10) > 3600


def test_a_registry_that_is_away_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(version("churn", 1))
    watch = fleet.watch(every=600.0)
    began, asked = time.monotonic(), list[float]()

    def wait(until: float, *, retry: bool) -> None:
        """Of five times, at the fourth it is there."""
        asked.append(round(until - began, -1) if retry else -1.0)
        fleet.down = len(asked) != 3
        if len(asked) == 5:
            watch._stopped.set()

    monkeypatch.setattr(watching, "pause", lambda failures: 10.0 * (failures + 1))
    monkeypatch.setattr(watch, "_await", wait)
    fleet.down = True
    watch._ask_on()
    assert asked == [10.0, 20.0, 30.0, -1.0, 10.0]


@pytest.mark.parametrize(("again", "asked"), [(None, 600.0), (60.0, 60.0), (7200.0, 600.0)])
def test_the_registry_is_asked_in_time_whatever_is_tried_again_when(
    monkeypatch: pytest.MonkeyPatch, again: float | None, asked: float
) -> None:
    watch = Fleet(version("churn", 1)).watch(every=600.0)
    came = Wanted(again=None if again is None else watch.clock() + again)
    waits: list[float] = []

    def wait(until: float, *, retry: bool) -> None:
        waits.append(round(until - time.monotonic(), -1))
        watch._stopped.set()

    monkeypatch.setattr(watch, "reconcile", lambda _: came)
    monkeypatch.setattr(watch, "_await", wait)
    watch._ask_on()
    assert waits == [asked]


def test_two_threads_that_tell_of_one_version_lose_nothing() -> None:
    fleet = Fleet(version("churn", 1))
    watch = fleet.watch()
    one = fleet.kept["churn", "1"]
    telling = fleet.tag

    def tag(version: RegisteredVersion, tags: Mapping[str, str | None]) -> None:
        if "a" in tags and "b" not in tags:
            watch._write(one, {"b": "2"})  # the other thread, in the middle of it
        telling(version, tags)

    fleet.tag = tag  # type: ignore[method-assign]
    watch._write(one, {"a": "1"})
    assert fleet.kept["churn", "1"].tags == {"a": "1", "b": "2"} and watch._written == {}


def test_what_nobody_foresaw_ends_no_watch_and_a_dead_thread_is_told() -> None:
    fleet = Fleet(version("churn", 1))
    watch = fleet.watch(every=600.0)
    ending = threading.Event()

    def still(one: RegisteredVersion) -> RegisteredVersion | None:
        if ending.is_set():
            raise SystemExit
        raise ValueError("unforeseen")

    watch._still_wanted = still  # type: ignore[method-assign]

    def run() -> None:
        with contextlib.suppress(SystemExit):
            watch.run()

    running = threading.Thread(target=run, daemon=True)
    running.start()
    wait_for(lambda: any("models:/churn/1 was not built" in each for each in fleet.told))
    assert running.is_alive() and watch.state()["status"] == "ok"
    ending.set()
    watch.hint(None)
    running.join(5)
    wait_for(lambda: watch.state()["status"] == "failed")


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_alias_that_moves_waits_for_no_build_and_a_hint_finds_what_is_new() -> None:
    fleet = Fleet(version("churn", 1))
    fleet.watch().run_once()
    watch = fleet.watch(every=600.0)
    fleet.kept["churn", "2"] = version("churn", 2)
    fleet.held.clear()
    ending = threading.Event()
    building = fleet.build

    def build(model: str) -> Any:
        if ending.is_set():
            raise SystemExit
        return building(model)

    watch.build = build

    def run() -> None:
        with contextlib.suppress(SystemExit):
            watch.run()

    running = threading.Thread(target=run, daemon=True)
    running.start()
    wait_for(lambda: watch.building == "models:/churn/2")
    fleet.alias("churn", "1", "champion")
    watch.hint("churn")
    wait_for(lambda: fleet.names)
    assert watch.state()["building"] == "models:/churn/2"
    fleet.held.set()
    wait_for(lambda: "kbuild.named" in fleet.kept["churn", "2"].tags)
    fleet.down = True
    watch.hint(None)
    wait_for(lambda: watch.problem == "nobody answers")
    fleet.down = False
    fleet.kept["new", "1"] = version("new", 1)
    ending.set()
    watch.hint(None)
    running.join(5)
    assert not running.is_alive(), "what ends the build ends it"
    assert fleet.built == ["models:/churn/1", "models:/churn/2"]
    assert "the registry answers again" in fleet.told


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 2d ", 172800)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_since(text, now=1e6) == 1e6 - seconds


@pytest.fixture(params=["UTC", "Asia/Tokyo"])
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_moments_are_read_and_what_is_none_is_refused() -> None:
    assert parse_since("2026-11-01", now=0) == parse_since("2026-11-01T01:00:00+01:00", now=0) == 1793491200
    for text in ("5", "m", "0s", "-5m", "0.1s", "5 weeks", ""):
        with pytest.raises(ConfigurationError):
            parse_duration(text)
        with pytest.raises(ConfigurationError, match="is not a time"):
            parse_since(text, now=0)


def test_a_version_that_cannot_have_a_name_says_so_and_is_tried_again_in_time() -> None:
    fleet = Fleet(version("Churn", 1), version("churn", 1))
    assert [str(each.version) for each in fleet.watch().run_once()] == ["models:/Churn/1"]
    tags = fleet.kept["churn", "1"].tags
    assert "kbuild.error" in tags and tags["kbuild.attempts"] == "1"
    assert any("models:/churn/1 has no image: " in line and "attempt 1" in line for line in fleet.told)


def test_an_alias_that_is_no_tag_takes_nothing_from_the_image_and_its_other_aliases() -> None:
    """MLflow takes letters of any language for an alias, a registry's tag those of ASCII alone."""
    fleet = Fleet(version("churn", 1, "käse", "champion"))
    watch = fleet.watch()
    assert [each.error for each in watch.run_once()] == [None]
    watch.reconcile()
    assert list(fleet.names) == ["registry.example/churn:champion"]
    tags = fleet.kept["churn", "1"].tags
    assert "käse does not name models:/churn/1: " in tags["kbuild.error"] and "kbuild.attempts" not in tags
    told = [line for line in fleet.told if "käse" in line]
    assert len(told) == 1 and "no image" not in told[0]
    fleet.alias("churn", "1", "champion")
    watch.reconcile()
    assert "kbuild.error" not in fleet.kept["churn", "1"].tags


@pytest.mark.parametrize(("hints", "whole"), [(2, False), (3, True)])
def test_of_very_many_hints_the_whole_registry_is_asked(
    monkeypatch: pytest.MonkeyPatch, hints: int, whole: bool
) -> None:
    monkeypatch.setattr(watching, "_MANY", 2)
    fleet = Fleet(*(version(f"m{number}", 1) for number in range(hints)))
    fleet.watch().run_once()
    asked: list[str | None] = []
    first = threading.Event()
    versions = fleet.versions

    def watched(name: str | None = None) -> list[RegisteredVersion]:
        asked.append(name)
        if len(asked) == 1:
            first.wait(10)  # meanwhile they come in
        return versions(name)

    fleet.versions = watched  # type: ignore[method-assign]
    watch = fleet.watch(every=600.0)

    def run() -> None:
        with contextlib.suppress(SystemExit):
            watch.run()

    threading.Thread(target=run, daemon=True).start()
    wait_for(lambda: asked)
    for number in range(hints):
        watch.hint(f"m{number}")
    first.set()
    wait_for(lambda: len(asked) >= (2 if whole else 1 + hints))
    assert set(asked[1:]) == ({None} if whole else {"m0", "m1"})
    assert asked[0] is None


@pytest.mark.usefixtures("zone")
def test_when_it_is_tried_again_is_said_for_people() -> None:
    """1800000000 seconds since 1970 are 2027-01-15 08:00:00 UTC (date -u -d @1800000000)."""
    assert Failed(reason="r", attempts=1, again=1800000000.0).when() == "tried again at 2027-01-15 08:00:00 UTC"
    assert Failed(reason="r", attempts=5, again=None).when() == "not tried again"
