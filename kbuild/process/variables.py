"""Variables of this process that hold for a block, for libraries of Python that take settings by no other way.

Python alone sees them, neither C libraries nor programs that are started: to change a variable of the C library while
another thread looks one up, as names of hosts and times of day have it do, is allowed to nobody (setenv(3) is
MT-Unsafe), and ended training now and then with a segmentation fault.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_blocks: dict[str, int] = {}  # how many blocks hold a variable that one of them set


@contextmanager
def default_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set these where nobody has set them, and take them away afterwards; a variable of the user's counts more.

    Blocks of several threads may overlap: the first one's value holds until the last one ends.
    """
    held = []
    with _lock:
        for name, value in values.items():
            if name not in _blocks and name in os.environ:
                continue
            if name not in os.environ:
                _put(name, value)
            _blocks[name] = _blocks.get(name, 0) + 1
            held.append(name)
    try:
        yield
    finally:
        with _lock:
            for name in held:
                _blocks[name] -= 1
                if _blocks[name] == 0:
                    del _blocks[name]
                    _put(name, None)


def change_defaults(values: Mapping[str, str]) -> None:
    """Give other values to those variables that a block of ``default_variables`` holds, until it ends; none of the
    user's is touched."""
    with _lock:
        for name in values.keys() & _blocks.keys():
            _put(name, values[name])


def _put(name: str, value: str | None) -> None:
    """What ``os.environ`` says of a variable, None to take it away."""
    environ: Any = os.environ
    held, key = environ._data, environ.encodekey(name)
    if value is None:
        held.pop(key, None)
    else:
        held[key] = environ.encodevalue(value)
