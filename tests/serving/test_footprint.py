"""Starting's footprint: room for frames, and library pages given back without losing what was written."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kbuild.serving.process import footprint
from kbuild.serving.process.footprint import call_with_room, give_back_library_pages

PAGE = mmap.PAGESIZE
_FILE, _OWN, _SWAPPED, _ABSENT = 0xA1, 0x81, 0x40, 0x00
_MAPS = f"""\
00010000-00012000 r--p 00000000 08:01 11                         /opt/env/lib/lib with space.so
00012000-00013000 r-xp 00002000 08:01 11                         /opt/env/lib/lib with space.so
00013000-00014000 r--p 00003000 08:01 11                         /opt/env/lib/lib with space.so
00014000-00015000 rw-p 00004000 08:01 11                         /opt/env/lib/lib with space.so
00020000-00021000 r--p 00000000 08:01 12                         /opt/model/weights.npy
00030000-00031000 r-xs 00000000 08:01 13                         /opt/env/lib/shared
00040000-00041000 r-xp 00000000 00:00 0{" " * 26}
7ffd0000000-7ffd0001000 r-xp 00000000 00:00 0                      [vdso]
"""

_TOLD = pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="the kernel does not tell of its pages")


def _faults_by_depth(call: Callable[[Callable[[], list[int]]], list[int]]) -> list[int]:
    """By depth of the stack: new pages taken while one function is called 100 times from there."""

    def leaf(a: int, b: int, c: int) -> int:
        return a + b + c

    def at(depth: int) -> int:
        if depth:
            return at(depth - 1)
        leaf(1, 2, 3)
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(100):
            leaf(1, 2, 3)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun

    return call(lambda: [at(depth) for depth in range(400)])


def test_calls_at_the_end_of_a_chunk_take_no_new_pages() -> None:
    assert max(_faults_by_depth(call_with_room)) < 50


def test_what_is_called_with_room_gives_its_result_and_its_error() -> None:
    assert call_with_room(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        call_with_room(lambda: 1 // 0)


def test_ranges_are_code_and_constants_of_libraries_only() -> None:
    assert footprint._library_ranges(_MAPS) == [(0x10000, 0x12000), (0x12000, 0x13000), (0x13000, 0x14000)]


@pytest.mark.parametrize(
    ("states", "clean"),
    [
        ([_FILE, _ABSENT], True),
        ([_FILE, _OWN], False),
        ([_SWAPPED, _FILE], False),
        ([_FILE], False),  # told of less than asked
    ],
)
def test_a_range_with_a_page_of_the_process_own_is_kept(tmp_path: Path, states: list[int], clean: bool) -> None:
    pagemap = tmp_path / "pagemap"
    pagemap.write_bytes(bytes(8) + b"".join(struct.pack("<Q", state << 56 | 0xFF) for state in states))
    where = (PAGE, 3 * PAGE)
    assert footprint._never_written([where], pagemap) == ([where] if clean else [])


def test_a_kernel_that_shows_other_addresses_is_not_believed(tmp_path: Path) -> None:
    pagemap = tmp_path / "pagemap"
    pagemap.touch()
    os.truncate(pagemap, 1 << 40)  # of nothing but holes: as if no page were in memory
    assert footprint._never_written([(PAGE, 3 * PAGE)], pagemap) == []


def test_nothing_is_given_back_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    assert give_back_library_pages(tmp_path) == 0
    (tmp_path / "maps").write_text(_MAPS)
    assert give_back_library_pages(tmp_path) == 0


@_TOLD
def test_pages_are_given_back_and_come_again() -> None:
    code = """
import re, json, hashlib, numpy
from pathlib import Path
from kbuild.serving.process.footprint import give_back_library_pages
held = lambda: int(re.search(r"RssFile:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
before = held()
given = give_back_library_pages()
product = float(numpy.arange(4.0) @ numpy.ones(4))
print(json.dumps([before, given, held(), hashlib.sha256(b"a").hexdigest()[:4], product]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, given, after, digest, product = json.loads(done.stdout)
    assert given > 1_000_000
    # How much comes again depends on how the kernel reads ahead.
    assert after < 0.8 * before
    assert (digest, product) == ("ca97", 6.0)


@_TOLD
def test_what_was_written_to_a_library_stays(tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.write_bytes(b"f" * 3 * PAGE)
    with library.open("rb") as file:
        code = mmap.mmap(file.fileno(), PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        table = mmap.mmap(file.fileno(), PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=PAGE)
    table[:5] = b"links"
    address = ctypes.addressof(ctypes.c_char.from_buffer(table))
    libc = ctypes.CDLL(None)
    assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), mmap.PROT_READ) == 0
    mapped = footprint._library_ranges(Path("/proc/self/maps").read_text(encoding="utf-8"))
    assert (address, address + PAGE) in mapped
    assert give_back_library_pages() > 0
    assert (table[:6], code[:2]) == (b"linksf", b"ff")
