"""The files of an image below some folders, read from its layers as streams: nothing is unpacked as a whole.

Format: OCI image-spec layer.md (change sets, whiteouts, opaque directories).
"""

from __future__ import annotations

import errno
import posixpath
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.audit.image_facts import ImageFile
from kbuild.audit.image_layers import ImageLayer, LayerMember
from kbuild.cache.room import room_for
from kbuild.digest import Digest
from kbuild.errors import InvalidImage
from kbuild.image.compare.layers import Layer, file_streams
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.descriptor import Manifest
from kbuild.plan.make import MODEL_PATH
from kbuild.platform import Platform
from kbuild.progress import Progress

ReadLayer = Callable[[Path, Digest, str], Layer]
"""Reads a blob, by its digest and media type; raises InvalidImage."""
_READ = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContents:
    """``files`` by path without a leading slash; ``config`` is the ``config`` object of the image config."""

    digest: Digest
    platform: Platform
    config: Mapping[str, Any]
    files: Mapping[str, ImageFile]
    layers: tuple[ImageLayer, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels."""
        return {str(key): str(value) for key, value in (self.config.get("Labels") or {}).items()}

    def variable(self, name: str) -> str | None:
        """A variable of the image's environment."""
        for each in self.config.get("Env") or ():
            key, _, value = str(each).partition("=")
            if key == name:
                return value
        return None


def read_config(layout: Path, digest: Digest) -> tuple[Platform, dict[str, Any]]:
    """Platform and ``config`` object of the image; raises InvalidImage."""
    manifest = layouts.read_manifest(layout, digest)
    config = layouts.read_json_blob(layout, manifest.config.digest)
    try:
        platform, inner = Platform(config["os"], config["architecture"]), dict(config.get("config") or {})
        _ = platform.conda_subdir
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        read = config if isinstance(config, dict) else {}
        named = f"{read.get('os')}/{read.get('architecture')}"
        raise InvalidImage(
            f"the config of image {digest} is none, or for a platform that kbuild does not know: {named}"
        ) from error
    labels, env = inner.get("Labels"), inner.get("Env")
    if not isinstance(labels or {}, dict) or not isinstance(env or [], list):
        raise InvalidImage(
            f"the config of image {digest} cannot be used: its Labels are not an object, or its Env is not a list"
        )
    return platform, inner


def model_path(config: Mapping[str, object]) -> str:
    """The model's folder without its leading slash."""
    variables = config.get("Env")
    stated = dict(str(each).partition("=")[::2] for each in variables) if isinstance(variables, list) else {}
    return (stated.get("KBUILD_MODEL") or MODEL_PATH).strip("/")


def read_contents(
    layout: Path,
    digest: Digest,
    *,
    folders: tuple[str, ...],
    read: ReadLayer,
    extract: tuple[str, Path] | None,
    progress: Progress,
) -> ImageContents:
    """The files below ``folders``, or named there (relative paths), as the topmost layer leaves them, and all layers.

    Each has its digest, and what else ``read`` tells of a layer's members. ``extract`` names one of the folders and an
    empty directory to write its files into. Links count as the file they lead to only where they are hard links.
    Raises InvalidImage for damaged layers.
    """
    manifest = layouts.read_manifest(layout, digest)
    platform, config = read_config(layout, digest)
    stated, created_by = _history(layout, manifest)
    tree = _Tree(folders=folders)
    layers = []
    for number, layer in enumerate(manifest.layers):
        progress.note(f"reading layer {number + 1} of {len(manifest.layers)}")
        blob = layouts.blob_path(layout, layer.digest)
        diff_id, members = read(blob, layer.digest, layer.media_type)
        tree.apply(members, number)
        layers.append(
            ImageLayer(
                digest=layer.digest,
                diff_id=diff_id,
                stated=stated[number] if number < len(stated) else diff_id,
                created_by=created_by[number] if number < len(created_by) else "",
                members=members,
            )
        )
    if extract is not None:
        for number, layer in enumerate(manifest.layers):
            _extract(tree.placed, number, layouts.blob_path(layout, layer.digest), layer.media_type, extract)
    files = {path: file for path, (file, _, _) in tree.placed.items()}
    return ImageContents(digest=digest, platform=platform, config=config, files=files, layers=tuple(layers))


def _history(layout: Path, manifest: Manifest) -> tuple[tuple[Digest, ...], tuple[str, ...]]:
    try:
        return layouts.read_history(layout, manifest)
    except InvalidImage:
        return (), ()  # told by whoever compares them


class _Tree:
    """The wanted files of the layers so far: what each is, in which layer and under which path its content lies."""

    def __init__(self, *, folders: tuple[str, ...]) -> None:
        self.placed: dict[str, tuple[ImageFile, int, str]] = {}
        self._named = frozenset(folder.strip("/") for folder in folders)
        self._folders = tuple(f"{folder}/" for folder in self._named)
        self._parents: set[str] = set()

    def apply(self, members: Iterable[LayerMember], number: int) -> None:
        """One layer on top of those before."""
        written: set[str] = set()
        for member in members:
            path = member.path
            if member.kind in ("hidden", "hidden content"):
                self._remove(path, keep=written if member.kind == "hidden content" else set())
            elif member.kind != "folder":
                # Looking for what was below is dear, and hardly ever is there a folder where a file comes.
                if path in self.placed or path in self._parents:
                    self._remove(path, keep=set())
                    self._parents.discard(path)
                self._place(member, number)
                written.add(path)

    def _place(self, member: LayerMember, number: int) -> None:
        path = member.path
        if not path.startswith(self._folders) and path not in self._named:
            return
        if member.kind == "hard link":
            source = posixpath.normpath(f"/{member.link}").lstrip("/")
            if source in self.placed:
                self._put(path, self.placed[source])
        elif member.digest is not None:
            self._put(path, (ImageFile(digest=member.digest, size=member.size, data=member.data), number, path))

    def _put(self, path: str, placed: tuple[ImageFile, int, str]) -> None:
        self.placed[path] = placed
        folder = posixpath.dirname(path)
        while folder and folder not in self._parents:
            self.placed.pop(folder, None)  # a folder comes where a file was
            self._parents.add(folder)
            folder = posixpath.dirname(folder)

    def _remove(self, path: str, *, keep: set[str]) -> None:
        below = f"{path}/" if path else ""
        gone = [each for each in self.placed if (each == path or each.startswith(below)) and each not in keep]
        for each in gone:
            del self.placed[each]


def _extract(
    placed: Mapping[str, tuple[ImageFile, int, str]], number: int, blob: Path, media_type: str, into: tuple[str, Path]
) -> None:
    """Write the files of one folder whose content lies in this layer; a layer that has none of them is not read."""
    start = f"{into[0].strip('/')}/"
    wanted: dict[str, list[str]] = {}
    for path, (_, layer, source) in placed.items():
        if layer == number and path.startswith(start):
            wanted.setdefault(source, []).append(path)
    if not wanted:
        return
    with room_for(into[1]) as room:
        for paths in wanted.values():
            for path in paths:
                room.add_file(placed[path][0].size)
        for source, content in file_streams(blob, media_type, set(wanted)):
            # Of a path that a layer holds twice the last one counts, as where it is unpacked.
            first, *others = (into[1] / path.removeprefix(start) for path in wanted[source])
            with _possible(source):
                first.parent.mkdir(parents=True, exist_ok=True)
                with first.open("wb") as file:
                    shutil.copyfileobj(content, file, _READ)
                for other in others:
                    other.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(first, other)


@contextmanager
def _possible(path: str) -> Iterator[None]:
    """Raises InvalidImage for a name that a tar can hold and this machine's file system cannot."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise
        raise InvalidImage(f"a layer holds a file that cannot be written: {path:.100}… ({error.strerror})") from error
