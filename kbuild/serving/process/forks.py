"""Whether what a process has loaded answers in processes that are forked of it."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_TASKS = Path("/proc/self/task")
# Pools of libraries in Rust, by the names of their threads (proc(5), ``comm``): polars' own, and those of tokio and
# async-std. A fork has none of their threads, and whoever gives them work waits for ever (polars' user guide,
# "Multiprocessing"). OpenBLAS, OpenMP and pyarrow begin theirs anew.
_POOLS = re.compile(r"polars-\d|tokio-|async-exec")


def survives_fork() -> bool:
    """False where a library has begun threads that no fork has, as polars does with the first table that it reads."""
    names = []
    with contextlib.suppress(OSError):  # another system
        for each in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # it has ended
                names.append((each / "comm").read_text("utf-8", "replace"))
    return not any(map(_POOLS.match, names))
