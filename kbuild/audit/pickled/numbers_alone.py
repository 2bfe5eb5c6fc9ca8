"""Formats of numbers: which files hold nothing else, from their headers."""

from __future__ import annotations

import ast
import json
import math
import re
import struct
from typing import Any

from kbuild.audit.pickled.compressed import PACKED
from kbuild.audit.pickled.containers import is_tar

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
    return PACKED.match(data) is not None or is_tar(data) or data.rfind(b"PK\x05\x06", max(0, len(data) - 2**17)) >= 0


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
