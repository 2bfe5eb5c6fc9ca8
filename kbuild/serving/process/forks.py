"""Whether what a process has loaded answers in processes that are forked of it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_TASKS, _MAPS = Path("/proc/self/task"), Path("/proc/self/maps")
# Pools by the names of their threads (proc(5), ``comm``), as polars 2.1 shows them once it has read a table: whoever
# gives them work in a fork waits for ever.
_POOLS = re.compile(r"polars-\d|tokio-|async-exec")
# GCC's OpenMP: a fork that asks for more than one thread after its parent had some waits for ever, as was seen of
# lightgbm 4.7 and xgboost 3.2, which have it work while they load. LLVM's and Intel's begin anew in a fork.
_OPENMP = b"libgomp"


def find_lost_threads() -> str | None:
    """Whose threads no fork has though its work would wait for them; None where forks answer as this process does.

    To be asked once all is loaded, before anything is forked. May end threads that begin anew when they are needed.
    """
    with contextlib.suppress(OSError):  # another system
        if any(map(_POOLS.match, _name_threads())):
            return "a library of the model has threads of its own, as polars has"
        if os.environ.get("OMP_NUM_THREADS") != "1" and _OPENMP in _MAPS.read_bytes() and _keeps_threads():
            return "a library of the model has used OpenMP while it loaded; OMP_NUM_THREADS=1 leaves it none to lose"
    return None


def _name_threads() -> list[str]:
    names = []
    for each in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has ended
            names.append((each / "comm").read_text("utf-8", "replace"))
    return names


def _keeps_threads() -> bool:
    """Whether there are threads which nobody ends before a fork: OpenBLAS ends its own, and begins them anew."""
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    names = _name_threads()
    return names.count(Path("/proc/self/comm").read_text("utf-8", "replace")) > 1  # OpenMP's have the program's name
