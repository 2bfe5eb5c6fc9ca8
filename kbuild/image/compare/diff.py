"""What differs between two images: layers, config, packages, files.

Files are compared as the layers leave them, one on the other (OCI image-spec layer.md); nothing is unpacked.
"""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kbuild.digest import digest_bytes, digest_chunks
from kbuild.errors import InvalidImage
from kbuild.image.compare.told import config_lines, file_line
from kbuild.image.engine import BuiltImage, LayerSummary
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import DAMAGED, open_layer, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.image.oci.whiteouts import read_whiteout, with_parents
from kbuild.offered.change import Change, changes_text, find_changes, listed, short_digests
from kbuild.offered.shown import html_text
from kbuild.progress import Progress, how_many

_READ = 1 << 20
_KINDS = {b"0": "file", b"\0": "file", b"1": "hard link", b"2": "link", b"5": "folder", b"6": "pipe"}
_DIST_INFO = re.compile(r".*/site-packages/(?P<name>[^/]+)-(?P<version>[^/-]+)\.dist-info/METADATA")
_CONDA = re.compile(r".*/conda-meta/(?P<name>[^/]+)-(?P<version>[^/-]+)-(?P<build>[^/-]+)\.json")
_DEBIAN = re.compile(r"var/lib/dpkg/status\.d/[^/]+")
_VERSION = re.compile(rb"^Version: (\S+)$", re.M)
_SHOWN = 40
_PARTS = ("packages", "config", "layers", "files")
# Where plans put them (kbuild.plan.make), the narrower first.
_FOLDERS = {"code": "/opt/model/code/", "model": "/opt/model/"}
_RUNTIME = "/opt/kbuild"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """A path of an image as its tar member tells it; ``size`` in bytes, ``mtime`` in seconds since 1970."""

    kind: str
    mode: str
    owner: str
    mtime: int
    size: int
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDiff:
    """The changes from one image to another, by what they are about; all empty for one digest."""

    before: str
    after: str
    layers: tuple[Change, ...] = ()
    config: tuple[Change, ...] = ()
    packages: tuple[Change, ...] = ()
    files: tuple[Change, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the images are one."""
        return self.before == self.after

    def to_json(self) -> dict[str, Any]:
        """The diff as JSON values."""
        parts = {part: [change.to_json() for change in getattr(self, part)] for part in _PARTS}
        return {"before": self.before, "after": self.after, "same": self.same, **parts}

    def to_text(self, *, everything: bool = False) -> str:
        """Lines for people: packages, code, model and config, and how much else; ends with a newline.

        With ``everything`` layers and all files too, and digests in full. A fact that an image states several times is
        told once; ``config`` has all of them.
        """
        if self.same:
            return f"the same image: {self.before}\n"
        lines = [f"{self.before} -> {self.after}"]
        if everything:
            lines += changes_text("packages", self.packages)
            lines += listed("config", config_lines(self.config))
            lines += changes_text("layers", self.layers)
            lines += listed("files", map(file_line, self.files))
            return "\n".join(lines) + "\n"
        lines += changes_text("packages", self.packages, shown=_SHOWN)
        # Bytecode follows its source, a folder what is in it.
        told = [
            change
            for change in self.files
            if not change.name.endswith(".pyc") and not (change.before or change.after or "").startswith("folder ")
        ]
        for title, folder in _FOLDERS.items():
            inside = [change for change in told if change.name.startswith(folder)]
            told = [change for change in told if not change.name.startswith(folder)]
            named = (replace(change, name=change.name.removeprefix(folder)) for change in inside)
            lines += listed(title, map(file_line, named), shown=_SHOWN)
        lines += listed("config", config_lines(self.config), shown=_SHOWN)
        runtime = sum(change.name.startswith(f"{_RUNTIME}/") for change in told)
        if runtime:
            lines.append(f"kbuild's own part of the image: {how_many(runtime, 'file')} (kbuild diff --all)")
        if len(told) > runtime or not (self.packages or self.files or self.config):
            lines.append(
                f"{how_many(len(self.layers), 'layer')} and {len(told) - runtime} more files (kbuild diff --all)"
            )
        return short_digests("\n".join(lines)) + "\n"

    def _repr_html_(self) -> str:
        return html_text(self.to_text())


def diff_images(before: BuiltImage, after: BuiltImage, progress: Progress) -> ImageDiff:
    """Compare two images of layouts. Layers that both have are not read.

    So where a path is both in a common layer and in another, it may be called added instead of changed.
    Raises InvalidImage for damaged layers, and what bringing them does.
    """
    if before.digest == after.digest:
        return ImageDiff(before=str(before.digest), after=str(after.digest))
    same = _common(before.layers, after.layers)
    for image in (before, after):
        image.bring([layer.digest for layer in image.layers if str(layer.diff_id) not in same], progress)
    one, other = _Files(), _Files()
    one.apply(before, same)
    other.apply(after, same)
    return ImageDiff(
        before=str(before.digest),
        after=str(after.digest),
        layers=find_changes(_layer_facts(before), _layer_facts(after)),
        config=find_changes(_config_facts(before), _config_facts(after)),
        packages=find_changes(one.packages, other.packages),
        files=_file_changes(one.files, other.files),
    )


def _common(one: tuple[LayerSummary, ...], other: tuple[LayerSummary, ...]) -> frozenset[str]:
    """The diff IDs of layers that both images have: what differs between the images is in the others."""
    return frozenset({str(layer.diff_id) for layer in one} & {str(layer.diff_id) for layer in other})


def _layer_facts(image: BuiltImage) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, layer in enumerate(image.layers):
        name = layer.created_by or f"layer {number}"
        while name in found:
            name += "'"
        found[name] = f"{layer.diff_id} ({layer.size} bytes packed as {layer.digest})"
    return found


def _config_facts(image: BuiltImage) -> dict[str, str]:
    manifest = layouts.read_manifest(image.layout, image.digest)
    config = layouts.read_json_blob(image.layout, image.config_digest)
    config.pop("rootfs", None)
    facts = {f"annotation {key}": value for key, value in manifest.annotations}
    _flatten("", config, facts)
    return facts


def _flatten(path: str, value: Any, into: dict[str, str]) -> None:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            _flatten(f"{path}.{key}" if path else str(key), inner, into)
    elif path.endswith("Env") and isinstance(value, list):
        for pair in value:
            name, _, text = str(pair).partition("=")
            into[f"{path}.{name}"] = text
    else:
        into[path] = value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _file_changes(before: Mapping[str, FileFacts], after: Mapping[str, FileFacts]) -> tuple[Change, ...]:
    changes = []
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one is None or other is None:
            texts = [None if each is None else _all(each) for each in (one, other)]
            changes.append(Change(name=f"/{path}", before=texts[0], after=texts[1]))
        elif one != other:
            facts = [
                name for name in ("kind", "mode", "owner", "mtime", "size", "content")
                if getattr(one, name) != getattr(other, name)
            ]  # fmt: skip
            told = [", ".join(f"{name} {getattr(each, name)}" for name in facts) for each in (one, other)]
            changes.append(Change(name=f"/{path}", before=told[0], after=told[1]))
    return tuple(changes)


def _all(facts: FileFacts) -> str:
    return f"{facts.kind} {facts.mode} {facts.owner} {facts.size} bytes"


class _Files:
    """The file system of an image, and the packages that it says are in it."""

    def __init__(self) -> None:
        self.files: dict[str, FileFacts] = {}
        self._debian: dict[str, str] = {}

    @property
    def packages(self) -> dict[str, str]:
        """``pip numpy`` -> version, by the names of files that packagers write; a damaged image still has those."""
        found = {}
        for path in self.files:
            if match := _DIST_INFO.fullmatch(path):
                found[f"pip {match['name']}"] = match["version"]
            elif match := _CONDA.fullmatch(path):
                found[f"conda {match['name']}"] = f"{match['version']}-{match['build']}"
            elif path in self._debian:
                found[f"debian {posixpath.basename(path)}"] = self._debian[path]
        return found

    def apply(self, image: BuiltImage, same: frozenset[str]) -> None:
        manifest = layouts.read_manifest(image.layout, image.digest)
        for layer, summary in zip(manifest.layers, image.layers, strict=True):
            if str(summary.diff_id) in same:
                continue
            blob = layouts.blob_path(image.layout, layer.digest)
            try:
                with open_layer(read_layer(blob, layer_compression(layer.media_type))) as archive:
                    written: set[str] = set()
                    for member in archive:
                        self._add(archive, member, written)
            except (OSError, *DAMAGED) as error:
                raise InvalidImage(f"layer {layer.digest} of {image.layout} cannot be read: {error}") from error

    def _add(self, archive: tarfile.TarFile, member: tarfile.TarInfo, written: set[str]) -> None:
        path = posixpath.normpath(f"/{member.name}").lstrip("/")
        whiteout = read_whiteout(path)
        if whiteout is not None:
            if not whiteout.opaque:
                self.files.pop(whiteout.path, None)
            self._remove_below(whiteout.path, with_parents(written) if whiteout.opaque else ())
        elif path:
            written.add(path)
            if not member.isdir() and path in self.files and self.files[path].kind == "folder":
                self._remove_below(path)
            data = _small_content(archive, member) if _DEBIAN.fullmatch(path) else None
            version = None if data is None else _VERSION.search(data)
            if version is not None:
                self._debian[path] = version[1].decode()
            self.files[path] = _facts(archive, member, data)

    def _remove_below(self, folder: str, spared: Collection[str] = ()) -> None:
        for path in [path for path in self.files if path.startswith(f"{folder}/" if folder else "")]:
            if path not in spared:
                del self.files[path]


def _small_content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    file = archive.extractfile(member) if member.isreg() else None
    return None if file is None else file.read()


def _facts(archive: tarfile.TarFile, member: tarfile.TarInfo, data: bytes | None) -> FileFacts:
    content = ""
    file = archive.extractfile(member) if member.isreg() and data is None else None
    if data is not None:
        content = str(digest_bytes(data))
    elif file is not None:
        content = str(digest_chunks(iter(lambda: file.read(_READ), b"")))
    elif member.issym() or member.islnk():
        content = member.linkname
    return FileFacts(
        kind=_KINDS.get(member.type, "special file"),
        mode=f"{member.mode:04o}",
        owner=f"{member.uid}:{member.gid}",
        mtime=int(member.mtime),
        size=member.size,
        content=content,
    )
