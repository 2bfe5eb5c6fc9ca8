import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbuild.digest import digest_bytes
from kbuild.errors import InvalidReference
from kbuild.workflow import once, tools
from kbuild.workflow.once import Shared


def in_threads(work: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
    """What each gave. Of a lock that is never given back a test tells, and does not wait for it."""
    given: list[Any] = []
    threads = [threading.Thread(target=lambda each=each: given.append(work(each)), daemon=True) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "it waits for ever"
    return given


def test_the_first_leads_and_the_others_take() -> None:
    shared, running, most = Shared(), [], []

    def work(number: int) -> bool:
        with shared.leading(["a", "b"]) as first:
            if first:
                running.append(number)
                most.append(len(running))
                time.sleep(0.02)
                running.remove(number)
            return first

    assert sum(in_threads(work, list(range(16)))) == 1
    assert most == [1]


def test_what_fails_is_led_by_the_next() -> None:
    shared = Shared()
    with pytest.raises(ValueError), shared.leading(["a"]) as first:
        assert first
        raise ValueError
    with shared.leading(["a"]) as first:
        assert first
    with shared.leading(["a"]) as first:
        assert not first


def test_keys_are_taken_in_one_order_so_nobody_waits_for_ever() -> None:
    shared, begin = Shared(), threading.Barrier(2)

    def work(keys: list[str]) -> None:
        begin.wait(5)
        with shared.leading(keys):
            time.sleep(0.01)

    for number in range(20):
        names = [f"{number}-{each}" for each in "abcd"]
        in_threads(work, [names, names[::-1]])


def test_a_value_is_made_once() -> None:
    shared, made = Shared(), []
    for _ in range(3):
        assert shared.once("key", lambda: made.append(1) or "value") == "value"
    assert made == [1]


def test_two_images_cannot_have_one_name() -> None:
    shared = Shared()
    shared.claim("churn:1", digest_bytes(b"one"))
    shared.claim("churn:1", digest_bytes(b"one"))
    with pytest.raises(InvalidReference, match=r"churn:1 is already the name of another"):
        shared.claim("churn:1", digest_bytes(b"two"))


def test_builds_after_each_other_name_anew_and_share_what_they_wait_for() -> None:
    """A worker's next job may build a version again, on a base that has moved; a failed registry it does not ask."""
    shared = Shared()
    shared.claim("churn:1", digest_bytes(b"one"))
    assert (shared.once("base", lambda: 1), shared.kept("end", lambda: 1)) == (1, 1)
    following = shared.next_build()
    following.claim("churn:1", digest_bytes(b"two"))
    assert (following.once("base", lambda: 2), following.kept("end", lambda: 2)) == (2, 1)
    assert (shared.once("base", lambda: 3), shared.kept("end", lambda: 3)) == (1, 1)
    with shared.leading(["layer"]) as first:
        assert first
    with following.leading(["layer"]) as first:
        assert not first


def test_builds_side_by_side_do_one_work_once() -> None:
    shared, done = Shared(), []

    def work(builds: Shared) -> None:
        with builds.leading(["layer"]) as first:
            time.sleep(0.02)
            done.append(first)

    in_threads(work, [shared.next_build() for _ in range(4)])
    assert sorted(done) == [False, False, False, True]


def test_what_is_kept_is_made_again_after_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that was away comes back while a worker runs for weeks."""
    now = [0.0]
    monkeypatch.setattr(once.time, "monotonic", lambda: now[0])
    shared = Shared()
    assert shared.kept("end", lambda: 1) == 1
    now[0] = 599
    assert shared.next_build().kept("end", lambda: 2) == 1
    now[0] = 601
    assert shared.kept("end", lambda: 2) == 1, "one build has one end"
    assert shared.next_build().kept("end", lambda: 2) == 2


@pytest.mark.slow
def test_what_is_remembered_of_many_builds_is_bounded() -> None:
    shared = Shared()
    for number in range(3 * once.MOST_KEYS):
        with shared.next_build().leading([f"layer {number}"]) as first:
            assert first
    assert max(len(shared._common.done), len(shared._common.locks)) <= once.MOST_KEYS + 1


def test_what_was_told_before_is_no_news() -> None:
    shared = Shared()
    assert shared.is_news("a", ["x", "y"])
    assert not shared.is_news("a", ["y"])
    assert shared.is_news("b", ["y"])
    assert shared.is_news("a", ["y", "z"])
    assert shared.next_build().is_news("a", ["x"])


def test_pip_is_asked_once_for_builds_that_follow_each_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tools, "package_indexes", lambda **_: asked.append("pip") or "its indexes")
    monkeypatch.setattr(tools, "lock_bundle", lambda *_, ask_pip, **__: ask_pip())
    nothing: Any = None
    builds = tools.Tools(store=nothing, run=nothing, cache=tmp_path, phases=nothing)
    following = replace(builds, shared=builds.shared.next_build())
    for each in (builds, following):
        assert each.lock(nothing, nothing, nothing, force=False) == "its indexes"
    assert asked == ["pip"]
    assert following.ask_pip() == "its indexes" and asked == ["pip"]
    builds.ask_pip({"PIP_INDEX_URL": "https://other.example/simple"})  # whoever sets another gets that one's
    assert asked.pop() == "pip" and asked == ["pip"]
    another = tools.Tools(store=nothing, run=nothing, cache=tmp_path, phases=nothing)
    another.lock(nothing, nothing, nothing, force=False)
    assert asked == ["pip", "pip"]
