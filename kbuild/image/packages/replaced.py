"""What pip would uninstall of conda's packages before it installs a wheel of the same project.

Formats: "Recording installed projects" at packaging.python.org (RECORD, its rows relative to site-packages);
``conda-meta/*.json`` lists each conda package's files, relative to the prefix.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.digest import canonical_json

_METADATA = (".dist-info", ".egg-info")


def take_out(prefix: Path, site: str, names: Collection[str]) -> None:
    """Remove the distributions of these canonical names from ``site``, site-packages relative to ``prefix``.

    That is what their RECORD lists, or without one what conda lists of them in site-packages, as it does with the
    metadata of distutils. ``conda-meta`` no longer lists it either.
    """
    records = {path: json.loads(path.read_bytes()) for path in sorted((prefix / "conda-meta").glob("*.json"))}
    gone: set[str] = set()
    for info in _find(prefix / site, names):
        record = info / "RECORD"
        if record.is_file():
            gone |= set(_recorded(record, site))
        else:
            lists = [set(each["files"]) for each in records.values() if _holds(each["files"], f"{site}/{info.name}")]
            gone |= {path for files in lists for path in files if path.startswith(f"{site}/")}
    for name in gone:
        (prefix / name).unlink(missing_ok=True)
    for folder in sorted({parent for path in gone for parent in _parents(path)}, key=len, reverse=True):
        if (prefix / folder).is_dir() and not any((prefix / folder).iterdir()):
            (prefix / folder).rmdir()
    for path, record in records.items():
        kept = [each for each in record["files"] if each not in gone]
        if kept != record["files"]:
            path.write_bytes(canonical_json(record | {"files": kept}) + b"\n")


def _find(site: Path, names: Collection[str]) -> Iterator[Path]:
    for info in sorted(site.iterdir()) if site.is_dir() else ():
        if info.suffix in _METADATA and canonicalize_name(info.stem.partition("-")[0]) in names:
            yield info


def _recorded(record: Path, site: str) -> Iterator[str]:
    """Relative to the prefix; what lies elsewhere is none of the package's."""
    with record.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.reader(file):
            path = posixpath.normpath(os.path.join(site, row[0])) if row else ""  # noqa: PTH118  a path in a text
            if path and not path.startswith(("/", "../")):
                yield path


def _holds(files: Iterable[str], metadata: str) -> bool:
    return any(path == metadata or path.startswith(f"{metadata}/") for path in files)


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
