"""What others wrote: JSON and YAML, whatever is wrong with which is one kind of error, and reading it comes to an end;
and texts that are shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import textwrap
import unicodedata
from collections.abc import Set
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

LARGEST = 16 << 20
"""Bytes of a file, and how many more characters than its own a text may stand for by its aliases."""
LARGEST_JSON = 4 << 20
"""Bytes of a document of which somebody else says how much it holds: three of them can become 64 in memory. It is the
size that registries have to take (OCI distribution-spec, "Pushing Manifests")."""
_MOST_VALUES = 200_000
"""Of a YAML text: each takes about 0.7 KB until all are read. A lock of 1,000 packages for two platforms has 70,000."""
# Control characters, direction marks and the like, surrogates, separators of lines (Unicode's general categories).
_UNPRINTED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# Until what ends a command in a sentence.
_COMMAND = re.compile(r"\b(?:kbuild|kedro|pip|python3|docker)(?: (?![(#])[^ ]*[^ ,;:)])*(?: (?![(#])[^ ]+)?")
_GLUE = "\0"
_DEEPEST = 200  # lists and mappings inside of each other
_TOO_DEEP = "it is nested too deeply"
_FEW = 64 << 10  # characters that cannot hold more values than that


class BrokenText(ValueError):
    """What is no JSON or YAML that can be read; the message is one line, which says why."""


def read_text(path: Path, *, largest: int = LARGEST) -> str:
    """A file in UTF-8; raises as ``read_bytes``, and BrokenText for other bytes."""
    try:
        return read_bytes(path, largest=largest).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BrokenText(f"it is not UTF-8: {error.reason} at byte {error.start}") from error


def read_bytes(path: Path, *, largest: int = LARGEST) -> bytes:
    """A file's bytes; raises OSError, and BrokenText for a pipe, a folder, a device or one that is too large."""
    # Not blocking: to open a pipe otherwise waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BrokenText("it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(largest + 1) if status.st_size <= largest else None
    finally:
        os.close(descriptor)
    if data is None or len(data) > largest:
        raise BrokenText(f"it has more than {largest >> 20} MiB")
    return data


def why(error: OSError | BrokenText) -> str:
    """What is wrong with a file that ``read_bytes`` does not read, without its name."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def plain(text: str) -> str:
    """A text whose control and direction characters are written out: none of them reaches a terminal or a page."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character == "\n" or unicodedata.category(character) not in _UNPRINTED else _written(character)
        for character in text
    )


def fold(text: str, width: int, *, indent: int, first: int = 0) -> str:
    """A line as lines of ``width`` columns, broken between words, all but the first of them below ``indent``.

    Before the first stand ``first`` characters already. A command in it stays in one piece, so that it can be copied.
    """
    glued = _COMMAND.sub(lambda found: found[0].replace(" ", _GLUE), text)
    lines = textwrap.wrap(
        glued,
        width,
        initial_indent=" " * first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)[first:].replace(_GLUE, " ")


def folded(text: str, stream: TextIO, *, indent: int, first: int = 0) -> str:
    """Each line as ``fold`` breaks it where ``stream`` is a terminal, by its width; elsewhere the text as it is."""
    if not stream.isatty():
        return text
    width, lines = shutil.get_terminal_size().columns, text.split("\n")
    begins = [len(line) - len(line.lstrip()) for line in lines]
    firsts = [first, *[0] * (len(lines) - 1)]
    return "\n".join(
        fold(line, width, indent=max(begin, indent), first=before)
        for line, begin, before in zip(lines, begins, firsts, strict=True)
    )


def _written(character: str) -> str:
    return " " if character == "\t" else character.encode("unicode_escape").decode("ascii")


def parse_json(text: str | bytes, *, fields: Set[str] = frozenset()) -> Any:
    """Raises BrokenText; with ``fields`` also for a key that an object has twice, which one of them is taken of differs
    from reader to reader: those of Go take these, in small letters, in letters of any kind."""
    try:
        value = json.loads(text, object_pairs_hook=partial(_once, fields=fields) if fields else None)
    except RecursionError as error:
        raise BrokenText(_TOO_DEEP) from error
    except ValueError as error:
        raise BrokenText(_line(error)) from error
    # How deep Python itself reads differs from version to version; what is shown or compared later is not read there.
    if isinstance(value, list | dict) and _is_deep(value):
        raise BrokenText(_TOO_DEEP)
    return value


def _once(pairs: list[tuple[str, Any]], fields: Set[str]) -> dict[str, Any]:
    found = dict[str, str]()
    for key, _ in pairs:
        folded = key.casefold() if key.casefold() in fields else key
        if folded in found:
            other = "" if found[folded] == key else f" and {found[folded]!r:.60}"
            raise BrokenText(f"it has the key {key!r:.60}{other}{'' if other else ' twice'} in one object")
        found[folded] = key
    return dict(pairs)


def _is_deep(value: list[Any] | dict[str, Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        level = [each for each in level if isinstance(each, list | dict)]
        if not level:
            return False
    return True


def parse_yaml(text: str | bytes) -> Any:
    """As ``yaml.safe_load``; raises BrokenText."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        if len(text) > _FEW and sum(1 for _ in islice(yaml.parse(text, loader), _MOST_VALUES)) == _MOST_VALUES:
            raise BrokenText(f"it holds more than {_MOST_VALUES:,} values")
        parsing = loader(text)
        try:
            node = parsing.get_single_node()
            if node is None:
                return None
            size, depth = _expanded(node, {})
            if depth > _DEEPEST:
                raise BrokenText(_TOO_DEEP)
            if size > len(text) + LARGEST:
                raise BrokenText("its aliases stand for more than anything reads")
            return parsing.construct_document(node)
        finally:
            parsing.dispose()
    except RecursionError as error:
        raise BrokenText(_TOO_DEEP) from error
    # PyYAML looks at what a tag promises without asking: !!int "", !!bool x, !!timestamp x.
    except (IndexError, KeyError, AttributeError) as error:
        raise BrokenText("a value in it is not what its tag says") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise BrokenText(_line(error)) from error


def _expanded(node: Any, seen: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Characters of what a node stands for, every alias written out, and how deep it is; a mapping may be merged into
    many others."""
    if isinstance(node.value, str):
        return len(node.value) + 1, 0
    if id(node) in seen:
        found = seen[id(node)]
        if found is None:
            raise BrokenText("an alias in it is a part of what it stands for")
        return found
    seen[id(node)] = None
    size, depth = 1, 0
    for each in node.value:
        for part in each if isinstance(each, tuple) else (each,):
            more, below = _expanded(part, seen)
            size, depth = size + more, max(depth, below)
    found = seen[id(node)] = size, depth + 1
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
