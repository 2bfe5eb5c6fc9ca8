from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kbuild.digest import digest_bytes
from kbuild.image.engine import EngineOutput, RawLayer
from kbuild.image.store.layer_cache import LayerCache
from kbuild.image.store.pack import pack
from kbuild.process import run
from kbuild.progress import Progress, Silent
from kbuild.workflow import Tools
from kbuild.workflow.stopping import Stoppable, stopping_at_signals

sys.path.insert(0, str(Path(__file__).parents[1] / "image"))
from plans import EMPTY


@contextmanager
def silent(phase: str) -> Iterator[Progress]:
    yield Silent()


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Tools]:
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    store: Any = None
    yield Tools(store=store, run=run, cache=tmp_path, phases=silent)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


class Endless:
    """A layer that takes far longer to write than a test may; sends Ctrl-C once it has begun."""

    def chunks(self) -> Iterator[bytes]:
        for number in range(3000):
            if number == 5:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            yield os.urandom(1 << 16)


def stopped_after(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    return time.monotonic() - begin


def test_ctrl_c_ends_a_layer_that_is_being_compressed_and_nothing_of_it_is_left(tools: Tools, tmp_path: Path) -> None:
    cache = LayerCache(root=tmp_path / "layers", compression="zstd")
    layers = tuple(
        RawLayer(content=Endless(), created_by="COPY", key=digest_bytes(bytes([number]))) for number in range(3)
    )

    def work() -> None:
        with stopping_at_signals(tools) as mine, mine.phases("image") as progress:
            pack(
                EngineOutput(layers=layers, config={}), EMPTY, tmp_path / "image", engine="native", progress=progress,
                cache=cache,
            )  # fmt: skip

    assert stopped_after(work) < 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / "image").exists()


def test_ctrl_c_ends_the_programs_that_threads_wait_for(tools: Tools) -> None:
    def work() -> None:
        with stopping_at_signals(tools) as mine, ThreadPoolExecutor(2) as pool:
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            list(pool.map(lambda seconds: mine.run(["sleep", seconds]), ["30", "31"]))

    assert stopped_after(work) < 5


WORDS: dict[str, Callable[[Progress], None]] = {
    "note": lambda progress: progress.note("compressing"),
    "tell": lambda progress: progress.tell("a release was yanked"),
    "count": lambda progress: progress.count(1, 2),
}


@pytest.mark.parametrize("word", WORDS)
def test_who_works_in_a_thread_ends_at_its_next_word_whatever_that_is(word: str) -> None:
    """Python tells the main thread alone of Ctrl-C."""
    stopped, spoke = threading.Event(), threading.Event()

    def work() -> None:
        with Stoppable(silent, stopped)("image") as progress:
            for _ in range(2000):
                WORDS[word](progress)
                spoke.set()
                time.sleep(0.001)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert spoke.wait(5), "it goes on until it is stopped"
        stopped.set()
        with pytest.raises(KeyboardInterrupt):
            working.result()


def test_what_was_made_is_told_though_the_work_is_stopped() -> None:
    stopped, made = threading.Event(), list[str]()

    class Heard(Silent):
        def made(self, text: str) -> None:
            made.append(text)

    @contextmanager
    def heard(phase: str) -> Iterator[Progress]:
        yield Heard()

    with Stoppable(heard, stopped)("image") as progress:
        stopped.set()
        progress.made("3 layers")
    assert made == ["3 layers"]


def test_another_thread_leaves_signals_alone(tools: Tools) -> None:
    def work() -> Tools:
        with stopping_at_signals(tools) as mine:
            return mine

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() is tools
