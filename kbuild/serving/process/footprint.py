"""What starting costs and serving does not need: room for frames, and pages of libraries that only loading read."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import TypeVar

T = TypeVar("T")

_WORDS = 65536
_MADV_DONTNEED = 4  # <sys/mman.h> of Linux
# In the highest byte of a page's eight, see pagemap.rst: in memory, swapped out, of a file.
_PRESENT, _SWAPPED, _OF_FILE = 0x80, 0x40, 0x20


def _call(function: Callable[[], T]) -> T:
    return function()


def call_with_room(function: Callable[[], T]) -> T:
    """The result of ``function``, which has half a megabyte of stack for Python's frames in one piece.

    CPython keeps frames in chunks of 16 KiB; it maps another one for a call that does not fit and unmaps it when that
    returns (``push_chunk`` in Python/pystate.c). What is called again and again from the end of a chunk, deep in
    imports, then costs two system calls and new pages each time: 6,200 times in loading a scikit-learn model. A frame
    that asks for more gets a chunk of the next power of two, and what it calls shares the rest of that.
    """
    roomy = FunctionType(_call.__code__.replace(co_stacksize=_WORDS), globals())
    result: T = roomy(function)
    return result


def give_back_library_pages(proc: Path = Path("/proc/self")) -> int:
    """Bytes of libraries' code and constants that were unmapped page by page; the kernel brings back what is used.

    Linking and initialising read far more of a library than serving does: of the demo's 86 MB, 22 are used again.
    Only what nobody ever wrote to is given back, so nothing can be lost. No other thread may be loading libraries.
    0 where the kernel does not tell (proc_pid_maps(5), Documentation/admin-guide/mm/pagemap.rst).
    """
    try:
        ranges = _library_ranges((proc / "maps").read_text("utf-8", "surrogateescape"))
        clean = _never_written(ranges, proc / "pagemap")
    except OSError:
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return sum(end - start for start, end in clean if madvise(start, end - start, _MADV_DONTNEED) == 0)


def _library_ranges(maps: str) -> list[tuple[int, int]]:
    """Addresses of what may not be written to, of files that there is code of."""
    lines = [line.split(maxsplit=5) for line in maps.splitlines()]
    mapped = [(parts[0], parts[1], parts[5]) for parts in lines if len(parts) == 6 and parts[5].startswith("/")]
    libraries = {path for _, access, path in mapped if access == "r-xp"}
    found = [where.split("-") for where, access, path in mapped if access in ("r-xp", "r--p") and path in libraries]
    return [(int(start, 16), int(end, 16)) for start, end in found]


def _never_written(ranges: list[tuple[int, int]], pagemap: Path) -> list[tuple[int, int]]:
    """Those of which no page is a copy of this process's own, as linking makes them of tables that it fills in."""
    size = os.sysconf("SC_PAGE_SIZE")
    written = ctypes.create_string_buffer(b"x" * 2 * size)
    first = ctypes.addressof(written) // size * size + size
    with pagemap.open("rb", buffering=0) as file:
        # Under an emulator it may be that of other addresses, where everything looks absent.
        if not all(map(_is_own, _states(file.fileno(), (first, first + size), size))):
            return []
        return [each for each in ranges if not any(map(_is_own, _states(file.fileno(), each, size)))]


def _states(pagemap: int, where: tuple[int, int], size: int) -> set[int]:
    start, end = where
    count = (end - start) // size * 8
    told = os.pread(pagemap, count, start // size * 8)
    # A page that the kernel says nothing of could be anything.
    return {*told[7::8]} if len(told) == count else {_SWAPPED}


def _is_own(state: int) -> bool:
    return bool(state & _SWAPPED) or (bool(state & _PRESENT) and not state & _OF_FILE)
