"""A wheel's tree without the files that a slim image leaves out, and with a RECORD that does not name them.

RECORD: the "Recording installed projects" specification at packaging.python.org.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from kbuild.cache.linking import link_tree
from kbuild.plan.left_out import select_files


def link_trimmed(
    source: Path, target: Path, owners: dict[str, str], owner: str, *, site: str, patterns: Sequence[str]
) -> None:
    """As ``link_tree``, without what the patterns leave out below ``site``, site-packages relative to ``source``.

    Folders that would be empty are left out too. The files of ``source`` stay as they are. Raises LockfileInvalid.
    """
    inside = _files(source / site) if patterns else set()
    gone = select_files(inside, patterns)
    if not gone:
        link_tree(source, target, owners, owner)
        return
    emptied = _folders(gone) - _folders(inside - gone)
    # Others, in test data or vendored packages, are files like any.
    records = [path for path in inside if path.endswith(".dist-info/RECORD") and path.count("/") == 1]
    without = frozenset(f"{site}/{path}" for path in (*gone, *emptied, *records))
    link_tree(source, target, owners, owner, without=without)
    for path in records:
        written = target / site / path
        written.write_bytes(_without_rows((source / site / path).read_bytes(), gone))
        written.chmod(0o644)
        os.utime(written, (0, 0))
        owners[f"{site}/{path}"] = owner


def _without_rows(record: bytes, gone: frozenset[str]) -> bytes:
    lines = record.decode().split("\n")
    return "\n".join(line for line in lines if not gone.intersection(_named(line))).encode()


def _named(row: str) -> list[str]:
    # A file of another scheme than the wheel's own may be written as ./a/b.py.
    return [posixpath.normpath(path) for path in next(csv.reader([row]), [])[:1]]


def _files(root: Path) -> set[str]:
    start = len(f"{root}/")
    return {f"{folder}/{name}"[start:] for folder, _, files in os.walk(root) for name in files}


def _folders(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        folder = posixpath.dirname(path)
        while folder and folder not in found:
            found.add(folder)
            folder = posixpath.dirname(folder)
    return found
