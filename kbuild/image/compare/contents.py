"""The files of an image below some folders, read from its layers as streams: nothing is unpacked as a whole.

Format: OCI image-spec layer.md (change sets, whiteouts, opaque directories).
"""

from __future__ import annotations

import io
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from kbuild.audit.image_facts import ImageFile
from kbuild.digest import Digest, digest_bytes, digest_chunks
from kbuild.errors import InvalidImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import ChunkStream, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.image.oci.whiteouts import read_whiteout
from kbuild.platform import Platform
from kbuild.progress import Progress

_READ = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageContents:
    """``files`` by path without a leading slash; ``config`` is the ``config`` object of the image config."""

    digest: Digest
    platform: Platform
    config: Mapping[str, Any]
    files: Mapping[str, ImageFile]

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
        return Platform(config["os"], config["architecture"]), dict(config.get("config") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidImage(f"the config of image {digest} is none: {error!r}") from error


def read_contents(
    layout: Path,
    digest: Digest,
    *,
    folders: tuple[str, ...],
    wants_bytes: Callable[[str], bool],
    extract: tuple[str, Path] | None,
    progress: Progress,
) -> ImageContents:
    """The files below ``folders``, or named there (relative paths), as the topmost layer leaves them.

    Each has its digest; those that ``wants_bytes`` have their content too. ``extract`` names one of the folders and an
    empty directory to write its files into. Links count as the file they lead to only where they are hard links.
    Raises InvalidImage for damaged layers.
    """
    manifest = layouts.read_manifest(layout, digest)
    platform, config = read_config(layout, digest)
    reader = _Reader(folders=folders, wants_bytes=wants_bytes, extract=extract)
    for number, layer in enumerate(manifest.layers, 1):
        progress.note(f"reading layer {number} of {len(manifest.layers)}")
        blob = layouts.blob_path(layout, layer.digest)
        try:
            reader.apply(read_layer(blob, layer_compression(layer.media_type)))
        except FileNotFoundError as error:
            raise InvalidImage(f"layer {layer.digest} of {layout} is missing", hint="build it again") from error
        except (tarfile.TarError, zlib.error, zstandard.ZstdError, ValueError, EOFError) as error:
            raise InvalidImage(f"layer {layer.digest} of {layout} cannot be read: {error}") from error
    return ImageContents(digest=digest, platform=platform, config=config, files=reader.files)


class _Reader:
    def __init__(
        self, *, folders: tuple[str, ...], wants_bytes: Callable[[str], bool], extract: tuple[str, Path] | None
    ) -> None:
        self.files: dict[str, ImageFile] = {}
        self._named = frozenset(folder.strip("/") for folder in folders)
        self._folders = tuple(f"{folder}/" for folder in self._named)
        self._wants_bytes = wants_bytes
        self._extract = extract
        self._parents: set[str] = set()

    def apply(self, chunks: Iterator[bytes]) -> None:
        """One layer on top of those before."""
        written: set[str] = set()
        with tarfile.open(fileobj=cast(IO[bytes], ChunkStream(chunks)), mode="r|", bufsize=_READ) as archive:
            for member in archive:
                path = posixpath.normpath(f"/{member.name}").lstrip("/")
                whiteout = read_whiteout(path)
                if whiteout is not None:
                    self._remove(whiteout.path, keep=written if whiteout.opaque else set())
                elif not member.isdir():
                    # Looking for what was below is dear, and hardly ever is there a folder where a file comes.
                    if path in self.files or path in self._parents:
                        self._remove(path, keep=set())
                    self._place(archive, member, path)
                    written.add(path)

    def _place(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        if not path.startswith(self._folders) and path not in self._named:
            return
        if member.islnk():
            source = posixpath.normpath(f"/{member.linkname}").lstrip("/")
            if source in self.files:
                self._put(path, self.files[source])
                self._write(path, self._target(source))
            return
        content = archive.extractfile(member) if member.isfile() else None
        if content is None:
            return
        target = self._target(path)
        if self._wants_bytes(path):
            data = content.read()
            self._put(path, ImageFile(digest=digest_bytes(data), size=len(data), data=data))
            self._write(path, io.BytesIO(data))
        elif target is None:
            digest = digest_chunks(iter(lambda: content.read(_READ), b""))
            self._put(path, ImageFile(digest=digest, size=member.size))
        else:
            self._write(path, content)
            with target.open("rb") as file:
                digest = digest_chunks(iter(lambda: file.read(_READ), b""))
            self._put(path, ImageFile(digest=digest, size=member.size))

    def _put(self, path: str, file: ImageFile) -> None:
        self.files[path] = file
        folder = posixpath.dirname(path)
        while folder and folder not in self._parents:
            self._parents.add(folder)
            folder = posixpath.dirname(folder)

    def _target(self, path: str) -> Path | None:
        """Where a file is extracted to, None for those that are not."""
        if self._extract is None or not path.startswith(f"{self._extract[0].strip('/')}/"):
            return None
        return self._extract[1] / path.removeprefix(f"{self._extract[0].strip('/')}/")

    def _write(self, path: str, content: IO[bytes] | Path | None) -> None:
        target = self._target(path)
        if target is None or content is None:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
            return
        with target.open("wb") as file:
            shutil.copyfileobj(content, file, _READ)

    def _remove(self, path: str, *, keep: set[str]) -> None:
        below = f"{path}/" if path else ""
        gone = [each for each in self.files if (each == path or each.startswith(below)) and each not in keep]
        for each in gone:
            del self.files[each]
            target = self._target(each)
            if target is not None:
                target.unlink(missing_ok=True)
