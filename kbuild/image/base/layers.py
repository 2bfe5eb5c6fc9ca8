"""The base image an engine starts from: its layers as they lie in a layout, and its config."""

from __future__ import annotations

import contextlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.cache.tree import stamp
from kbuild.digest import digest_file
from kbuild.errors import BaseImageError, InvalidImage
from kbuild.image.engine import PackedBlob, RawLayer
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import open_layer, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.plan.base import ResolvedBase

_LARGEST = 64 << 20
_PULL_AGAIN = "kbuild cache verify --remove takes it out of the cache; it is pulled again when needed"
_MEMBERS = 1  # changes with what is written down of a layer's members


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """Layers from the lowest up, and the ``config`` object of the base's image config."""

    layers: tuple[RawLayer, ...]
    config: dict[str, Any]


EMPTY = BaseImage(layers=(), config={})


def read_base(base: ResolvedBase) -> BaseImage:
    """The image that stands in ``FROM``: nothing for assembled packages, which the Dockerfile copies.

    Raises BaseImageError when its layout is not there or does not hold.
    """
    if base.kind == "debs":
        return EMPTY
    if base.path is None:
        raise BaseImageError(f"base image {base.name} has not been pulled")
    try:
        image = layouts.find_manifest(base.path, digest=base.digest)
        manifest = layouts.read_manifest(base.path, image.digest)
        diff_ids, texts = layouts.read_history(base.path, manifest)
        config = layouts.read_json_blob(base.path, manifest.config.digest)
    except InvalidImage as error:
        raise BaseImageError(f"base image {base.name} cannot be used: {error.message}", hint=error.hint) from error
    layers = tuple(
        RawLayer(
            content=PackedBlob(
                media_type=layer.media_type,
                digest=layer.digest,
                size=layer.size,
                diff_id=diff_id,
                path=layouts.blob_path(base.path, layer.digest),
            ),
            created_by=text,
        )
        for layer, diff_id, text in zip(manifest.layers, diff_ids, texts, strict=True)
    )
    return BaseImage(layers=layers, config=dict(config.get("config") or {}))


def layer_members(blob: PackedBlob, *, kept: Path | None = None) -> Iterator[tarfile.TarInfo]:
    """The members of a layer blob in their order, their content skipped; raises BaseImageError when it is damaged.

    In the folder ``kept`` what was found is written down, so that a blob that nobody touched is decompressed once.
    """
    if kept is None:
        yield from _read_layer_members(blob)
        return
    record = kept / f"{blob.digest.hex}.json"
    members = _read_members(record, blob.path)
    if members is None:
        members = list(_read_layer_members(blob))
        if digest_file(blob.path) != blob.digest:
            raise BaseImageError(f"layer {blob.digest} of the base image does not have that digest", hint=_PULL_AGAIN)
        rows = [[m.name, m.type.decode(), m.mode, m.uid, m.gid, m.linkname] for m in members]
        # A base in a folder that we may only read is decompressed each time.
        with contextlib.suppress(OSError):
            write_vouched(record, json.dumps([_MEMBERS, stamp(blob.path), rows]).encode())
    yield from members


def _read_members(record: Path, blob: Path) -> list[tarfile.TarInfo] | None:
    try:
        version, stamped, rows = json.loads(read_vouched(record))
        return [_member(*row) for row in rows] if (version, stamped) == (_MEMBERS, stamp(blob)) else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _member(name: str, kind: str, mode: int, uid: int, gid: int, link: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.uid, member.gid, member.linkname = kind.encode(), mode, uid, gid, link
    return member


def _read_layer_members(blob: PackedBlob) -> Iterator[tarfile.TarInfo]:
    return (member for member, _ in layer_files(blob, lambda name: False))


def layer_files(blob: PackedBlob, wants: Callable[[str], bool]) -> Iterator[tuple[tarfile.TarInfo, bytes | None]]:
    """The members of a layer blob, with the content of regular files that are wanted by name and of at most 64 MiB;
    raises BaseImageError when the blob is damaged."""
    try:
        chunks = read_layer(blob.path, layer_compression(blob.media_type))
        with open_layer(chunks) as archive:
            for member in archive:
                wanted = member.isfile() and member.size <= _LARGEST and wants(member.name)
                file = archive.extractfile(member) if wanted else None
                yield member, None if file is None else file.read()
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, ValueError, FileNotFoundError) as error:
        raise BaseImageError(f"layer {blob.digest} of the base image cannot be read: {error}") from error
