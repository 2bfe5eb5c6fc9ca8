"""Processes that score end with the one that started them, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCORING = """
import os, time
from types import SimpleNamespace
from kbuild.scoring import local
from kbuild.scoring.places import Place

def score_part(*_):
    print(os.getpid(), flush=True)
    time.sleep(0.2)

local.score_part = score_part
parts = [SimpleNamespace(rows=1) for _ in range(1000)]
local.score_here(None, None, parts, parts, Place("out"), 2, lambda *_: None)
"""


@pytest.mark.slow
def test_processes_that_score_end_with_the_one_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SCORING], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as killed:
        assert killed.stdout is not None
        workers: set[str] = set()
        while len(workers) < 2:
            workers.add(killed.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        until = time.monotonic() + 20
        while any(map(is_alive, workers)) and time.monotonic() < until:
            time.sleep(0.1)
        left = [*filter(is_alive, workers)]
        for each in left:
            subprocess.run(["kill", "-9", each], check=True)
    assert left == []


def is_alive(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
