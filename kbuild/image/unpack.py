"""An OCI image layout as a root file system in a directory, without root and without leaving that directory.

Format: OCI image-spec layer.md (change sets, whiteouts, opaque directories). Owners are not restored: everything
belongs to whoever unpacks. Devices, pipes and sockets are left out.
"""

# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH123, PTH208, PTH211
# os on strings takes a third of the time of pathlib, over tens of thousands of files

from __future__ import annotations

import os
import posixpath
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from kbuild.digest import Digest, digest_file
from kbuild.errors import InvalidImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import ChunkStream, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.image.tree import cached_tree, writing
from kbuild.platform import host_platform
from kbuild.progress import Progress

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_LINKS = 40
_READ = 1 << 20
# Where a sandbox mounts something: a read-only root must already have them.
_MOUNT_POINTS = ("proc", "dev", "tmp", "sys")


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackedImage:
    """``root`` is the file system, ``config`` the ``config`` object of the image config (config.md), ``digest`` the
    manifest's."""

    root: Path
    config: dict[str, Any]
    digest: Digest


def unpack_image(layout: Path, *, digest: Digest | None = None, cache: Path, progress: Progress) -> UnpackedImage:
    """Unpack an image of a layout below ``cache``, once a manifest digest.

    Without ``digest`` it is the layout's only image for this machine. Raises InvalidImage for damaged or hostile
    layers, OutputError when the cache cannot be written.
    """
    entry = layouts.find_manifest(layout, digest=digest, platform=None if digest else host_platform())
    manifest = layouts.read_manifest(layout, entry.digest)
    config = layouts.read_json_blob(layout, manifest.config.digest)

    def make(root: Path) -> None:
        for number, layer in enumerate(manifest.layers, 1):
            progress.note(f"unpacking layer {number} of {len(manifest.layers)}")
            blob = layouts.blob_path(layout, layer.digest)
            if not blob.is_file() or digest_file(blob) != layer.digest:
                raise InvalidImage(f"layer {layer.digest} of {layout} is missing or damaged", hint="build it again")
            try:
                apply_layer(read_layer(blob, layer_compression(layer.media_type)), root)
            except (tarfile.TarError, zlib.error, zstandard.ZstdError, ValueError, EOFError) as error:
                raise InvalidImage(f"layer {layer.digest} of {layout} cannot be unpacked: {error}") from error
        for name in _MOUNT_POINTS:
            (root / name).mkdir(exist_ok=True)
        root.chmod(0o755)

    with writing("the unpacked image"):
        # Not sealed: its bytes are the image's, which has digests of its own.
        root = cached_tree(cache / "rootfs" / entry.digest.hex, make, sealed=False)
    return UnpackedImage(root=root, config=dict(config.get("config") or {}), digest=entry.digest)


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
