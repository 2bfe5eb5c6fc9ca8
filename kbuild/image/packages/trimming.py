"""The trees of wheels that together are a layer: what a slim image leaves out of them, and what others of them hide.

RECORD: the "Recording installed projects" specification at packaging.python.org.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path

from kbuild.cache.linking import check_roots, link_tree
from kbuild.cache.tree import make_directory, reset_directory_times
from kbuild.environment.lockfile import LockedPackage
from kbuild.image.packages.wheels import WheelTarget, hidden_places
from kbuild.plan.left_out import select_files
from kbuild.plan.split import PackageGroup
from kbuild.progress import Progress


def join_group(
    group: PackageGroup, trees: Mapping[LockedPackage, Path], target: WheelTarget, into: Path, progress: Progress
) -> tuple[Path, ...]:
    """The directories that together are the group's layer: the wheels' own, or one below ``into`` where files of them
    are not there. Raises LockfileInvalid where one brings a file and another a folder of one path."""
    hidden = hidden_places(group, target)
    if not group.left_out and not hidden:
        roots = {f"{package.name} {package.version}": trees[package] for package in group.packages}
        check_roots(roots)
        return tuple(roots.values())
    _tell_hidden(group, progress)
    owners: dict[str, str] = {}
    root = into / group.name
    make_directory(root)
    for package in group.packages:
        owner, patterns = f"{package.name} {package.version}", group.left_out.get(package.name, ())
        away, site = hidden.get(package, ()), target.site_packages.lstrip("/")
        link_trimmed(trees[package], root, owners, owner, site=site, patterns=patterns, hidden=away)
    reset_directory_times(root)
    return (root,)


def _tell_hidden(group: PackageGroup, progress: Progress) -> None:
    paths: dict[tuple[LockedPackage, LockedPackage], list[str]] = {}
    for package, places in group.hidden().items():
        for path, other in places.items():
            paths.setdefault((package, other), []).append(path.removeprefix("site/"))
    for (package, other), both in sorted(paths.items()):
        more = f" and {len(both) - 1} more" if len(both) > 1 else ""
        whose = f"{other.name}'s counts, for pip installs it later"
        progress.tell(
            f"{package.name} {package.version} and {other.name} {other.version} bring {min(both)}{more}; {whose}"
        )


def link_trimmed(
    source: Path,
    target: Path,
    owners: dict[str, str],
    owner: str,
    *,
    site: str,
    patterns: Sequence[str],
    hidden: Iterable[str] = (),
) -> None:
    """As ``link_tree``, without what the patterns leave out below ``site``, site-packages relative to ``source``, and
    without the files that are ``hidden``, paths relative to ``source``, and their bytecode.

    RECORD names the latter all the same, as pip leaves it. Folders that would be empty are left out too. The files of
    ``source`` stay as they are. Raises LockfileInvalid.
    """
    away = frozenset(_with_bytecode(source, hidden))
    inside = _files(source / site) if patterns else set()
    gone = select_files(inside, patterns)
    if not gone:
        link_tree(source, target, owners, owner, without=away)
        return
    emptied = _folders(gone) - _folders(inside - gone)
    # Others, in test data or vendored packages, are files like any.
    records = [path for path in inside if path.endswith(".dist-info/RECORD") and path.count("/") == 1]
    without = away | {f"{site}/{path}" for path in (*gone, *emptied, *records)}
    link_tree(source, target, owners, owner, without=without)
    for path in records:
        written = target / site / path
        written.write_bytes(_without_rows((source / site / path).read_bytes(), gone))
        written.chmod(0o644)
        os.utime(written, (0, 0))
        owners[f"{site}/{path}"] = owner


def _with_bytecode(source: Path, paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        yield path
        folder, name = posixpath.split(path)
        if name.endswith(".py"):
            made = (source / folder / "__pycache__").glob(f"{escape(name[:-3])}.*.pyc")
            yield from (f"{folder}/__pycache__/{each.name}" for each in made)


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
