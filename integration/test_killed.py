"""kill -9 at any moment of a build: the next one gives the right digest, and nothing corrupt is ever used."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

from small_models import write_small
from tool import BIN, Tool

KILLS = int(os.environ.get("KBUILD_KILLS", "30"))
# What a build makes besides its lock and its downloads: what every environment has, and what is this model's.
COMMON = ("bases", "interpreters")
OWN = ("images", "layers", "splits", "wheels")


def build(tool: Tool, model: Path) -> str:
    """The digest of one build."""
    return tool("image", model).out.strip().partition("@")[2]


def forget(tool: Tool, parts: tuple[str, ...]) -> None:
    """Remove parts of a cache."""
    for name in parts:
        shutil.rmtree(tool.cache / name, ignore_errors=True)


def test_killed_at_any_moment(tool: Tool, tmp_path: Path) -> None:
    """KBUILD_KILLS says how often; KBUILD_KILL_SEED repeats the moments of a run, which prints its own."""
    seed = int(os.environ.get("KBUILD_KILL_SEED") or random.SystemRandom().randrange(2**32))
    print(f"KBUILD_KILL_SEED={seed}")
    moments = random.Random(seed)  # noqa: S311  a seed, so that a failure can be had again
    model = write_small(tmp_path / "model", 7)
    build(tool, model)
    fresh = Tool(cache=tmp_path / "cache", environment=tool.environment)
    for name in ("base-records", "channel", "debs", "downloads", "locks"):
        if (tool.cache / name).is_dir():
            shutil.copytree(tool.cache / name, fresh.cache / name, symlinks=True, copy_function=os.link)
    seconds, found = {}, set()
    for parts in ((*COMMON, *OWN), OWN):
        forget(fresh, parts)
        begin = time.monotonic()
        found.add(build(fresh, model))
        seconds[parts] = time.monotonic() - begin
    assert len(found) == 1
    killed = 0
    for number in range(KILLS):
        parts = OWN if number % 10 else (*COMMON, *OWN)
        forget(fresh, parts)
        process = subprocess.Popen(
            [str(BIN / "kbuild"), "image", str(model)],
            env=fresh.environ(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(seconds[parts] * moments.uniform(0.1, 0.9))
        killed += process.poll() is None
        with contextlib.suppress(ProcessLookupError):  # it was faster this time
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if number % 10 == 9:
            found.add(build(fresh, model))
    whole = ", ".join(f"{each:.1f}" for each in seconds.values())
    print(f"{killed} of {KILLS} builds were killed before their end, which takes {whole} s")
    found.add(build(fresh, model))
    assert len(found) == 1
    assert fresh("cache", "verify", "--json").json == {"damaged": []}
    fresh("cache", "prune")
    assert not list(fresh.cache.glob("work-*"))
