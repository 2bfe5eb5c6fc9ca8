"""What kbuild reads from ELF files: whether a file is one, which C library it needs, and which other libraries.

Format: the System V ABI's ELF chapters, and "Symbol Versioning" of the Linux Standard Base (``.gnu.version_r``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment, DynamicTag
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


def linked_names(path: Path) -> tuple[frozenset[str], str | None]:
    """The names of the libraries that an ELF file needs (``DT_NEEDED``), and its own (``DT_SONAME``) if it has one.

    None of either for a damaged file, which no loader takes.
    """
    try:
        with path.open("rb") as file:
            dynamic = [each for each in ELFFile(file).iter_segments() if isinstance(each, DynamicSegment)]
            tags = [tag for segment in dynamic for tag in segment.iter_tags()]
    except ELFError:
        return frozenset(), None
    needed = frozenset(_text(tag, "needed") for tag in tags if tag.entry.d_tag == "DT_NEEDED")
    return needed, next((_text(tag, "soname") for tag in tags if tag.entry.d_tag == "DT_SONAME"), None)


def _text(tag: DynamicTag, name: str) -> str:
    # pyelftools gives a tag its text as an attribute that is named like the tag.
    return str(getattr(tag, name))


def _glibc_of(symbol_version: str) -> tuple[int, int]:
    if symbol_version == _RELR_MARKER:
        return _RELR_GLIBC
    match = _GLIBC.match(symbol_version)
    return (int(match[1]), int(match[2])) if match else (0, 0)
