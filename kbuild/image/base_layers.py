"""The base image an engine starts from: its layers as they lie in a layout, and its config."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import zstandard

from kbuild.errors import BaseImageError, InvalidImage
from kbuild.image.engine import PackedBlob, RawLayer
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import ChunkStream, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.plan.base import ResolvedBase

_READ = 1 << 20


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


def layer_members(blob: PackedBlob) -> Iterator[tarfile.TarInfo]:
    """The members of a layer blob in their order, their content skipped; raises BaseImageError when it is damaged."""
    try:
        chunks = read_layer(blob.path, layer_compression(blob.media_type))
        with tarfile.open(fileobj=cast(IO[bytes], ChunkStream(chunks)), mode="r|", bufsize=_READ) as archive:
            yield from archive
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, ValueError, FileNotFoundError) as error:
        raise BaseImageError(f"layer {blob.digest} of the base image cannot be read: {error}") from error
