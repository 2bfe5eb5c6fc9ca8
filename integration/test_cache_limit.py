"""The cache's limit holds, measured from outside while models are built, verified and run; a cache that may only be
read serves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from engines import require
from small_models import copy_model
from test_reproducible import BECOME, USER
from tool import BIN, INSTALLED, SHARED, Tool, Trained, cold, served

MODELS = 2
LIMIT = 1_800_000_000
"""Bytes: less than packages, layers and unpacked layers of one environment together, which are 2.4 GB."""


class Sampler(threading.Thread):
    """Bytes on disk below a folder, again and again; files that are linked twice count once.

    To walk takes a second, in which one thing goes and another comes that were never there together. So what counts
    is what two walks met, one after the other: all of that was there between them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.peak, self.samples = folder, 0, 0
        self.ended = threading.Event()

    def run(self) -> None:
        before = blocks(self.folder)
        while not self.ended.wait(0.3):
            now = blocks(self.folder)
            both = sum(min(size, before[file]) for file, size in now.items() if file in before)
            self.peak, self.samples, before = max(self.peak, both), self.samples + 1, now


def on_disk(folder: Path) -> int:
    return sum(blocks(folder).values())


def blocks(folder: Path) -> dict[tuple[int, int], int]:
    """Bytes on disk of each file and folder, by device and inode."""
    seen: dict[tuple[int, int], int] = {}
    pending = [str(folder)]
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    seen[status.st_dev, status.st_ino] = status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return seen


@contextmanager
def sampled(folder: Path) -> Iterator[Sampler]:
    sampler = Sampler(folder)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.ended.set()
        sampler.join()


def test_the_limit_holds_while_models_are_built_verified_and_run(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    tool("image", trained.run_id, cwd=trained.folder)  # what is shared below
    shared = cold(tool, tmp_path / "cache", keep=(*SHARED, *INSTALLED, "splits"))
    limited = replace(shared, environment={**shared.environment, "KBUILD_CACHE_LIMIT": str(LIMIT)})
    assert on_disk(limited.cache) < LIMIT
    unpacked = []
    with sampled(limited.cache) as sampler:
        for number in range(MODELS):
            model = copy_model(trained.model, tmp_path / f"m{number}", number, size=20_000_000)
            image = limited("image", model, cwd=trained.folder).out.strip()
            verified = limited("verify", "-v", image, cwd=trained.folder)
            unpacked.append(verified.err.count("unpacking layer"))
            with served(limited, image, trained.folder) as url:
                assert url.startswith("http://127.0.0.1:")
                assert list(limited.cache.glob("run-*"))
            assert not list(limited.cache.glob("run-*"))
    assert sampler.samples > 20
    assert LIMIT // 2 < sampler.peak <= LIMIT, sampler.peak
    # Its own layers alone, and what had to make room for the build between.
    assert unpacked[0] > 10 and all(0 < each < 5 for each in unpacked[1:]), unpacked
    shutil.rmtree(limited.cache)


def test_a_limit_below_what_a_build_needs_stops_it_in_one_line(tool: Tool, trained: Trained, tmp_path: Path) -> None:
    small = cold(tool, tmp_path / "cache")
    done = small("image", trained.run_id, "--no-cache", cwd=trained.folder, KBUILD_CACHE_LIMIT="300MB", code=7)
    message, hint = done.error_lines
    assert "may hold 0.30 GB" in message and "KBUILD_CACHE_LIMIT=" in hint
    assert on_disk(small.cache) <= 300_000_000
    shutil.rmtree(small.cache)


def test_somebody_elses_cache_that_holds_the_image_serves_it(tool: Tool, trained: Trained) -> None:
    """Of root's rights the other user has that of reading alone, for the test's folders."""
    require(os.geteuid() == 0 and shutil.which("setpriv"), "becoming another user takes root")
    name = tool("image", trained.run_id, cwd=trained.folder).out.strip()
    digest = name.partition("@")[2]
    own = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(own, USER, USER)
    become: list[str | Path] = [*BECOME, BIN / "kbuild"]
    for words, answer in ((["image", trained.run_id], name), (["verify", name], digest)):
        done = tool.run([*become, *words], cwd=trained.folder, HOME=str(own), TMPDIR=str(own))
        assert (done.code, done.out.strip()) == (0, answer), done.err[-3000:]
    assert not list(own.glob("kbuild-*"))
    shutil.rmtree(own)
    refused = tool.run([*become, "cache", "prune"], cwd=trained.folder)
    assert refused.code == 42 and "KBUILD_CACHE_DIR" in refused.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_verification_that_is_stopped_takes_its_files_with_it(
    tool: Tool, trained: Trained, number: signal.Signals
) -> None:
    name = tool("image", trained.run_id, cwd=trained.folder).out.strip()
    # A shell that starts the tests in the background has Ctrl-C ignored by all of them.
    program = (
        "import signal, sys; from kbuild.cli.app import run; signal.signal(2, signal.default_int_handler);"
        "sys.argv = ['kbuild', *sys.argv[1:]]; run()"
    )
    argv = [BIN / "python", "-c", program, "verify", name]
    with subprocess.Popen(argv, cwd=trained.folder, env=tool.environ(), stderr=subprocess.DEVNULL) as process:
        while not list(tool.cache.glob("run-*/root/opt")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert not list(tool.cache.glob("run-*"))
