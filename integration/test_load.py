"""A short piece of ``nox -s load``: overload and SIGTERM, each answer checked against its own request."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tool import BIN


@pytest.mark.parametrize("options", [("--workers", "2"), ("--batch", "16")], ids=["two workers", "together"])
def test_overload_loses_and_confuses_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    script = Path(__file__).with_name("load.py")
    told = tmp_path / "load.json"
    done = subprocess.run(
        [BIN / "python", script, "--seconds", "6", "--json", told, *options],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert told.is_file(), done.stderr[-3000:]
    # A few seconds on a busy machine say little of memory and of time.
    faults = {*json.loads(told.read_text())["faults"]} - {"memory grows", "slow to recover"}
    assert faults == set(), told.read_text()
