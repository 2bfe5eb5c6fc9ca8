"""What installers put into a folder of packages: all that an image gets of it.

Format: the packaging specification "Recording installed projects" (RECORD, INSTALLER; PEP 376, PEP 627).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.recording.shipment.closure import describe

# Those that write down all that they install, as it lies there. Conda's files are others than RECORD says.
_INSTALLERS = frozenset({"pip", "uv", "poetry", "pdm", "hatch"})
_BYTECODE = "__pycache__"
# Whom to trust is a machine's affair: many companies add their own authority here.
_OWN = frozenset({"certifi/cacert.pem"})
# Seconds: a file is written a little later than the list that names it where somebody copied all of them.
_LATER = 2.0


@dataclass(kw_only=True, slots=True)
class Installed:
    """Of a folder of packages: ``tops``, what the distributions that are present have directly in it; ``outside``, what
    they have elsewhere; ``listed``, names by folder of those that list their files; ``whole``, what others have."""

    folder: Path
    tops: set[str] = field(default_factory=set)
    outside: set[Path] = field(default_factory=set)
    listed: dict[str, set[str]] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)

    def find_extra(self) -> Iterator[tuple[Path, set[str]]]:
        """Folders that hold more than what was installed there, with what was, outermost first."""
        todo = sorted(top for top in self.tops - self.whole if top in self.listed)
        while todo:
            inner = todo.pop(0)
            try:
                found = {each.name: each for each in os.scandir(self.folder / inner)}
            except OSError:
                continue
            names = self.listed[inner]
            extra = [name for name in found if name not in names and not is_compiled(name)]
            if extra:
                yield self.folder / inner, {name for name in found if name in names or is_compiled(name)}
            compiled = os.listdir(found[_BYTECODE]) if _BYTECODE in found else []  # noqa: PTH208 - thousands of them
            if not all(map(is_compiled, compiled)):
                yield self.folder / inner / _BYTECODE, {name for name in compiled if is_compiled(name)}
            todo += [path for name in sorted(found) if (path := f"{inner}/{name}") in self.listed]


def read_installed(present: Collection[str], folder: Path) -> Installed:
    """Of a folder of packages and the distributions that an image will have, by canonical name."""
    found = Installed(folder=folder)
    for each in metadata.distributions(path=[str(folder)]):
        name = describe(each)[0]
        if name and canonicalize_name(name) in present:
            _add(found, each, name)
    found.tops = {name for name in found.tops if (folder / name).exists()}
    return found


def _add(found: Installed, distribution: metadata.Distribution, name: str) -> None:
    own = getattr(distribution, "_path", None)  # the folder of its metadata, which some installers do not list
    record = distribution.read_text("RECORD")
    if not record:
        files = distribution.files or ()
        first = {"" if file.is_absolute() else file.parts[0] for file in files if file.parts}
        if not files:
            first = set((distribution.read_text("top_level.txt") or name.replace("-", "_")).split())
        found.tops |= first - {"..", ""}
        found.whole |= first
    else:
        # Not as ``files``, which may look for every one of them on the disk.
        rows = [row for row in csv.reader(record.splitlines()) if row]
        inside = [row for row in rows if not row[0].startswith(("..", "/"))]
        tops = {row[0].partition("/")[0] for row in inside}
        found.tops |= tops - {"__pycache__", ""}
        found.outside |= {Path(os.path.normpath(found.folder / row[0])) for row in rows if row[0].startswith("..")}
        if (distribution.read_text("INSTALLER") or "").strip() in _INSTALLERS:
            add_paths(found.listed, (row[0] for row in inside))
            found.changed += _find_changed(found.folder, inside, own)
        else:
            found.whole |= tops
    if own is not None:
        found.tops.add(Path(own).name)
        found.whole.add(Path(own).name)


def add_paths(listed: dict[str, set[str]], paths: Iterable[str]) -> None:
    """Add relative paths of files to ``listed``: by folder ("" is the outermost) the names that are in it."""
    for path in paths:
        while True:
            parent, _, name = path.rpartition("/")
            names = listed.setdefault(parent, set())
            if name in names:
                break
            names.add(name)
            if not parent:
                break
            path = parent


def is_compiled(name: str) -> bool:
    """Whether a name is of bytecode, or of a folder for it, which no installer needs to list."""
    return name == _BYTECODE or name.endswith(".pyc")


def _find_changed(folder: Path, rows: Iterable[list[str]], own: object) -> Iterator[str]:
    """Files that are not what was installed: of another size, or written to later and of another digest."""
    try:
        written = Path(f"{own}/RECORD").stat().st_mtime
    except OSError:
        return
    for path, digest, size in (row[:3] for row in rows if len(row) >= 3 and row[1].startswith("sha256=")):
        if path in _OWN:
            continue
        try:
            held = os.stat(f"{folder}/{path}")  # noqa: PTH116 - thousands of them
        except OSError:
            continue  # taken away since: then training did without, and so does the check
        if size and held.st_size == int(size) and held.st_mtime <= written + _LATER:
            continue
        if (size and held.st_size != int(size)) or _digest(folder / path) != digest.partition("=")[2].rstrip("="):
            yield f"{folder}/{path}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").digest()
    return base64.urlsafe_b64encode(found).decode().rstrip("=")
