"""Does an image layout on disk hold what it says? Every failure at once.

OCI image-spec: image-layout.md, descriptor.md "Verification", manifest.md, config.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import zstandard

from kbuild.digest import Digest, digest_chunks, digest_file
from kbuild.errors import InvalidImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.compress import read_layer
from kbuild.image.oci.descriptor import Descriptor, Manifest, index_from_json

Depth = Literal["documents", "blobs", "layers"]


def validate_layout(layout: Path, *, depth: Depth = "layers") -> None:
    """Check every manifest and config by the specification, and that every blob is there in its size.

    ``blobs`` also compares each blob's digest, ``layers`` unpacks each layer too and compares its diff ID.
    Raises InvalidImage that names all that is wrong.
    """
    failures = list(dict.fromkeys(_layout_failures(layout, depth)))
    if failures:
        raise InvalidImage(f"{layout} is not a valid image layout: {'; '.join(failures)}")


def compare_blobs(layout: Path, image: Digest) -> None:
    """Compare every blob of one image of a layout with its digest; raises InvalidImage that names all that differ."""
    parts = _parts(layouts.read_manifest(layout, image), f"manifest {image}")
    failures = [failure for part, where in parts if (failure := _blob_failure(layout, part, where, "blobs"))]
    if failures:
        raise InvalidImage(f"{layout} is damaged: {'; '.join(failures)}", hint="fetch or build it again")


def _layout_failures(layout: Path, depth: Depth) -> Iterator[str]:
    try:
        marker = layouts.read_top(layout, layouts.OCI_LAYOUT)
        entries = layouts.read_index(layout)
    except InvalidImage as error:
        yield error.message
        return
    if not isinstance(marker, dict) or marker.get("imageLayoutVersion") != "1.0.0":
        yield f"{layouts.OCI_LAYOUT} does not say imageLayoutVersion 1.0.0"
    if not entries:
        yield "index.json lists no manifest"
    for number, entry in enumerate(entries):
        yield from _descriptor_failures(layout, entry, f"index.json manifests[{number}]", depth)


def _descriptor_failures(layout: Path, entry: Descriptor, where: str, depth: Depth, inside: int = 0) -> Iterator[str]:
    # What an index says about its images need not have come with them.
    if (
        entry.media_type in media.MANIFESTS
        and not entry.is_image
        and not layouts.blob_path(layout, entry.digest).exists()
    ):
        return
    blob_failure = _blob_failure(layout, entry, where, depth)
    if blob_failure is not None:
        yield blob_failure
        return
    try:
        if entry.media_type in media.INDEXES:
            layouts.check_depth(inside, where)
            inner = index_from_json(layouts.read_json_blob(layout, entry.digest), where)
            for number, item in enumerate(inner):
                yield from _descriptor_failures(layout, item, f"{where}.manifests[{number}]", depth, inside + 1)
        elif entry.media_type in media.MANIFESTS:
            manifest = Manifest.from_json(layouts.read_json_blob(layout, entry.digest), where)
            yield from _manifest_failures(layout, manifest, where, depth)
    except InvalidImage as error:
        yield error.message


def _manifest_failures(layout: Path, manifest: Manifest, where: str, depth: Depth) -> Iterator[str]:
    bad_blobs = False
    for descriptor, place in _parts(manifest, where):
        failure = _blob_failure(layout, descriptor, place, depth)
        if failure is not None:
            bad_blobs = True
            yield failure
    if manifest.config.media_type not in media.CONFIGS or bad_blobs:
        return  # an artifact of another kind has no layers to unpack; damaged blobs have been told
    config = layouts.read_json_blob(layout, manifest.config.digest)
    diff_ids = yield from _config_failures(config, f"{where}.config")
    if diff_ids is None:
        return
    if len(diff_ids) != len(manifest.layers):
        yield f"{where} has {len(manifest.layers)} layers and its config {len(diff_ids)} diff IDs"
        return
    for number, (layer, diff_id) in enumerate(zip(manifest.layers, diff_ids, strict=True)):
        failure = _layer_failure(layout, layer, diff_id, f"{where}.layers[{number}]") if depth == "layers" else None
        if failure is not None:
            yield failure


def _parts(manifest: Manifest, where: str) -> Iterator[tuple[Descriptor, str]]:
    yield manifest.config, f"{where}.config"
    for number, layer in enumerate(manifest.layers):
        yield layer, f"{where}.layers[{number}]"


def _config_failures(config: Any, where: str) -> Iterator[str] | Any:
    """Yields failures; returns the diff IDs, or None where they cannot be read."""
    if not isinstance(config, dict):
        yield f"{where} is not a JSON object"
        return None
    for key in ("architecture", "os"):
        if not isinstance(config.get(key), str):
            yield f"{where}.{key} is missing"
    rootfs = config.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers" or not isinstance(rootfs.get("diff_ids"), list):
        yield f"{where}.rootfs does not list diff_ids"
        return None
    history = config.get("history")
    if history is not None:
        made = sum(1 for step in history if isinstance(step, dict) and not step.get("empty_layer"))
        if made != len(rootfs["diff_ids"]):
            yield f"{where}.history tells of {made} layers, rootfs of {len(rootfs['diff_ids'])}"
    try:
        return [Digest.parse(str(diff_id)) for diff_id in rootfs["diff_ids"]]
    except ValueError as error:
        yield f"{where}.rootfs.diff_ids: {error}"
        return None


def _blob_failure(layout: Path, descriptor: Descriptor, where: str, depth: Depth) -> str | None:
    path = layouts.blob_path(layout, descriptor.digest)
    if not path.is_file():
        return f"{where}: blob {descriptor.digest} is missing"
    size = path.stat().st_size
    if size != descriptor.size:
        return f"{where}: blob {descriptor.digest} has {size} bytes, not {descriptor.size}"
    if depth != "documents" and digest_file(path) != descriptor.digest:
        return f"{where}: blob {descriptor.digest} does not have that digest"
    return None


def _layer_failure(layout: Path, layer: Descriptor, diff_id: Digest, where: str) -> str | None:
    try:
        found = digest_chunks(
            read_layer(layouts.blob_path(layout, layer.digest), media.layer_compression(layer.media_type))
        )
    except (ValueError, zlib.error, zstandard.ZstdError) as error:
        return f"{where} cannot be unpacked: {error}"
    return None if found == diff_id else f"{where} unpacks to {found}, its diff ID is {diff_id}"
