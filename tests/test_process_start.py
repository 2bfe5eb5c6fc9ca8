from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from kbuild.errors import ProgramNotFound
from kbuild.process import start
from kbuild.process.foreground import stay


def test_a_started_process_goes_on_and_logs_both_streams(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os, sys; print(sorted(os.environ), flush=True); print(sys.stdin.read() + 'end', file=sys.stderr)"
    process = start([sys.executable, "-I", "-c", code], env={"ONLY": "this"}, log=log)
    assert process.wait(20) == 0
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert "ONLY" in lines[1]
    assert "HOME" not in lines[1]
    assert lines[2] == "end"


def test_it_can_be_signalled_and_leads_its_own_session(tmp_path: Path) -> None:
    process = start([sys.executable, "-c", "import time; time.sleep(60)"], env={}, log=tmp_path / "log")
    assert process.poll() is None
    assert process.wait(0.05) is None
    assert os.getsid(process.pid) == process.pid
    process.signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    process.signal(signal.SIGKILL)


def test_only_the_named_descriptors_are_passed(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    code = f"import os; os.write({writer}, b'here')"
    process = start([sys.executable, "-c", code], env={}, log=tmp_path / "log", pass_fds=(writer,))
    os.close(writer)
    assert process.wait(20) == 0
    assert os.read(reader, 10) == b"here"
    os.close(reader)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramNotFound, match="no-such-program"):
        start(["no-such-program"], env={}, log=tmp_path / "log")


def test_what_a_program_in_front_has_started_ends_with_it(tmp_path: Path) -> None:
    # It asks this process to end, which hands that on; its own child takes no notice.
    script = f"trap 'exit 7' TERM; sh -c 'trap : TERM; sleep 60' & echo $! > {tmp_path}/child; kill -TERM $PPID; wait"
    handler = signal.getsignal(signal.SIGTERM)
    assert stay(["/bin/sh", "-c", script], env={"PATH": os.environ["PATH"]}, grace=0.1) == 7
    assert signal.getsignal(signal.SIGTERM) == handler
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 20
    while _is_alive(child):
        assert time.monotonic() < deadline
    assert stay([sys.executable, "-c", "raise SystemExit(3)"], env={}) == 3


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
