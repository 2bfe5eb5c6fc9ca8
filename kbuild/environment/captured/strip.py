"""Takes out of an ELF file what is not loaded: debug information and symbols, half of a captured interpreter.

As binutils' ``strip`` does, whose versions write different bytes, while a captured interpreter's are to depend on the
interpreter alone. Format: the System V ABI, chapters 4 ("ELF Header", "Sections") and 5 ("Program Header").
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_KIND = b"\x7fELF\x02\x01"  # 64 bits, little endian
_PROGRAM, _LIBRARY = 2, 3
_STRINGS, _NOBITS = 3, 8
_ALLOC, _INFO_LINK = 2, 0x40
_NAMES = b".shstrtab"


class _Header(NamedTuple):
    ident: bytes
    kind: int
    machine: int
    version: int
    entry: int
    segments_at: int
    sections_at: int
    flags: int
    size: int
    segment_size: int
    segments: int
    section_size: int
    sections: int
    names: int


class _Section(NamedTuple):
    name: int = 0
    kind: int = 0
    flags: int = 0
    address: int = 0
    offset: int = 0
    size: int = 0
    link: int = 0
    info: int = 0
    alignment: int = 0
    entry: int = 0


def strip_file(path: Path) -> None:
    """Strip a program or shared library in its place; what linkers do not lay out so stays as it is. Raises OSError."""
    stripped = without_symbols(path.read_bytes())
    if stripped is not None:
        path.write_bytes(stripped)


def without_symbols(data: bytes) -> bytes | None:
    """The file without the sections that no segment loads, None where that is not known to be harmless."""
    try:
        return _stripped(data)
    except (struct.error, IndexError, OverflowError, ValueError):  # damaged, or no such file
        return None


def _stripped(data: bytes) -> bytes | None:
    header = _Header(*_HEADER.unpack_from(data))
    sizes = header.section_size == _SECTION.size and header.segment_size == _SEGMENT.size
    if not header.ident.startswith(_KIND) or header.kind not in (_PROGRAM, _LIBRARY) or not sizes:
        return None
    starts = range(header.sections_at, header.sections_at + header.sections * _SECTION.size, _SECTION.size)
    sections = [_Section(*_SECTION.unpack_from(data, start)) for start in starts]
    texts = sections[header.names]
    count = sum(bool(section.flags & _ALLOC) for section in sections) + 1  # the first is none
    loaded = sections[:count]
    # Symbols, and some sections, name sections by their number: those that stay must keep theirs.
    in_order = all(section.flags & _ALLOC for section in loaded[1:])
    named = {section.link for section in loaded} | {each.info for each in loaded if each.flags & _INFO_LINK}
    if not in_order or max(named) >= count:
        return None
    segments = [
        _SEGMENT.unpack_from(data, header.segments_at + number * _SEGMENT.size) for number in range(header.segments)
    ]
    end = max(
        header.segments_at + header.segments * _SEGMENT.size,
        *(offset + size for _, _, offset, _, _, size, _, _ in segments),
        *(each.offset + each.size for each in loaded if each.kind != _NOBITS),
    )
    if end > len(data):
        return None
    table, places = b"\0", []
    for section in loaded[1:]:
        places.append(len(table))
        start = texts.offset + section.name
        table += data[start : data.index(b"\0", start)] + b"\0"
    own = _Section(name=len(table), kind=_STRINGS, offset=end, size=len(table) + len(_NAMES) + 1, alignment=1)
    table += _NAMES + b"\0"
    kept = [_Section(), *(each._replace(name=place) for each, place in zip(loaded[1:], places, strict=True)), own]
    body = data[:end] + table
    body += bytes(-len(body) % 8)
    changed = header._replace(sections_at=len(body), sections=len(kept), names=count)
    return _HEADER.pack(*changed) + body[_HEADER.size :] + b"".join(_SECTION.pack(*each) for each in kept)
