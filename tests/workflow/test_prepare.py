import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kbuild.cache.notes import is_reading_all
from kbuild.digest import digest_bytes
from kbuild.environment.locking.wanted import LockRequest
from kbuild.image.base.records import Recorded
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.platform import Platform
from kbuild.process import run
from kbuild.progress import Progress, Silent
from kbuild.workflow import ImageRequest, Tools, prepare
from kbuild.workflow.build import working_folder
from kbuild.workflow.prepare import fetch_model

NAME = "registry.example/python:3.13"


@contextmanager
def silent(phase: str) -> Iterator[Progress]:
    yield Silent()


def base(content: bytes) -> ResolvedBase:
    return ResolvedBase(kind="registry", name=NAME, digest=digest_bytes(content), reference=NAME)


def test_models_with_other_records_of_one_base_do_not_fetch_it_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Records:
        def __init__(self, **where: Any) -> None:
            pass

        def read(self, bundle: Any, platform: Platform, progress: Progress) -> Recorded:
            return Recorded(first=NAME, bases={} if bundle is None else {NAME: base(bundle)})

    running = threading.Semaphore(1)

    def resolve(*args: Any, **options: Any) -> ResolvedBase:
        assert running.acquire(blocking=False), "two write the same place in the cache"
        time.sleep(0.05)
        running.release()
        return base(b"")

    monkeypatch.setattr(prepare, "BaseRecords", Records)
    monkeypatch.setattr(prepare, "resolve_base", resolve)
    monkeypatch.setattr(prepare, "look_into", lambda *_, **__: BaseFacts(glibc="2.36", shell=False))
    store: Any = None
    tools = Tools(store=store, run=run, cache=tmp_path, phases=silent)
    request = ImageRequest(model="m", lock=LockRequest(platforms=()))
    bundles: list[Any] = [None, b"one", b"two"]
    with ThreadPoolExecutor(3) as pool:
        platform = Platform("linux", "amd64")
        found = pool.map(lambda each: prepare._base(request, each, platform, tools), bundles)
        assert [each.base.digest for each in found] == [digest_bytes(b"")] * 3


def test_each_platform_has_its_own_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    platforms = [Platform("linux", "amd64"), Platform("linux", "arm64")]
    looked: list[Platform] = []

    def look(found: ResolvedBase, platform: Platform, **_: Any) -> BaseFacts:
        looked.append(platform)
        return BaseFacts(glibc="2.36" if platform == platforms[0] else "2.41", shell=False)

    monkeypatch.setattr(prepare, "_records", lambda _: SimpleNamespace(read=lambda *_: Recorded()))
    monkeypatch.setattr(prepare, "resolve_base", lambda _, platform, **__: base(str(platform).encode()))
    monkeypatch.setattr(prepare, "look_into", look)
    nothing: Any = None
    tools = Tools(store=nothing, run=run, cache=tmp_path, phases=silent)
    request = ImageRequest(model="m", lock=LockRequest(platforms=()), base=NAME)
    found = [prepare._base(request, nothing, platform, tools).base for platform in [*platforms, *platforms]]
    assert [each.digest for each in found] == 2 * [digest_bytes(str(platform).encode()) for platform in platforms]
    # What is found in it is what it is known to have; it is looked into once.
    assert [each.glibc for each in found] == 2 * ["2.36", "2.41"] and looked == platforms


@pytest.mark.parametrize("recorded", ["python:3.13", "docker.io/library/python:3.13"])
@pytest.mark.parametrize("asked", ["python:3.13", "docker.io/library/python:3.13", None])
def test_a_base_is_the_recorded_one_however_its_name_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: str, asked: str | None
) -> None:
    known = replace(base(b"known"), name=recorded)
    given: list[Any] = []

    def resolve(choice: Any, *_: Any, recorded: Any, **__: Any) -> ResolvedBase:
        given.append((choice.name, recorded))
        return known

    monkeypatch.setattr(
        prepare,
        "_records",
        lambda _: SimpleNamespace(read=lambda *_: Recorded(first=recorded, bases={recorded: known})),
    )
    monkeypatch.setattr(prepare, "resolve_base", resolve)
    monkeypatch.setattr(prepare, "look_into", lambda *_, **__: BaseFacts(glibc="2.36", shell=False))
    store: Any = None
    tools = Tools(store=store, run=run, cache=tmp_path, phases=silent)
    nothing: Any = None
    request = ImageRequest(model="m", lock=LockRequest(platforms=()), base=asked)
    assert prepare._base(request, nothing, Platform("linux", "amd64"), tools).base.digest == known.digest
    assert [each for _, each in given] == [known]


def test_the_server_is_not_asked_again_for_a_model_that_is_here_unless_that_is_wanted(tmp_path: Path) -> None:
    kept: list[bool] = []

    class Store:
        def fetch(self, reference: Any, into: Path, *, kept: bool = False, asked: list[bool] = kept) -> Any:
            asked.append(kept)
            return SimpleNamespace(facts=SimpleNamespace(python_version="3.11.0"))

    @contextmanager
    def phases(phase: str) -> Iterator[Progress]:
        yield Silent()

    tools: Any = SimpleNamespace(store=Store(), phases=phases)
    fetch_model("models:/churn/1", tools, tmp_path)
    fetch_model("models:/churn/1", tools, tmp_path, reuse=False)
    assert kept == [True, False]


def test_all_that_is_done_keeps_to_the_caches_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("kbuild.workflow.tools.using_cache", lambda cache, *, limit: asked.append((cache, limit)))
    tools = Tools(store=SimpleNamespace(), run=run, cache=tmp_path, phases=silent, cache_limit=7)  # type: ignore[arg-type]
    tools.using_cache()
    assert asked == [(tmp_path, 7)]


@pytest.mark.parametrize("asked", [False, True])
def test_the_cache_is_read_whole_where_that_is_asked_for(tmp_path: Path, asked: bool) -> None:
    tools = Tools(store=SimpleNamespace(), run=run, cache=tmp_path, phases=silent, verify_cache=asked)  # type: ignore[arg-type]
    with working_folder(tools) as folder:
        assert is_reading_all() is asked
        assert folder.is_relative_to(tmp_path)
    assert not is_reading_all()


def test_builds_for_other_c_libraries_wait_for_no_lock_of_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of those that ask for the same solves it, beside the others."""
    led: list[list[str]] = []

    class Heard(Exception):
        pass

    def lead(keys: Any) -> Any:
        led.append(list(keys))
        raise Heard

    facts = SimpleNamespace(conda_env={"a": 1}, constraints=(), python_version="3.12.1")
    bundle, shared = SimpleNamespace(facts=facts), SimpleNamespace(leading=lead)
    tools = SimpleNamespace(shared=shared, phases=silent)
    request = ImageRequest(model="m", lock=LockRequest(platforms=(Platform("linux", "amd64"),)))
    for base in ("debian:bookworm", "debian:trixie", "debian:bookworm"):
        with pytest.raises(Heard):
            prepare.lock_environment(bundle, replace(request, base=base), tools)  # type: ignore[arg-type]
    assert led[0] == led[2] != led[1]


@pytest.mark.parametrize(
    ("has", "glibc", "chosen"),
    [(("2.36", "2.9"), "2.9", True), (("2.36", None), "2.36", True), ((None, None), None, False)],
)
def test_wheels_are_for_the_oldest_c_library_of_the_bases(
    has: tuple[str | None, ...], glibc: str | None, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image of a registry may have another one for each platform."""
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    libraries = dict(zip(platforms, has, strict=True))

    def chosen_base(_request: object, _bundle: object, platform: Platform, _tools: object) -> Any:
        return SimpleNamespace(base=SimpleNamespace(glibc=libraries[platform]))

    monkeypatch.setattr(prepare, "_base", chosen_base)
    request = ImageRequest(model="m", lock=LockRequest(platforms=platforms), base=NAME)
    target = prepare._target(request, None, None)  # type: ignore[arg-type]
    assert (target.base, target.chosen) == (NAME, chosen)
    assert glibc is None or target.glibc == glibc
