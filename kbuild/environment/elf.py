"""What kbuild reads from ELF files: whether a file is one, and which C library it needs.

Format: the System V ABI's ELF chapters, and "Symbol Versioning" of the Linux Standard Base (``.gnu.version_r``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

_GLIBC = re.compile(r"GLIBC_(\d+)\.(\d+)")
# The marker of packed relative relocations; no version number, but the loader knows it since this glibc.
_RELR_MARKER, _RELR_GLIBC = "GLIBC_ABI_DT_RELR", (2, 36)


def is_elf(path: Path) -> bool:
    """Whether a regular file starts like an ELF file."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def required_glibc(paths: Iterable[Path]) -> tuple[int, int]:
    """The oldest glibc, as (major, minor), that has every symbol version these ELF files need; (2, 0) for none."""
    needed = (2, 0)
    for path in paths:
        with path.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                if isinstance(section, GNUVerNeedSection):
                    for _, versions in section.iter_versions():
                        needed = max([needed, *(_glibc_of(version.name) for version in versions)])
    return needed


def _glibc_of(symbol_version: str) -> tuple[int, int]:
    if symbol_version == _RELR_MARKER:
        return _RELR_GLIBC
    match = _GLIBC.match(symbol_version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
