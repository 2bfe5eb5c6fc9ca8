"""Who stops a command does not wait for servers that do not answer."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from kbuild.process.asking import asking_pool, is_asking

HANGING = """
import threading
from kbuild.cli import app
from kbuild.process.asking import asking_pool

def main(**options):
    print("begun", flush=True)
    with asking_pool(1) as pool:
        pool.submit(threading.Event().wait)
        raise {error}

app.cli.main = main
app.run()
"""


def test_a_block_that_is_left_by_an_exception_does_not_wait() -> None:
    answered, begun = threading.Event(), threading.Event()

    def ask() -> None:
        begun.set()
        answered.wait()

    asked: list[Future[None]] = []
    with pytest.raises(KeyboardInterrupt), asking_pool(1) as pool:
        asked += [pool.submit(ask), pool.submit(ask)]
        assert begun.wait(30)
        raise KeyboardInterrupt
    assert is_asking()
    assert asked[1].cancelled()
    answered.set()
    pool.shutdown()
    assert not is_asking()


def test_a_block_that_ends_waits_for_all_answers() -> None:
    with asking_pool(2) as pool:
        answers = [pool.submit(pow, 2, number) for number in range(4)]
    assert [each.result(0) for each in answers] == [1, 2, 4, 8]
    assert not is_asking()


@pytest.mark.parametrize(
    ("error", "code", "said"), [("KeyboardInterrupt", 130, "stopped\n"), ("SystemExit(143)", 143, "")]
)
def test_a_command_ends_though_a_server_never_answers(error: str, code: int, said: str) -> None:
    argv = [sys.executable, "-c", HANGING.format(error=error)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "begun\n", said)
