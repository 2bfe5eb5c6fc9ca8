"""Media types: OCI image-spec media-types.md, and Docker's older names for the same things.

Docker's: distribution's manifest-v2-2 specification.
"""

from __future__ import annotations

from typing import Literal

Compression = Literal["none", "gzip", "zstd"]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYERS: dict[Compression, str] = {
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = frozenset({INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({CONFIG, DOCKER_CONFIG})
_COMPRESSIONS: dict[str, Compression] = {
    **{media_type: compression for compression, media_type in LAYERS.items()},
    DOCKER_LAYER: "gzip",
    "application/vnd.docker.image.rootfs.diff.tar": "none",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}


def is_dockers(media_type: str) -> bool:
    """Whether it is one of Docker's names."""
    return media_type.startswith("application/vnd.docker.")


def oci_layer_type(media_type: str) -> str:
    """OCI's name for a layer's media type, which may be Docker's; ValueError for what is no layer."""
    return LAYERS[layer_compression(media_type)]


def layer_compression(media_type: str) -> Compression:
    """How a layer of this media type is compressed; raises ValueError for what is no layer."""
    if media_type not in _COMPRESSIONS:
        raise ValueError(f"not a layer's media type: {media_type!r}")
    return _COMPRESSIONS[media_type]
