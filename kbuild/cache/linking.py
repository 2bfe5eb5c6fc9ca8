"""Trees of the cache brought together elsewhere, by hard links instead of copies."""

# ruff: noqa: PTH101, PTH112, PTH114, PTH115
# os on strings takes a third of the time of pathlib, over tens of thousands of files

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import stat
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from kbuild.cache.tree import make_directory, reset_directory_times
from kbuild.errors import LockfileInvalid

_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP}


def link_tree(
    source: Path,
    target: Path,
    owners: dict[str, str],
    owner: str,
    *,
    exact: bool = False,
    without: Container[str] = frozenset(),
) -> None:
    """Add a normalised tree to ``target`` by hard links, or by copies where links cannot be made.

    ``owners`` collects which package brought each file. The same file with the same content may come twice;
    bytecode follows the source that came first. ``exact`` keeps the modes of directories too; files and directories
    in ``without`` are passed over.
    Raises LockfileInvalid when contents differ.
    """
    make_directory(target)
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(source / below) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                path = f"{below}{entry.name}"
                there = f"{target}/{path}"
                if path in without:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if path in owners:
                        raise _conflict(path, owners[path], owner)
                    make_directory(Path(there))
                    if exact:
                        os.chmod(there, stat.S_IMODE(entry.stat().st_mode))
                    pending.append(f"{path}/")
                elif path in owners:
                    if "/__pycache__/" not in path and not _same(entry.path, there):
                        raise _conflict(path, owners[path], owner)
                elif os.path.isdir(there) and not os.path.islink(there):
                    raise _conflict(path, "another package", owner)
                else:
                    link_file(entry.path, there)
                    owners[path] = owner


def link_roots(roots: Sequence[Path], target: Path) -> None:
    """Make ``target`` of the directories that together are it, by ``link_tree`` with modes; nothing where it is there.

    Raises LockfileInvalid where they have different files of one path.
    """
    if target in roots:
        return
    owners: dict[str, str] = {}
    for root in roots:
        link_tree(root, target, owners, target.name, exact=True)
    if len(roots) > 1:
        reset_directory_times(target)


def check_roots(roots: Mapping[str, Path]) -> None:
    """Whether directories can together be one: raises LockfileInvalid naming the owners of files that differ, as
    ``link_tree`` does, without linking any. ``roots`` has them by owner, the first of a file's owners counts.
    """
    owners: dict[str, str] = {}
    folders: dict[str, str] = {}
    for owner, root in roots.items():
        pending = [""]
        while pending:
            below = pending.pop()
            with os.scandir(f"{root}/{below}") as entries:
                for entry in entries:
                    path = f"{below}{entry.name}"
                    is_folder = entry.is_dir(follow_symlinks=False)
                    if path in (owners if is_folder else folders):
                        raise _conflict(path, owners.get(path) or folders[path], owner)
                    if is_folder:
                        folders.setdefault(path, owner)
                        pending.append(f"{path}/")
                        continue
                    first = owners.setdefault(path, owner)
                    other = f"{roots[first]}/{path}"
                    if first != owner and "/__pycache__/" not in path and not _same(entry.path, other):
                        raise _conflict(path, first, owner)


def link_file(source: str, target: str) -> bool:
    """A hard link, to a symbolic link itself too, or a copy with mode and time where no link can be made; whether it
    is a link."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, target, follow_symlinks=False)
        return False
    return True


def _same(one: str, other: str) -> bool:
    if os.path.islink(one) or os.path.islink(other):
        return os.path.islink(one) and os.path.islink(other) and os.readlink(one) == os.readlink(other)
    return filecmp.cmp(one, other, shallow=False)


def _conflict(path: str, one: str, other: str) -> LockfileInvalid:
    return LockfileInvalid(
        f"{one} and {other} both bring /{path}, with different contents",
        hint="leave one of the two packages out of the model's environment",
    )
