"""SIGTERM while a run is under way: in processes of their own, which it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

HEAD = """
    import asyncio, os, signal, sys, threading, time
    from pathlib import Path
    from kbuild.hooks.terminated import EndWatch, Terminated
    def mark():
        Path(sys.argv[1]).write_text("marked")
    def term(): os.kill(os.getpid(), signal.SIGTERM)
"""


def run(code: str, folder: Path) -> tuple[int, str, str | None, float]:
    """The status, what was printed, and what ``mark`` wrote."""
    file = folder / "marked"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HEAD) + textwrap.dedent(code), str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, file.read_text() if file.exists() else None, time.monotonic() - begun


def test_it_unwinds_and_then_ends_by_the_signal(tmp_path: Path) -> None:
    status, out, marked, _ = run(
        """
        guard = EndWatch(mark, patience=20); guard.install()
        try:
            term(); time.sleep(30)
        except Terminated:
            print("unwound", guard.came, flush=True)
            guard.remove()
        """,
        tmp_path,
    )
    assert (status, out, marked) == (-signal.SIGTERM, "unwound True\n", None)


@pytest.mark.parametrize(
    "stuck",
    [
        "time.sleep(30)",  # swallows it, and goes on
        # C code that lets other threads run, and returns to no bytecode.
        "import ctypes; libc = ctypes.CDLL(None); [libc.sleep(30) for _ in (1, 2)]",
        "threading.Thread(target=time.sleep, args=(30,)).start()",  # who waits for its threads
    ],
)
def test_what_does_not_stop_is_stopped_and_the_run_is_marked(stuck: str, tmp_path: Path) -> None:
    status, _, marked, seconds = run(
        f"""
        guard = EndWatch(mark, patience=0.5); guard.install()
        threading.Timer(0.2, term).start()
        try:
            {stuck}
            time.sleep(30)
        except Terminated:
            {stuck}
        """,
        tmp_path,
    )
    assert (status, marked) == (128 + signal.SIGTERM, "marked")
    assert seconds < 15


def test_workers_of_a_run_that_does_not_stop_are_stopped_too(tmp_path: Path) -> None:
    status, out, marked, seconds = run(
        """
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        guard = EndWatch(mark, patience=0.5); guard.install()
        pool = ProcessPoolExecutor(1, mp_context=get_context("fork"))
        print(pool.submit(os.getpid).result(), flush=True)
        busy = pool.submit(time.sleep, 20)
        threading.Timer(0.2, term).start()
        busy.result()
        """,
        tmp_path,
    )
    # The pipe that it printed to is closed when the last of them ends.
    assert (status, marked) == (128 + signal.SIGTERM, "marked") and seconds < 15
    until = time.monotonic() + 10
    while _is_alive(int(out)) and time.monotonic() < until:
        time.sleep(0.02)  # an end closes the pipe first, and the process is gone a moment later
    assert not _is_alive(int(out))


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] not in ("Z", "X")  # nobody may have asked yet how it ended


def test_another_one_ends_it_at_once(tmp_path: Path) -> None:
    status, _, marked, _ = run(
        """
        guard = EndWatch(mark, patience=20); guard.install()
        try:
            term(); time.sleep(30)
        except Terminated:
            term(); time.sleep(30)
        """,
        tmp_path,
    )
    assert (status, marked) == (-signal.SIGTERM, None)


@pytest.mark.slow
def test_a_process_that_was_forked_ends_by_it_alone(tmp_path: Path) -> None:
    status, out, marked, _ = run(
        """
        guard = EndWatch(mark, patience=0.2); guard.install()
        ends = set()
        for _ in range(50):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(9)
            os.kill(child, signal.SIGTERM)
            ends.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(ends, flush=True)
        time.sleep(1)
        guard.remove()
        time.sleep(0.5)
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, signal.set_wakeup_fd(-1), threading.active_count())
        """,
        tmp_path,
    )
    assert (status, out, marked) == (0, "{-15}\nTrue -1 1\n", None)


@pytest.mark.parametrize(
    "theirs", ["signal.signal(signal.SIGTERM, lambda *_: os._exit(3))", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"]
)
def test_a_signal_that_is_somebodys_stays_theirs(theirs: str, tmp_path: Path) -> None:
    status, _, marked, _ = run(
        f"""
        {theirs}
        before = signal.getsignal(signal.SIGTERM)
        guard = EndWatch(mark, patience=0.2); guard.install()
        assert signal.getsignal(signal.SIGTERM) is before
        term(); time.sleep(0.5); guard.remove()
        assert signal.getsignal(signal.SIGTERM) is before
        """,
        tmp_path,
    )
    assert (status, marked) == (3 if "_exit" in theirs else 0, None)


def test_an_event_loop_of_a_node_takes_what_tells_of_signals_and_gives_it_back(tmp_path: Path) -> None:
    status, out, marked, _ = run(
        """
        guard = EndWatch(mark, patience=20); guard.install()
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, lambda: print("usr1", flush=True))
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0.2)
        asyncio.run(main())
        try:
            term(); time.sleep(30)
        except Terminated:
            print("unwound", flush=True)
            guard.remove()
        """,
        tmp_path,
    )
    assert (status, out, marked) == (-signal.SIGTERM, "usr1\nunwound\n", None)


def test_an_end_without_a_signal_marks_it_too(tmp_path: Path) -> None:
    status, _, marked, _ = run("guard = EndWatch(mark); guard.install(); raise KeyboardInterrupt", tmp_path)
    assert (status, marked) == (-signal.SIGINT, "marked")
    status, _, marked, _ = run("guard = EndWatch(mark); guard.install(); guard.remove()", tmp_path / "..")
    assert (status, marked) == (0, None)
