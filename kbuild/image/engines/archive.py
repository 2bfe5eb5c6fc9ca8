"""A model's archive: the directories of an image's layers as one tar, which runs from wherever it is unpacked.

    bin/kbuild-score   scores tables; bin/python is the model's Python with all that is locked
    env model kbuild   what an image has in /opt
    lib share          libraries and time zones of a base assembled from packages, which wheels expect of a system
    archive.json       what it was made from

Members are sorted, their times and owners 0, their headers those of layers (``oci.tarball``). Nothing in it knows where
it lies: the starters find that out. Programs of packages in ``env/bin`` do not, since their first line names the
image's Python: ``bin/python -m`` starts them.
"""

# ruff: noqa: PTH101, PTH102, PTH115, PTH118, PTH211
# os on bytes: names are bytes here, and there are tens of thousands of files

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kbuild.cache.linking import link_file
from kbuild.cache.room import Room
from kbuild.image.engines.copying import FileSystem, Ownership, copy_tree
from kbuild.image.oci.tarball import DIRECTORY, FILE, HARD_LINK, SYMLINK, Entry
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.make import RUNTIME_PATH

RECIPE = 4
"""Changes whenever the same plan would become another archive."""
SCORE, PYTHON, FACTS = "bin/kbuild-score", "bin/python", "archive.json"
_OPT = b"opt/"
# What the PEPs of manylinux and OpenMP's users expect of a system besides the C library (dockerfiles/bases.toml).
_LIBRARIES = ("libgcc_s.so", "libgomp.so", "libstdc++.so", "libz.so")
_LINKS = 40  # as many as Linux follows
_ZONES = "usr/share/zoneinfo"
# The archive's user has a home of theirs, and programs of theirs.
_NOT_SET = ("HOME", "PATH", "PYTHONPATH")
_STARTER = """#!/bin/sh
# Whatever folder this archive lies in, and whatever the caller's Python is.
here=$(CDPATH= cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd -P) || exit 42
{variables}
unset PYTHONHOME PYTHONSTARTUP PYTHONINSPECT
export PATH="$here/env/bin:$PATH" PYTHONPATH="{path}" PYTHONTZPATH="$here/share/zoneinfo:/usr/share/zoneinfo"
export LD_LIBRARY_PATH="$here/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$here/env/bin/python" {what}"$@"
"""


def archive_entries(
    trees: Iterable[Sequence[Path]], base: Path | None, files: Mapping[str, Path], facts: bytes, plan: BuildPlan
) -> list[Entry]:
    """The members: layers' directories below ``opt``, what wheels need of ``base``, and ``files`` beside the runtime.

    Raises OSError, and CopyConflict where layers do not fit together.
    """
    found: dict[bytes, Entry] = {}
    lower = FileSystem()
    for tree in trees:
        for entry in copy_tree(lower, tree, b"", Ownership()):
            if entry.name.startswith(_OPT):
                moved = _moved(entry)
                found[moved.name] = moved
    if base is not None:
        for entry in _of_base(base, found):
            found[entry.name] = entry
    for name, file in files.items():
        _add(found, f"{RUNTIME_PATH.rpartition('/')[2]}/{name}", file.read_bytes(), 0o644)
    for name, what, path in (
        # -P: else the caller's folder comes first, and a pandas.py in it is run.
        (SCORE, "-P -m kbuild.scoring ", "$here/kbuild"),
        # Whoever starts Python brings modules of their own: Spark its workers.
        (PYTHON, "", "$here/kbuild${PYTHONPATH:+:$PYTHONPATH}"),
    ):
        text = _STARTER.format(variables=_variables(plan), what=what, path=path)
        _add(found, name, text.encode(), 0o755)
    _add(found, FACTS, facts, 0o644)
    members = (_without_detour(found[name], found) for name in found)
    return sorted(members, key=lambda entry: entry.name.split(b"/"))


def lay_entries(entries: Iterable[Entry], folder: Path, room: Room) -> None:
    """What unpacking would give, in an empty folder: files are hard links to what is staged where they can be.

    ``room`` is told what that takes. Raises OSError.
    """
    for entry in entries:
        target = os.path.join(os.fsencode(folder), entry.name)
        room.add_file(entry.size if isinstance(entry.source, bytes) else 1)
        if entry.kind == DIRECTORY:
            os.mkdir(target)
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, target)
        elif entry.kind == HARD_LINK:
            os.link(os.path.join(os.fsencode(folder), entry.link), target)
        elif isinstance(entry.source, bytes):
            Path(os.fsdecode(target)).write_bytes(entry.source)
            os.chmod(target, entry.mode)
        elif entry.source is not None and not link_file(entry.source, os.fsdecode(target)):
            room.add_file(entry.size)


def _moved(entry: Entry) -> Entry:
    """The entry out of ``opt``; links by path follow, so that none leads to the machine's own /opt."""
    name, link = entry.name.removeprefix(_OPT), entry.link
    if entry.kind == HARD_LINK:
        link = link.removeprefix(_OPT)
    elif entry.kind == SYMLINK and link.startswith(b"/" + _OPT):
        link = posixpath.relpath(link.removeprefix(b"/" + _OPT), posixpath.dirname(name) or b".")
    return Entry(name=name, kind=entry.kind, mode=entry.mode, size=entry.size, link=link, source=entry.source)


def _without_detour(entry: Entry, found: Mapping[bytes, Entry]) -> Entry:
    """The file itself for a link to it through ``..``: Spark's unpacker, Hadoop's, refuses all such links."""
    seen = entry
    for _ in range(_LINKS):
        if seen.kind != SYMLINK:
            break
        target = found.get(posixpath.normpath(posixpath.join(posixpath.dirname(seen.name), seen.link)))
        if target is None:
            return entry
        seen = target
    if b".." not in entry.link.split(b"/") or entry.kind != SYMLINK or seen.kind != FILE:
        return entry
    return Entry(name=entry.name, kind=FILE, mode=seen.mode, size=seen.size, source=seen.source)


def _of_base(base: Path, found: Mapping[bytes, Entry]) -> Iterable[Entry]:
    """Libraries that the environment lacks (those of its own come first in an image too), and the time zones."""
    places = [path for path in base.glob("usr/lib/*/*.so*") if path.name.startswith(_LIBRARIES)]
    for path in sorted(places):
        name = f"lib/{path.name}".encode()
        if b"env/" + name not in found:
            yield from _entries(path, name)
    zones = base / _ZONES
    for path in sorted(zones.rglob("*")) if zones.is_dir() else ():
        # posix/ has all of it again, right/ with leap seconds: nobody asks for zones by these names.
        if path.relative_to(zones).parts[0] in ("posix", "right"):
            continue
        yield from _entries(path, b"share/zoneinfo/" + os.fsencode(path.relative_to(zones)))


def _entries(path: Path, name: bytes) -> Iterable[Entry]:
    folders = name.split(b"/")[:-1]
    for depth in range(1, len(folders) + 1):
        yield Entry(name=b"/".join(folders[:depth]), kind=DIRECTORY, mode=0o755)
    if path.is_symlink():
        link = os.readlink(os.fsencode(path))
        if not link.startswith(b"/"):
            yield Entry(name=name, kind=SYMLINK, mode=0o777, link=link, source=str(path))
    elif path.is_file():
        yield Entry(name=name, kind=FILE, mode=0o644, size=path.stat().st_size, source=str(path))


def _add(found: dict[bytes, Entry], name: str, data: bytes, mode: int) -> None:
    folders = name.split("/")[:-1]
    for depth in range(1, len(folders) + 1):
        folder = "/".join(folders[:depth]).encode()
        found.setdefault(folder, Entry(name=folder, kind=DIRECTORY, mode=0o755))
    found[name.encode()] = Entry(name=name.encode(), kind=FILE, mode=mode, size=len(data), source=data)


def _variables(plan: BuildPlan) -> str:
    """What the image sets, with this folder for its /opt."""
    lines = [f"export {name}=" + _quoted(value) for name, value in plan.config.env if name not in _NOT_SET]
    return "\n".join(lines)


def _quoted(value: str) -> str:
    return f'"$here{value.removeprefix("/opt")}"' if value.startswith("/opt/") else shlex.quote(value)
