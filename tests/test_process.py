import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kbuild.errors import ProgramNotFound
from kbuild.process import run
from kbuild.process.variables import change_defaults, default_variables


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_both_streams_and_the_code_come_back() -> None:
    done = run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_lines_of_stderr_come_while_it_runs() -> None:
    lines: list[str] = []
    run(python("import sys\nfor i in range(3): print(i, file=sys.stderr)"), on_line=lines.append)
    assert lines == ["0", "1", "2"]


def test_stdin_is_passed_and_closed() -> None:
    assert run(python("import sys; print(sys.stdin.read().upper())"), stdin="abc").stdout == "ABC\n"


def test_much_output_on_both_streams_does_not_block() -> None:
    done = run(python("import sys\nfor s in (sys.stdout, sys.stderr): s.write('x' * 500_000)"))
    assert len(done.stdout) == len(done.stderr) == 500_000


def test_environment_replaces_the_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_TEST_LEAK", "1")
    done = run(python("import os; print('KBUILD_TEST_LEAK' in os.environ)"), env={"PATH": "/usr/bin"})
    assert done.stdout == "False\n"


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramNotFound, match="no-such-program"):
        run(["no-such-program"])
    with pytest.raises(FileNotFoundError):
        run([sys.executable], cwd=tmp_path / "nowhere")


def test_what_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        run(python("import time; time.sleep(60)"), timeout=0.2)


@pytest.mark.parametrize("script", ["sleep 20 & wait", "sleep 20 & exit 0"])
def test_what_its_children_hold_open_is_ended_too(script: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.3 s"):
        run(["sh", "-c", script], timeout=0.3)
    assert time.monotonic() - began < 5


def test_ctrl_c_ends_the_children_of_the_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 30 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"
    # A shell that starts the tests in the background has Ctrl-C ignored by all of them.
    code = "import signal; from kbuild.process import run; signal.signal(2, signal.default_int_handler); run({})"
    parent = subprocess.Popen(python(code.format(["sh", "-c", script])), stderr=subprocess.PIPE)
    while not pid.exists():
        assert parent.poll() is None
        time.sleep(0.02)
    os.kill(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=20)
    assert b"KeyboardInterrupt" in said
    for _ in range(100):
        if not _runs(int(pid.read_text())):
            return
        time.sleep(0.05)
    pytest.fail("the grandchild goes on")


@pytest.mark.parametrize("call", ["run(argv)", "start(argv, env={}, log=Path(sys.argv[1]))"])
def test_a_signal_that_comes_before_the_program_is_known_ends_it_too(tmp_path: Path, call: str) -> None:
    code = f"""
import os, signal, subprocess, sys
from pathlib import Path
from kbuild.process import run, start
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupted(subprocess.Popen):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        print(self.pid, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass

subprocess.Popen = Interrupted
argv = ["sleep", "30"]
{call}
"""
    parent = subprocess.run([*python(code), str(tmp_path / "log")], capture_output=True, text=True, timeout=20)
    assert "KeyboardInterrupt" in parent.stderr
    for _ in range(100):
        if not _runs(int(parent.stdout)):
            return
        time.sleep(0.02)
    os.kill(int(parent.stdout), signal.SIGKILL)
    pytest.fail("the program goes on")


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_program_that_does_not_read_its_stdin_is_ended_in_time() -> None:
    with pytest.raises(TimeoutError):
        run(["sleep", "20"], stdin="x" * 1_000_000, timeout=0.3)


def test_what_a_reader_of_lines_raises_ends_the_program_and_is_raised(capfd: pytest.CaptureFixture[str]) -> None:
    def stop(line: str) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(python("import sys, time; print('x', file=sys.stderr, flush=True); time.sleep(30)"), on_line=stop)
    assert time.monotonic() - began < 10
    assert "Traceback" not in capfd.readouterr().err


def test_variables_hold_for_a_block_and_what_a_user_set_counts_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBUILD_OWN", "user")
    monkeypatch.delenv("KBUILD_UNSET", raising=False)
    with default_variables({"KBUILD_OWN": "x", "KBUILD_UNSET": "x"}):
        assert (os.environ["KBUILD_OWN"], os.environ["KBUILD_UNSET"]) == ("user", "x")
    assert (os.environ["KBUILD_OWN"], "KBUILD_UNSET" in os.environ) == ("user", False)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's C library")
def test_variables_of_a_block_are_not_the_c_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    """setenv(3) beside a getenv(3) of another thread ends a process."""
    library = ctypes.CDLL(None)
    library.getenv.restype = ctypes.c_char_p
    monkeypatch.delenv("KBUILD_UNSET", raising=False)
    with default_variables({"KBUILD_UNSET": "x"}):
        assert (os.getenv("KBUILD_UNSET"), library.getenv(b"KBUILD_UNSET")) == ("x", None)
        change_defaults({"KBUILD_UNSET": "y"})
        assert (os.getenv("KBUILD_UNSET"), library.getenv(b"KBUILD_UNSET")) == ("y", None)
    monkeypatch.setenv("KBUILD_UNSET", "user")
    with default_variables({"KBUILD_UNSET": "x"}):
        assert library.getenv(b"KBUILD_UNSET") == b"user"
    assert library.getenv(b"KBUILD_UNSET") == b"user"


def test_variables_stay_until_the_last_of_overlapping_blocks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBUILD_UNSET", raising=False)
    first, second = default_variables({"KBUILD_UNSET": "1"}), default_variables({"KBUILD_UNSET": "2"})
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.environ["KBUILD_UNSET"] == "1"
    second.__exit__(None, None, None)
    assert "KBUILD_UNSET" not in os.environ
