"""One layer of an image, unpacked by itself into a tree that every image with this layer shares.

Format: OCI image-spec layer.md (change sets, whiteouts, opaque directories). A tree depends on its layer alone: what
the layer does to those below it (a path through their links, a hard link to their files, what it removes) is written
down beside the tree, in the layer's own order, and done when a root is put together. Owners are not restored:
everything belongs to whoever unpacks. Devices, pipes and sockets are left out.
"""

# ruff: noqa: PTH101, PTH114, PTH115, PTH123
# os on strings takes a third of the time of pathlib, over tens of thousands of files

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kbuild.cache.linking import link_file
from kbuild.cache.room import Room
from kbuild.digest import Digest
from kbuild.errors import InvalidImage
from kbuild.files import BYTES, native, portable
from kbuild.image.oci.compress import open_layer
from kbuild.image.oci.whiteouts import read_whiteout, with_parents
from kbuild.image.run.layer_files import LayerFiles, is_directory

RECIPE = 1
"""Changes whenever the same layer would be unpacked to another tree or another list of members."""

_READ = 1 << 20
_TREE, _MEMBERS = "tree", "members.json"

Row = list[Any]
"""What a member does: its kind, its path in the layer, and for a kind more.

``d`` directory and mode, ``f`` file and where it lies in the tree, ``l`` symbolic link and target, ``h`` hard link to
a path that another layer has, ``w`` removes what is there, ``o`` removes what lower layers left in a directory.
"""


def unpack_layer(chunks: Iterator[bytes], folder: Path, room: Room) -> Digest:
    """Unpack an uncompressed layer into an empty folder; returns its diff ID. ``room`` is asked before each file.

    Raises InvalidImage for a path that leads nowhere good, tarfile's errors and OSError.
    """
    tree = folder / _TREE
    tree.mkdir()
    state = hashlib.sha256()
    hashed = _hashed(chunks, state)
    layer = _Unpacked(tree)
    with open_layer(hashed) as archive:
        for member in archive:
            room.add_file(member.size if member.isreg() else 1)
            layer.take(archive, member)
    for _ in hashed:  # what lies behind the archive's end belongs to the diff ID too
        pass
    rows = json.dumps(layer.rows(), separators=(",", ":"), ensure_ascii=False)
    room.add_file(len(rows))
    (folder / _MEMBERS).write_bytes(rows.encode(*BYTES))
    for path in (tree, folder):
        path.chmod(0o755)  # others may use this cache too
    return Digest(state.hexdigest())


def lay_layer(folder: Path, root: Path, room: Room) -> None:
    """Do to ``root`` what an unpacked layer does: its files are hard links, or copies where links cannot be made.

    ``room`` is told what that takes. Raises InvalidImage for a path that leads nowhere good below ``root``, or a tree
    that is damaged; OSError.
    """
    try:
        rows: list[Row] = json.loads((folder / _MEMBERS).read_bytes().decode(*BYTES))
    except (FileNotFoundError, ValueError) as error:
        raise _damaged(folder) from error
    files, tree, written = LayerFiles(root), f"{folder}/{_TREE}", set[str]()
    for kind, path, *more in rows:
        parent, name = posixpath.split(native(path))
        inside = files.resolve(parent)
        target = f"{inside}/{name}"
        if kind == "o":
            files.empty(inside, with_parents(written))
        elif kind == "w":
            files.remove(target)
        elif kind == "d":
            room.add_file(1)
            files.directory(target, more[0])
        else:
            files.remove(target)
            if kind == "l":
                files.symlink(native(more[0]), target)
            elif kind == "h":
                files.hard_link(native(more[0]), target, path)
            else:
                try:
                    if not link_file(f"{tree}/{native(more[0])}", target):
                        room.add_file(os.lstat(target).st_size)
                except FileNotFoundError as error:
                    raise _damaged(folder) from error
        if kind not in "ow":
            written.add(target)


def _damaged(folder: Path) -> InvalidImage:
    return InvalidImage(f"the unpacked layer {folder} is damaged", hint="remove it: it is unpacked again when needed")


def _hashed(chunks: Iterator[bytes], state: Any) -> Iterator[bytes]:
    for chunk in chunks:
        state.update(chunk)
        yield chunk


class _Unpacked:
    """The tree of one layer and what its members do, as they come."""

    def __init__(self, tree: Path) -> None:
        self._files = LayerFiles(tree)
        self._top = len(f"{tree}/")
        self._rows: list[Row | None] = []
        # Where a file lies in the tree, and its row: a later member may take its place.
        self._places: dict[str, int] = {}

    def rows(self) -> list[Row]:
        """What is left to be done, in order."""
        return [row for row in self._rows if row is not None]

    def take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _clean(native(member.name))
        if path == "":
            return
        parent, name = posixpath.split(path)
        folder = self._files.resolve(parent)
        whiteout = read_whiteout(path)
        if whiteout is None:
            self._place(archive, member, path, f"{folder}/{name}")
        elif whiteout.opaque:
            self._add("o", path)
        else:
            self._forget(f"{folder}/{posixpath.basename(whiteout.path)}")
            self._add("w", whiteout.path)

    def _place(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, target: str) -> None:
        if member.isdir():
            if not is_directory(target):
                self._forget(target)
            mode = member.mode & 0o1777 | 0o700
            self._files.directory(target, mode)
            self._add("d", path, mode)
            return
        if not (member.isfile() or member.issym() or member.islnk()):
            return
        if member.islnk():
            linked = _clean(native(member.linkname))
            parent, name = posixpath.split(linked)
            here = f"{self._files.resolve(parent)}/{name}"
            if here == target:
                return  # to itself
            self._forget(target)
            if not os.path.lexists(here) or is_directory(here):
                self._add("h", path, portable(linked))
                return
            os.link(here, target, follow_symlinks=False)
            if os.path.islink(here):
                self._add("l", path, portable(os.readlink(here)))
                return
        elif member.issym():
            self._forget(target)
            self._files.symlink(native(member.linkname), target)
            self._add("l", path, member.linkname)
            return
        else:
            self._forget(target)
            _write(archive, member, target)
        self._places[target] = len(self._rows)
        self._add("f", path, portable(target[self._top :]))

    def _add(self, kind: str, path: str, *more: Any) -> None:
        self._rows.append([kind, portable(path), *more])

    def _forget(self, target: str) -> None:
        """Remove what an earlier member of this layer put there: its file will not be there to be linked."""
        if not os.path.lexists(target):
            return
        below = f"{target}/"
        gone = [target] if not is_directory(target) else [each for each in self._places if each.startswith(below)]
        for each in gone:
            number = self._places.pop(each, None)
            if number is not None:
                self._rows[number] = None
        self._files.remove(target)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> None:
    source = archive.extractfile(member)
    with open(target, "wb") as file:
        if source is not None:
            shutil.copyfileobj(source, file, _READ)
    os.chmod(target, member.mode & 0o777)
    os.utime(target, (member.mtime, member.mtime))


def _clean(name: str) -> str:
    """The path below the root; ``..`` stays at the root as it would after chroot."""
    if "\0" in name:
        raise InvalidImage(f"a layer holds the path {name!r}")
    return posixpath.normpath(f"/{name}").lstrip("/")
