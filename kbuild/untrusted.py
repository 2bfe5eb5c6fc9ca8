"""JSON and YAML that others wrote: whatever is wrong with it is one kind of error, and reading it comes to an end."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

LARGEST = 16 << 20
"""Bytes of a file, and how many more characters than its own a text may stand for by its aliases."""


class BrokenText(ValueError):
    """What is no JSON or YAML that can be read; the message is one line, which says why."""


def read_text(path: Path, *, largest: int = LARGEST) -> str:
    """A file in UTF-8; raises OSError, and BrokenText for a pipe, a folder, a device or one that is too large."""
    # Not blocking: to open a pipe otherwise waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BrokenText("it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(largest + 1)
    finally:
        os.close(descriptor)
    if len(data) > largest:
        raise BrokenText(f"it has more than {largest >> 20} MiB")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenText(f"it is no UTF-8: {error.reason} at byte {error.start}") from error


def parse_json(text: str | bytes) -> Any:
    """Raises BrokenText."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise BrokenText("it is nested too deeply") from error
    except ValueError as error:
        raise BrokenText(_line(error)) from error


def parse_yaml(text: str | bytes, *, loader: Any = None) -> Any:
    """As ``yaml.safe_load``, or by another safe loader; raises BrokenText."""
    import yaml

    try:
        parsing = (loader or yaml.SafeLoader)(text)
        try:
            node = parsing.get_single_node()
            if node is None:
                return None
            if _expanded(node, {}) > len(text) + LARGEST:
                raise BrokenText("its aliases stand for more than anything reads")
            return parsing.construct_document(node)
        finally:
            parsing.dispose()
    except RecursionError as error:
        raise BrokenText("it is nested too deeply") from error
    # PyYAML looks at what a tag promises without asking: !!int "", !!bool x, !!timestamp x.
    except (IndexError, KeyError, AttributeError) as error:
        raise BrokenText("a value in it is not what its tag says") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise BrokenText(_line(error)) from error


def _expanded(node: Any, sizes: dict[int, int | None]) -> int:
    """Characters of what a node stands for, every alias written out; a mapping may be merged into many others."""
    if isinstance(node.value, str):
        return len(node.value) + 1
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise BrokenText("an alias in it is a part of what it stands for")
        return size
    sizes[id(node)] = None
    parts = [part for each in node.value for part in (each if isinstance(each, tuple) else (each,))]
    size = sizes[id(node)] = 1 + sum(_expanded(part, sizes) for part in parts)
    return size


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
