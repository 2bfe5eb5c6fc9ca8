"""The locks of a cache, of all processes: what is in use stays, and one at a time makes room."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kbuild.errors import CacheInUse
from kbuild.refused import refused_by_system

# Seconds that others who prune are waited for.
_PATIENCE = 60.0


@contextmanager
def in_use(paths: Sequence[Path]) -> Iterator[None]:
    """Keep entries from being removed for the block, whoever runs it; a killed process gives them back by itself.

    Raises FileNotFoundError for one that is not there.
    """
    with ExitStack() as stack:
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            path.stat()  # it may have been taken away before it was locked
        yield


@contextmanager
def cache_lock(cache: Path, how: int) -> Iterator[None]:
    """The lock of the whole cache, also of one that may only be read."""
    try:
        descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if how != fcntl.LOCK_SH or error.errno not in (errno.EROFS, errno.EACCES):
            raise
        # Whoever may only read it takes the lock all the same where the file is there, and on a read-only disk, where
        # nobody removes anything, the folder itself.
        name = cache / ".lock"
        descriptor = os.open(name if name.exists() else cache, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def waiting_lock(file: Path) -> Iterator[None]:
    """One at a time, of all processes; raises CacheInUse where others take longer than a prune does."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise CacheInUse(f"another kbuild works with {file.parent}") from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def telling(cache: Path) -> Iterator[None]:
    """Whatever the system refuses the block is told with the cache and its size."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, BrokenPipeError | ConnectionError):
            raise
        raise refused_by_system(error, cache=cache) from error
