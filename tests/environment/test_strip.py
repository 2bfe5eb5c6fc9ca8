import io
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from kbuild.environment.captured.strip import strip_file, without_symbols

LIBRARIES = sorted(Path(sysconfig.get_path("platstdlib"), "lib-dynload").glob("_[a-d]*.so"))
PROGRAM = Path(sys.executable).resolve()


def loaded(data: bytes) -> tuple[list[object], list[object]]:
    """What the loader sees, as another library reads it: segments with their bytes, and the sections in them."""
    file = ELFFile(io.BytesIO(data))
    begun = file.header.e_ehsize  # whose header says where the sections are described
    segments = [
        (each.header, each.data()[begun if each.header.p_offset == 0 else 0 :]) for each in file.iter_segments()
    ]
    sections = []
    for section in file.iter_sections():
        if section["sh_flags"] & 2:
            sections.append((section.name, {k: v for k, v in section.header.items() if k != "sh_name"}))
    return segments, sections


@pytest.mark.parametrize("path", [PROGRAM, *LIBRARIES[:6]], ids=lambda path: path.name)
def test_what_is_loaded_stays_and_the_rest_goes(path: Path) -> None:
    data = path.read_bytes()
    stripped = without_symbols(data)
    assert stripped is not None and len(stripped) <= len(data) + 64
    assert loaded(stripped) == loaded(data)
    names = {section.name for section in ELFFile(io.BytesIO(stripped)).iter_sections()}
    assert not {name for name in names if name.startswith((".debug", ".symtab", ".strtab"))}
    assert ".shstrtab" in names
    assert without_symbols(stripped) == stripped


def test_a_stripped_program_runs(tmp_path: Path) -> None:
    copy = Path(shutil.copy(PROGRAM, tmp_path / "python"))
    strip_file(copy)
    told = subprocess.run([copy, "-I", "-S", "-V"], capture_output=True, text=True, check=True).stdout
    assert told == f"Python {sys.version.split()[0]}\n"


def test_what_is_no_such_file_is_left_as_it_is(tmp_path: Path) -> None:
    data = (LIBRARIES or [PROGRAM])[0].read_bytes()
    for other in (b"", b"\x7fELF", b"#!/bin/sh\n", data[:64], data[: len(data) // 2], b"\x7fELF\x01" + data[5:]):
        assert without_symbols(other) is None
    path = tmp_path / "script"
    path.write_bytes(b"#!/bin/sh\n")
    strip_file(path)
    assert path.read_bytes() == b"#!/bin/sh\n"


def test_damaged_files_raise_nothing() -> None:
    data = (LIBRARIES or [PROGRAM])[0].read_bytes()
    chance = random.Random(3)  # noqa: S311  damage, no secret
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(4):
            # The header, or the table of the sections at the end.
            place = chance.choice([chance.randrange(6, 64), len(data) - 1 - chance.randrange(2000)])
            damaged[place] = chance.randrange(256)
        without_symbols(bytes(damaged))
