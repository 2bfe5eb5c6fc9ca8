"""An image as the tar that ``docker save`` wrote before OCI: for engines that cannot read how its layers are packed.

Format: moby's image/spec/v1.2.md "Combined Image JSON + Filesystem Changeset Format". Layers in it are plain tars, so
the engine has nothing to decompress, and the image ID (the config's digest) is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kbuild.digest import Digest, canonical_json
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import tarball
from kbuild.image.oci.compress import read_layer
from kbuild.image.oci.descriptor import Descriptor
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.media import layer_compression

_BLOCK = 512


def docker_archive(layout: Path, digest: Digest, reference: ImageReference) -> Iterator[bytes]:
    """The tar in pieces. Each layer is unpacked twice, its size first: a tar tells it before the bytes.

    Raises OSError, InvalidImage, and the decompressor's error for a damaged layer.
    """
    manifest = layouts.read_manifest(layout, digest)
    config = f"{manifest.config.digest.hex}.json"
    layers = {f"{layer.digest.hex}.tar": layer for layer in manifest.layers}
    names = [f"{layer.digest.hex}.tar" for layer in manifest.layers]
    tag = reference.with_tag(reference.tag or "latest").familiar
    top = canonical_json([{"Config": config, "RepoTags": [tag], "Layers": names}])
    yield from _file(layouts.DOCKER_MANIFEST, len(top), iter((top,)))
    data = layouts.blob_path(layout, manifest.config.digest).read_bytes()
    yield from _file(config, len(data), iter((data,)))
    for name, layer in layers.items():
        yield from _file(name, sum(map(len, _tar(layout, layer))), _tar(layout, layer))
    yield bytes(2 * _BLOCK)


def _tar(layout: Path, layer: Descriptor) -> Iterator[bytes]:
    return read_layer(layouts.blob_path(layout, layer.digest), layer_compression(layer.media_type))


def _file(name: str, size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield tarball.header(tarball.Entry(name=name.encode(), kind=tarball.FILE, mode=0o644, size=size))
    yield from chunks
    yield bytes(-size % _BLOCK)
