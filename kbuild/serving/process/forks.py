"""Whether what a process has loaded answers in processes that are forked of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_TASKS = Path("/proc/self/task")
# Pools by the names of their threads (proc(5), ``comm``), as polars 2.1 shows them once it has read a table: whoever
# gives them work in a fork waits for ever. Others' are not looked at; of OpenMP see ``Supervisor``.
_POOLS = re.compile(r"polars-\d|tokio-|async-exec")


def survives_fork() -> bool:
    """False where a library has begun threads that no fork has, as polars does with the first table that it reads."""
    names = []
    with contextlib.suppress(OSError):  # another system
        for each in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # it has ended
                names.append((each / "comm").read_text("utf-8", "replace"))
    return not any(map(_POOLS.match, names))
