"""What a slim image is without: whole packages, and files of the others by patterns that a label can say.

A pattern is of one of four kinds; paths are relative to site-packages:

    tests/           folders of this name that hold Python files, with all that is below them
    *.pyi            files that end so
    a/b.so           this very file
    !*.pyi, !a/test/ stays all the same, though another pattern names it
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.utils import canonicalize_name

EVERY = "*"
"""Stands for the name of every package."""

RULE = 1
"""Changes whenever the same patterns would leave out other files."""

_METADATA = (".dist-info", ".egg-info")


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """``packages`` are names; ``files`` has the patterns of each package, ``EVERY`` those that hold for all."""

    packages: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.packages or self.files)

    def patterns(self, package: str) -> tuple[str, ...]:
        """All that hold for the package of this name, sorted."""
        own = self.files.get(canonicalize_name(package), ())
        return tuple(sorted({*self.files.get(EVERY, ()), *own}))

    def files_json(self) -> str | None:
        """The patterns as a label says them; None without any."""
        return json.dumps(self.to_json()["files"], sort_keys=True, separators=(",", ":")) if self.files else None

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        files = {name: sorted(self.files[name]) for name in sorted(self.files)}
        return {"packages": sorted(self.packages), "files": files}

    @classmethod
    def from_json(cls, value: object) -> LeftOut:
        """The inverse of ``to_json``; raises ValueError for anything else."""
        if not isinstance(value, dict) or value.keys() != {"packages", "files"} or not isinstance(value["files"], dict):
            raise ValueError("not what a slim image is without")
        files = {str(name): _texts(patterns) for name, patterns in value["files"].items()}
        return cls(packages=_texts(value["packages"]), files=files)


NOTHING = LeftOut()


def select_files(paths: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """Which of a package's paths, relative to site-packages, these patterns leave out. Metadata never is."""
    patterns = frozenset(patterns)
    folders, endings, named, kept = _sort_out(patterns)
    code = {path for path in paths if not path.partition("/")[0].endswith(_METADATA)}
    gone = {path for path in code if path in named or path.endswith(endings)}
    below = find_folders(code, folders)
    for path in code:
        folder = next((folder for folder in _parents(path) if folder in below), None)
        if folder is not None:
            (gone.discard if f"{folder}/" in kept else gone.add)(path)
    return frozenset(gone)


def find_folders(paths: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """The outermost folders of these names that hold Python files."""
    names = frozenset(names)
    holding = {posixpath.dirname(path) for path in paths if path.endswith(".py")}
    found = {folder for folder in holding if posixpath.basename(folder) in names}
    return frozenset(folder for folder in found if not found & {*_parents(folder)})


def _sort_out(patterns: frozenset[str]) -> tuple[frozenset[str], tuple[str, ...], frozenset[str], frozenset[str]]:
    """Names of folders, ends of names, paths, and folders that stay."""
    kept = frozenset(pattern[1:] for pattern in patterns if pattern.startswith("!"))
    positive = {pattern for pattern in patterns if not pattern.startswith("!")} - kept
    folders = frozenset(pattern[:-1] for pattern in positive if pattern.endswith("/"))
    endings = tuple(sorted(pattern[1:] for pattern in positive if pattern.startswith("*")))
    return folders, endings, frozenset(positive), kept


def _parents(path: str) -> Iterable[str]:
    """The folders that a path lies in, the outermost first."""
    parts = path.split("/")[:-1]
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("not a list of texts")
    return tuple(value)
