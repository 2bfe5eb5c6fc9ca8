"""Formats of numbers: which files hold nothing else, from their headers, and which take them from other files."""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from collections.abc import Iterator
from typing import Any

from kbuild.audit.pickled.compressed import PACKED, is_zlib
from kbuild.audit.pickled.containers import is_tar
from kbuild.audit.pickled.effort import Effort

NUMPY = b"\x93NUMPY"
# safetensors: a format that holds numbers alone, https://github.com/huggingface/safetensors#format.
_MAX_HEADER = 100_000_000
_TYPES = frozenset(
    {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64", "F16", "BF16", "F32", "F64", "C64", "F8_E4M3"}
    | {"F8_E5M2", "F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"}
)


def is_tensors(data: bytes) -> bool:
    """Whether it is a safetensors file from first byte to last: tensors without gaps and nothing else.

    One that is an archive or a compressed file as well is not: pandas and others go by what they find.
    """
    if len(data) < 10 or data[8:9] != b"{" or _is_packed_too(data):
        return False
    size = int.from_bytes(data[:8], "little")
    if size > min(_MAX_HEADER, len(data) - 8):
        return False
    try:
        header = json.loads(data[8 : 8 + size])
        tensors = [value for name, value in header.items() if name != "__metadata__"]
        spans = sorted(tuple(value["data_offsets"]) for value in tensors if value["dtype"] in _TYPES)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    end = 0
    for begin, until in spans:
        if begin != end or until < begin:
            return False
        end = until
    return len(spans) == len(tensors) and 8 + size + end == len(data)


def _is_packed_too(data: bytes) -> bool:
    # A zip archive is found by its end, behind which a comment may stand.
    packed = PACKED.match(data) is not None or is_zlib(data) or is_tar(data)
    return packed or data.rfind(b"PK\x05\x06", max(0, len(data) - 2**17)) >= 0


def after_arrays(data: bytes) -> tuple[int, bool]:
    """Where the arrays of numbers end that an ``.npy`` file begins with (numpy's ``lib/format.py``: one may follow the
    other), and whether the pickle of an array of objects begins there."""
    begin, objects = 0, False
    while data.startswith(NUMPY, begin) and not objects:
        begin, objects = _after_header(data, begin)
    return begin, objects


def _after_header(data: bytes, begin: int) -> tuple[int, bool]:
    width = 2 if data[begin + 6 : begin + 7] == b"\x01" else 4
    start = begin + 8 + width
    end = start + int.from_bytes(data[begin + 8 : start], "little")
    try:
        # As numpy reads it: an escape in the text would hide the letter.
        header = ast.literal_eval(data[start:end].decode("latin-1").strip())
        if _is_numbers(header["descr"]):
            # Whoever reads on finds what comes after them.
            size = _size(header["descr"]) * math.prod(header["shape"])
            return max(start, min(end + size, len(data))), False
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError, struct.error):
        pass
    return min(end, len(data)), True


def _size(descr: Any) -> int:
    """Bytes of one element of numbers (numpy's docs, "Array-protocol type strings")."""
    if isinstance(descr, str):
        found = re.match(r"[<>|=]?([A-Za-z?])(\d*)", descr)
        kind, digits = found.groups() if found is not None else ("", "")
        return int(digits or 1) * (4 if kind == "U" else 1)
    if isinstance(descr, tuple):
        shape = descr[1] if isinstance(descr[1], tuple) else (descr[1],)
        return _size(descr[0]) * math.prod(shape)
    return sum(_size(each[1] if len(each) == 2 else (each[1], each[2])) for each in descr)


def _is_numbers(descr: object) -> bool:
    if isinstance(descr, str):
        return re.fullmatch(r"[<>|=]?[biufcSUVmM?]\d*(\[[^\]]*\])?", descr) is not None
    if isinstance(descr, tuple) and len(descr) == 2:  # a type and its shape
        return _is_numbers(descr[0])
    return isinstance(descr, list) and all(isinstance(each, tuple) and _is_numbers(each[1]) for each in descr)


_HDF5 = b"\x89HDF\r\n\x1a\n"
_BASES = (0, *(512 << n for n in range(20)))
# A link to another file: version 1, flags that say that its kind is written, the kind 64.
_LINK = re.compile(rb"\x01([\x08-\x1f])\x40")
# Where the numbers of a dataset lie in other files: version 1, slots, those in use, the heap of their names.
_EXTERNAL = re.compile(rb"\x01\0\0\0(?=(?!\0\0)(..)(?!\0\0)(..)(.{6}\0\0))", re.DOTALL)
_HEAP = b"HEAP"
# Where a dataset's numbers lie in datasets of other files: version 4 of a layout, the class 3, the heap of their names.
_VIRTUAL = re.compile(rb"\x04\x03(?=(.{8})(.{4}))", re.DOTALL)
_COLLECTION = b"GCOL"
# How chunks of a dataset are packed: the message's type, and by its header of three forms the version and the number of
# filters after it.
_FILTERS = re.compile(rb"\x0b(?=(?:.{3}|.{5}|\0.{6})[\1\2][\1-\x20])", re.DOTALL)
_HEADERS = ((1, 4), (1, 6), (2, 8))  # where the size stands, and where the message begins
_MOST_FILTERS = 32
_LOOKS = 32  # that each of what may be such a list takes
# HDF5's own by how many values each takes (None: as many as the first says); those of PyTables, and registered ones.
_KINDS = {1: 1, 2: 1, 3: 0, 4: 4, 5: None, 6: 20}
_OTHER_KINDS = {305, 307, *range(32_000, 1 << 16)}
_CHECKSUM, _NAMED_FILTERS = 3, 256  # what that filter gets is there as it is; of those below names are left out
_LINKS = re.compile(rb"FRHP\0..(?!\0\0)", re.DOTALL)  # the heap of links, behind filters
_WIDTHS = (b"\x02", b"\x04", b"\x10", b"\x20")  # of addresses, beside 8, which everybody writes
# ONNX' TensorProto.external_data, a key and its value: texts with their lengths.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x1f])")
_LONGEST_NAME, _SHOWN = 4096, 200


def other_files(data: bytes) -> Iterator[str]:
    """The files that an HDF5 file reads its own content from, and those outside of its folder that ONNX does, told as
    problems (HDF5 File Format Specification 3.0, IV.A.2.g and h; onnx.proto, ``external_data``)."""
    found: dict[bytes, None] = {}
    # Before it may be anything of 512 bytes, or twice, four times … as many.
    base = next((each for each in _BASES if data.startswith(_HDF5, each)), None)
    if base is not None:
        inside = data[base:] if base else data
        width = inside[13:14] if inside[8:9] in (b"\0", b"\1") else inside[9:10]
        if width in _WIDTHS:
            yield f"has addresses of {width[0]} bytes, by which HDF5 is not read here"
        found |= dict.fromkeys((*_linked(inside), *_external(inside), *_virtual(inside)))
    for match in _LOCATION.finditer(data):
        size = match[1][0] if len(match[1]) == 1 else (match[1][0] & 0x7F) | match[1][1] << 7
        name = data[match.end() : match.end() + size]
        if name.startswith((b"/", b"\\")) or b":" in name or b".." in re.split(rb"[/\\]", name):
            found[name] = None
    for name in found:
        yield f"reads the file {name.decode('utf-8', 'replace')[:_SHOWN]!r}, which is not of the model"


def is_filtered(data: bytes, effort: Effort) -> bool:
    """Whether a file of HDF5 keeps anything packed by its filters, in which it cannot be seen (HDF5 File Format
    Specification 3.0, III.G and IV.A.2.l). Raises TooMuch."""
    if not any(data.startswith(_HDF5, each) for each in _BASES):
        return False
    if _LINKS.search(data) is not None:
        return True
    for match in _FILTERS.finditer(data):
        effort.look(_LOOKS)
        for size, body in ((match.start() + size, match.start() + body) for size, body in _HEADERS):
            if _packs(data, body, body + int.from_bytes(data[size : size + 2], "little")):
                return True
    return False


def _packs(data: bytes, at: int, end: int) -> bool:
    """Whether that is a list of filters, and has one that leaves nothing as it is."""
    version, number = data[at : at + 1], int.from_bytes(data[at + 1 : at + 2], "little")
    if version not in (b"\1", b"\2") or not 0 < number <= _MOST_FILTERS:
        return False
    is_first = version == b"\1"
    at += 8 if is_first else 2
    kinds: list[int] = []
    for _ in range(number):
        kind = int.from_bytes(data[at : at + 2], "little")
        at += 2
        name = 0
        if is_first or kind >= _NAMED_FILTERS:
            name = int.from_bytes(data[at : at + 2], "little")
            at += 2
        flags, values = struct.unpack_from("<2H", data[at : at + 4].ljust(4, b"\xff"))
        at += 4 + name
        first = int.from_bytes(data[at : at + 4], "little")
        at += 4 * (values + (values % 2 if is_first else 0))
        kinds.append(kind)
        known = kind in _OTHER_KINDS or (kind in _KINDS and values == (first if _KINDS[kind] is None else _KINDS[kind]))
        if not known or flags > 0xFF or at > min(end, len(data)):
            return False
    return any(kind != _CHECKSUM for kind in kinds)


def _linked(data: bytes) -> Iterator[bytes]:
    for match in _LINK.finditer(data):
        flags = match[1][0]
        at = match.end() + (8 if flags & 0x04 else 0) + (1 if flags & 0x10 else 0)
        width = 1 << (flags & 0x03)
        name = int.from_bytes(data[at : at + width], "little")
        at += width + name
        if not 0 < name <= _LONGEST_NAME or at + 2 > len(data):
            continue
        info = data[at + 2 : at + 2 + int.from_bytes(data[at : at + 2], "little")]
        if info[:1] == b"\0" and info.count(b"\0") == 3 and info.endswith(b"\0"):
            yield info[1:].split(b"\0")[0]


def _external(data: bytes) -> Iterator[bytes]:
    for match in _EXTERNAL.finditer(data):
        slots, used, heap = (int.from_bytes(each, "little") for each in match.groups())
        if not 0 < used <= slots or data[heap : heap + 4] != _HEAP:
            continue
        segment = int.from_bytes(data[heap + 24 : heap + 32], "little")
        first = match.start() + 16
        for slot in range(first, min(first + 24 * used, len(data)), 24):
            begin = segment + int.from_bytes(data[slot : slot + 8], "little")
            name = data[begin : begin + _LONGEST_NAME].partition(b"\0")[0]
            if name:
                yield name


def _virtual(data: bytes) -> Iterator[bytes]:
    for match in _VIRTUAL.finditer(data):
        heap, index = (int.from_bytes(each, "little") for each in match.groups())
        if data[heap : heap + 4] != _COLLECTION:
            continue
        end = heap + int.from_bytes(data[heap + 8 : heap + 16], "little")
        at = heap + 16
        while at + 16 <= min(end, len(data)):
            size = int.from_bytes(data[at + 8 : at + 16], "little")
            if int.from_bytes(data[at : at + 2], "little") == index:
                yield from _sources(data[at + 16 : at + 16 + size])
                break
            at += 16 + size + -size % 8


def _sources(mapping: bytes) -> Iterator[bytes]:
    """Of a virtual dataset: a version, the number of its parts, and of the first the name of its file."""
    name = mapping[9:].partition(b"\0")[0][:_LONGEST_NAME]
    if name != b".":  # the file itself
        yield name
