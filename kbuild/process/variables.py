"""Variables of this process that hold for a block, for libraries that take settings by no other way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
            os.environ.setdefault(name, value)
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
                    os.environ.pop(name, None)


def change_defaults(values: Mapping[str, str]) -> None:
    """Give other values to those variables that a block of ``default_variables`` holds, until it ends; none of the
    user's is touched."""
    with _lock:
        os.environ.update({name: value for name, value in values.items() if name in _blocks})
