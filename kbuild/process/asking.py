"""Threads that ask servers, for whose answers nobody waits who stops a command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_NAME = "asks a server"


@contextmanager
def asking_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of so many. What leaves the block by an exception, as Ctrl-C does, does not wait for what is asked."""
    pool = ThreadPoolExecutor(threads, _NAME)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def is_asking() -> bool:
    """Whether some thread of such a pool still waits for a server. At its end Python would wait for it."""
    return any(thread.name.startswith(_NAME) for thread in threading.enumerate())
