"""What a user has to know of an environment's conda packages: scripts that did not run, files that two packages bring.

Formats: conda's docs, "Link scripts" (``bin/.NAME-post-link.sh``) and "Managing environments" (what lies below
``etc/conda`` is for activating one); ``conda-meta/*.json`` lists each package's files.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

_SCRIPT = re.compile(r"bin/\.(?P<package>.+)-(?:pre|post)-link\.sh")
_AT_ACTIVATION = re.compile(r"etc/conda/(activate\.d/.+\.sh|env_vars\.d/.+\.json)")
# Where py-rattler puts the file of the package that did not win.
_CLOBBER = re.compile(r"__clobbers__/[^/]+/(?P<path>.+)")
_SHOWN = 3


def conda_notes(tree: Path, prefix: str, wheels: Iterable[Path] = ()) -> list[str]:
    """One line each; ``tree`` is the interpreter's layer, ``wheels`` are those of wheels, which lie above it."""
    files = {name: found for name, found in _records(tree / prefix.lstrip("/")).items() if found}
    return [
        *_scripts(files),
        *_at_activation(files),
        *_brought_twice(files),
        *_covered(files, prefix.lstrip("/"), wheels),
    ]


def _records(prefix: Path) -> dict[str, list[str]]:
    records = (json.loads(path.read_bytes()) for path in sorted((prefix / "conda-meta").glob("*.json")))
    return {f"{record['name']} {record['version']}": record["files"] for record in records}


def _scripts(files: Mapping[str, list[str]]) -> list[str]:
    found = [name for name, paths in files.items() if any(_SCRIPT.fullmatch(path) for path in paths)]
    if not found:
        return []
    return [
        f"the link scripts of {', '.join(found)} are left out: nothing that a package wants to run while it is"
        " installed runs here, and what they make is not in the image"
    ]


def _at_activation(files: Mapping[str, list[str]]) -> list[str]:
    found = {name: next(filter(_AT_ACTIVATION.fullmatch, paths), None) for name, paths in files.items()}
    return [
        f"what {name} sets when its environment is activated ({path}) is not set in the image: where the model needs"
        " it, state it with ENV in a template of your own"
        for name, path in found.items()
        if path is not None
    ]


def _brought_twice(files: Mapping[str, list[str]]) -> list[str]:
    """By the packages that bring them, and the one whose file py-rattler keeps in its place."""
    owners: dict[str, set[str]] = defaultdict(set)
    for name, paths in files.items():
        for path in paths:
            match = _CLOBBER.fullmatch(path)
            owners[path if match is None else match["path"]].add(name)
    won = {path: name for name, paths in files.items() for path in paths}
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, names in owners.items():
        if len(names) > 1:
            together[", ".join(sorted(names)), won.get(path, "neither")].append(path)
    return [f"{names} bring {_some(paths)}; that of {kept} counts" for (names, kept), paths in together.items()]


def _covered(files: Mapping[str, list[str]], prefix: str, wheels: Iterable[Path]) -> list[str]:
    trees = tuple(wheels)
    notes = []
    for name, paths in files.items():
        code = [path for path in paths if "/site-packages/" in path and not path.endswith(".pyc")]
        hidden = [path for path in code if any(os.path.lexists(tree / prefix / path) for tree in trees)]
        if hidden:
            notes.append(f"{name} of conda and a wheel both bring {_some(hidden)}; the wheel's files count")
    return notes


def _some(paths: list[str]) -> str:
    shown = ", ".join(sorted(paths)[:_SHOWN])
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} files more"
