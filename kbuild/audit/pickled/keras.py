"""Layers of Keras that hold code: its configurations, in JSON, lie in HDF5 files and in the zip of its own format."""

from __future__ import annotations

import re

_ESCAPE = re.compile(rb"\\u00([0-7][0-9a-fA-F])")
# "L\\u0061mbda" is the same to a reader of JSON.
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"(?:Lambda|__lambda__)"')
_WIDE = re.compile(rb"(?:\xff\xfe|\xfe\xff|\0\0\xfe\xff)?\0{0,3}[{\[]\0|\0{1,3}[{\[]")


def names_lambda(data: bytes) -> bool:
    """Whether a configuration in these bytes has a layer whose code is run when it is loaded."""
    if _WIDE.match(data):
        data = data.replace(b"\0", b"")  # JSON in UTF-16 or UTF-32, which Python's reader tells by such a beginning
    if b"\\u00" in data:
        data = _ESCAPE.sub(lambda each: bytes([int(each[1], 16)]), data)
    return _LAMBDA.search(data) is not None
