"""Answers of channels come to an end in the built-in solver, too.

rattler's client (py-rattler 0.28) has no bound of its own, in bytes or in time.

What a process received is asked of the kernel, by socket (tcp(7), TCP_INFO; ``tcpi_bytes_received`` of linux/tcp.h).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kbuild.bounded.in_time import LONGEST_WAIT, longest_wait, too_slow

DRIPS, DRIP = 20.0, 80 << 10
"""Seconds of waiting in which some bytes come, but less than so many: no channel that can be used is as slow. None at
all may be another process's turn at the same cache, and is rattler's own time limit otherwise."""
LONGEST = 300.0
"""Seconds of waiting for channels, all together. Both are as many times as long as ``longest_wait`` says."""
LARGEST = 1 << 30
"""Bytes from channels, all together; what the largest one tells of all its packages has a twentieth of it, packed."""
HELD = 64 << 20
"""Bytes from channels that are not on the disk: lists of all packages go there while they come, and what is left, of
single packages, is small."""

_IO, _OPEN = Path("/proc/self/io"), Path("/proc/self/fd")
_LOOK = 0.2
_IDLE = 0.2  # of a processor: what works with packages takes all of one
_BYTES_RECEIVED = slice(128, 136)


def watch_channels(cut: Callable[[str], None]) -> None:
    """Have a thread call ``cut``, which ends the process, with why, where channels send without end or hardly at all.

    Only where the kernel counts: Linux with /proc. Raises ConfigurationError.
    """
    patience = longest_wait() / LONGEST_WAIT
    if not _IO.is_file():
        return
    threading.Thread(target=_watch, args=[cut, patience], daemon=True, name="bounds of channels").start()


def _watch(cut: Callable[[str], None], patience: float) -> None:
    drips, longest = DRIPS * patience, LONGEST * patience
    known: dict[str, int] = {}
    waited = dripping = 0.0
    before, worked, seen = 0, time.process_time(), time.monotonic()
    while True:
        time.sleep(_LOOK)
        known |= received()
        total = sum(known.values())
        work, now = time.process_time() - worked, time.monotonic() - seen
        worked, seen = worked + work, seen + now
        if work < _IDLE * now:
            waited += now
        if work >= _IDLE * now or total - before >= DRIP or total == before:
            before, dripping = total, 0.0
        else:
            dripping += now
        if total > LARGEST:
            cut(f"its answers have more than {LARGEST >> 20} MiB")
        if total - written() > HELD:
            cut(f"an answer has more than {HELD >> 20} MiB")
        if dripping > drips:
            cut(too_slow("its answer", drips))
        if waited > longest:
            cut(too_slow("its answers", longest))


def received() -> dict[str, int]:
    """Bytes that each open TCP connection of this process has received, by the socket's name (proc(5))."""
    found = {}
    for each in _OPEN.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, or no TCP
            name = str(each.readlink())
            if name.startswith("socket:"):
                with socket.socket(fileno=os.dup(int(each.name))) as known:
                    info = known.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                found[name] = int.from_bytes(info[_BYTES_RECEIVED], "little")
    return found


def written() -> int:
    """Bytes that this process has written to files (proc(5), ``wchar``); what is sent by sockets is not counted."""
    lines = _IO.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))
