"""A program in front, with the streams of this one, and all that it starts: they end together."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stay(argv: Sequence[str], *, env: Mapping[str, str], grace: float = 10.0) -> int:
    """Its return code, once it has ended by itself or by a signal to this process; to be called in the main thread.

    It leads a session of its own, and what is left of that after it is ended, after ``grace`` seconds by force.
    """
    process: subprocess.Popen[bytes] | None = None
    asked = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if process is not None:
            process.terminate()

    before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        process = subprocess.Popen(list(argv), env=dict(env), start_new_session=True)
        if asked:  # while it was being started
            process.terminate()
        return process.wait()
    finally:
        if process is not None:
            _end_rest(process.pid, grace)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_rest(group: int, grace: float) -> None:
    deadline = time.monotonic() + grace
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nobody is left
