"""The files below a root that layers are laid on, whose links lead as if the root were ``/``."""

# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH208, PTH211
# os on strings takes a third of the time of pathlib, over tens of thousands of files

from __future__ import annotations

import os
import posixpath
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from kbuild.cache.linking import link_file
from kbuild.errors import InvalidImage

_MAX_LINKS = 40


class LayerFiles:
    """The files below one root, of all its layers."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        # Directories that were resolved; forgotten when anything is removed, or a link comes.
        self._known: dict[str, str] = {}

    def resolve(self, path: str) -> str:
        """The directory ``path`` of the image, its links followed, made where it is missing."""
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = self._resolve(path)
        return found

    def _resolve(self, path: str) -> str:
        done: list[str] = []
        pending = [part for part in path.split("/") if part]
        links = 0
        while pending:
            part = pending.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                done[-1:] = []
                continue
            here = "/".join([self._root, *done, part])
            try:
                mode = os.lstat(here).st_mode
            except FileNotFoundError:
                os.mkdir(here, 0o755)
                os.chmod(here, 0o755)  # noqa: S103 as every directory that a layer forgot
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise InvalidImage(f"/{path} of a layer goes through links without an end")
                target = os.readlink(here)
                if target.startswith("/"):
                    done = []
                pending[:0] = target.split("/")
            elif stat.S_ISDIR(mode):
                done.append(part)
            else:
                raise InvalidImage(f"/{path} of a layer goes through a file")
        return "/".join([self._root, *done])

    def directory(self, target: str, mode: int) -> None:
        """A directory of this mode, in the place of what is no directory."""
        if not is_directory(target):
            self.remove(target)
            os.mkdir(target)
        os.chmod(target, mode)

    def symlink(self, target: str, path: str) -> None:
        """A symbolic link, where nothing is."""
        os.symlink(target, path)
        self._known.clear()

    def hard_link(self, source: str, target: str, member: str) -> None:
        """A hard link to another layer's file; raises InvalidImage for what is no file."""
        parent, name = posixpath.split(source)
        try:
            link_file(f"{self.resolve(parent)}/{name}", target)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:  # PermissionError: it is a directory
            raise InvalidImage(f"a layer links /{member} to /{source}, which is not a file") from error

    def empty(self, folder: str, spared: Collection[str]) -> None:
        """Remove what lower layers left below a directory; ``spared`` are the layer's own paths and their parents."""
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if path not in spared:
                self.remove(path)
            elif is_directory(path):
                self.empty(path, spared)

    def remove(self, path: str) -> None:
        """Remove what is there, with all below it."""
        if not os.path.lexists(path):
            return
        self._known.clear()
        if is_directory(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def is_directory(path: str) -> bool:
    """Whether it is one itself, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)
