"""Layers applied one after the other to one folder, as kbuild did before it shared them: what a root put together
from shared trees has to equal."""

# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH123, PTH208, PTH211

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from kbuild.errors import InvalidImage
from kbuild.image.oci.compress import ChunkStream

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_LINKS = 40
_READ = 1 << 20


def apply_layer(chunks: Iterator[bytes], root: Path) -> None:
    """Apply one uncompressed layer to ``root``; raises InvalidImage for a path that leads nowhere good."""
    written: set[str] = set()
    with tarfile.open(fileobj=cast(IO[bytes], ChunkStream(chunks)), mode="r|", bufsize=_READ) as archive:
        for member in archive:
            path = _clean(member.name)
            if path == "":
                continue
            parent, name = posixpath.split(path)
            folder = _resolve(root, parent)
            if name == _OPAQUE:
                _empty(folder, written)
            elif name.startswith(_WHITEOUT):
                _remove(f"{folder}/{_hidden(name, member.name)}")
            else:
                target = f"{folder}/{name}"
                _place(archive, member, target, root)
                written.add(target)


def _hidden(name: str, member: str) -> str:
    """What a whiteout hides (OCI image-spec layer.md "Whiteouts"): one name in its folder, never a way out of it."""
    hidden = name.removeprefix(_WHITEOUT)
    if hidden in ("", ".", ".."):
        raise InvalidImage(f"a layer holds the whiteout /{member}, which names no file")
    return hidden


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, target: str, root: Path) -> None:
    if member.isdir():
        if not _is_directory(target):
            _remove(target)
            os.mkdir(target)
        os.chmod(target, member.mode & 0o1777 | 0o700)
        return
    if not (member.isfile() or member.issym() or member.islnk()):
        return
    _remove(target)
    if member.issym():
        os.symlink(member.linkname, target)
    elif member.islnk():
        parent, name = posixpath.split(_clean(member.linkname))
        try:
            os.link(f"{_resolve(root, parent)}/{name}", target, follow_symlinks=False)
        except (FileNotFoundError, PermissionError) as error:  # PermissionError: it is a directory
            raise InvalidImage(f"a layer links /{member.name} to /{member.linkname}, which is no file") from error
    else:
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


def _resolve(root: Path, path: str) -> str:
    """The directory ``path`` of the image, its links followed as if ``root`` were ``/``, made where it is missing."""
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
        here = "/".join([str(root), *done, part])
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
    return "/".join([str(root), *done])


def _empty(folder: str, written: set[str]) -> None:
    """Remove what lower layers left in a directory."""
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if path not in written and not any(kept.startswith(f"{path}/") for kept in written):
            _remove(path)


def _remove(path: str) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _is_directory(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
