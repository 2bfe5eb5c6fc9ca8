"""The one packer: whatever engine built it, compression, config, history and manifest are written here.

So the digest of an image depends on its layers and its plan alone, not on the engine.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kbuild.cache.room import room_for
from kbuild.cache.scratch import scratch_folder
from kbuild.digest import Digest, digest_bytes
from kbuild.errors import InvalidImage, OutputError
from kbuild.files import link_or_copy
from kbuild.image.engine import BuiltImage, EngineOutput, LayerSource, LayerSummary, PackedBlob, RawLayer
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media, tarball
from kbuild.image.oci.beside import beside_image, other_images
from kbuild.image.oci.compress import SETTINGS, write_blob
from kbuild.image.oci.descriptor import Descriptor, Manifest
from kbuild.image.oci.image_config import make_config
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.validate import validate_layout
from kbuild.image.store.layer_cache import LayerCache
from kbuild.plan.build_plan import BuildPlan
from kbuild.platform import Platform, host_platform
from kbuild.progress import Progress, how_many

# Docker 26.1 loads zstd layers into both of its stores, as do registries, podman and containerd; it packs five times
# faster than gzip and smaller. Docker 20.10 needs gzip.
DEFAULT_COMPRESSION: media.Compression = "zstd"
_RECIPE = 1
PACKED_BY = "io.kbuild.packed-by"
"""The annotation that says ``packing`` of the layers above the base image's."""
# The tar of nothing. WORKDIR on a folder that exists gives one; what changes nothing is left out of the image.
_EMPTY_TAR = digest_bytes(bytes(1024))
# Each compresses on a second thread beside it, which takes twice as long as reading and hashing does.
_WORKERS = min(8, os.cpu_count() or 2)


def packing(compression: media.Compression) -> str:
    """What besides layers and plan decides the bytes that they are packed to: library, level, recipes."""
    return f"{SETTINGS[compression]}; packer {_RECIPE}.{tarball.RECIPE}"


def pack(
    output: EngineOutput,
    plan: BuildPlan,
    destination: Path,
    *,
    engine: str,
    progress: Progress,
    compression: media.Compression = DEFAULT_COMPRESSION,
    reference: ImageReference | None = None,
    cache: LayerCache | None = None,
) -> BuiltImage:
    """Write the OCI layout directory ``destination`` and tell what is in it.

    An older layout at the same place is replaced, anything else in the way stays. Whole or not at all: it is made
    beside the destination and renamed. Layers with a key or a known diff ID are kept in ``cache``, and one whose
    diff ID is known there already is not packed again.
    Raises OutputError when it cannot be written (disk full, no permission), InvalidImage when it is none by the
    image-spec.
    """
    refuse_other(destination)
    with replacing(destination) as folder:
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        layers = _write_layers(output.layers, compression, blobs, progress, cache)
        config = make_config(
            output.config,
            platform=plan.platform,
            created=plan.created,
            diff_ids=[layer.diff_id for layer, _ in layers],
            created_by=[layer.created_by for layer, _ in layers],
        )
        config_blob = layouts.write_json_blob(folder, config, media.CONFIG)
        # In the manifest, not among the labels: what is compressed otherwise is the same image to whoever runs it.
        annotations = tuple(sorted({**dict(plan.annotations), PACKED_BY: packing(compression)}.items()))
        manifest = Manifest(
            config=config_blob, layers=tuple(descriptor for _, descriptor in layers), annotations=annotations
        )
        image = layouts.write_json_blob(folder, manifest.to_json(), media.MANIFEST)
        image = replace(image, platform=(plan.platform.os, plan.platform.architecture))
        for name, data in layouts.make_entrance(image, manifest, reference).items():
            (folder / name).write_bytes(data)
        # A Dockerfile or base of the user's may say what no image can: told here, not by a registry later.
        validate_layout(folder, depth="documents")
    blob_sizes = {blob.digest: blob.size for blob in (image, config_blob, *manifest.layers)}
    return BuiltImage(
        layout=destination,
        digest=image.digest,
        config_digest=config_blob.digest,
        size=sum(blob_sizes.values()),
        layers=tuple(summary for summary, _ in layers),
        engine=engine,
    )


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A new folder beside ``destination`` that takes its place at the end; nothing is left of it after an error.

    Raises OutputError for what the disk or its permissions refuse.
    """
    try:
        with scratch_folder(destination.parent, f".{destination.name[:16]}-") as scratch:
            new = scratch / "new"
            new.mkdir()
            yield new
            _replace(new, destination)
    except OSError as error:
        raise output_error(error, destination) from error


def output_error(error: OSError, destination: Path) -> OutputError:
    """The OutputError for what the system said while ``destination`` was being written."""
    hint = {
        errno.ENOSPC: "make room there, or name another place with --output",
        errno.EDQUOT: "make room there, or name another place with --output",
        errno.EACCES: "choose a place you may write to with --output",
        errno.EROFS: "choose a place you may write to with --output",
    }.get(error.errno or 0)
    reason = error.strerror or str(error)
    where = "" if error.filename is None or str(destination) in str(error.filename) else f" ({error.filename})"
    return OutputError(f"cannot write {destination}: {reason}{where}", hint=hint)


def refuse_other(destination: Path) -> None:
    """Raise OutputError for anything at ``destination`` but an image layout or an empty folder."""
    if not destination.exists() or layouts.is_layout(destination):
        return
    if destination.is_dir() and not any(destination.iterdir()):
        return
    raise OutputError(
        f"{destination} is there already and is not an image layout",
        hint="remove it, or name another place with --output",
    )


def _replace(new: Path, destination: Path) -> None:
    if not destination.exists():
        new.rename(destination)
        return
    old = destination.with_name(f".{destination.name}.{os.getpid()}.old")
    destination.rename(old)
    try:
        new.rename(destination)
    except BaseException:
        old.rename(destination)
        raise
    shutil.rmtree(old)


def _write_layers(
    layers: Sequence[RawLayer],
    compression: media.Compression,
    blobs: Path,
    progress: Progress,
    cache: LayerCache | None,
) -> list[tuple[LayerSummary, Descriptor]]:
    progress.note(f"packing {how_many(len(layers), 'layer')}")
    counter = _Counter(progress)

    def write(number: int) -> tuple[LayerSummary, Descriptor]:
        layer = layers[number]
        if isinstance(layer.content, PackedBlob):
            return _carry_over(layer.content, layer.created_by, blobs)
        if cache is not None and layer.diff_id is not None and (kept := cache.by_diff_id(layer.diff_id)) is not None:
            return _carry_over(kept, layer.created_by, blobs)
        summary, descriptor = _write_layer(
            layer.content, layer.created_by, compression, blobs, f".layer{number}", counter
        )
        if cache is not None and (layer.key is not None or layer.diff_id is not None):
            cache.put(layer.key, _as_blob(summary, descriptor, blobs))
        return summary, descriptor

    # The largest are begun first, to end together.
    order = sorted(range(len(layers)), key=lambda number: -layers[number].size)
    with ThreadPoolExecutor(_WORKERS) as pool:
        done = dict(zip(order, pool.map(write, order), strict=True))
    written = [done[number] for number in range(len(layers))]
    for summary, descriptor in written:
        if summary.diff_id == _EMPTY_TAR:
            (blobs / descriptor.digest.hex).unlink(missing_ok=True)
    return [pair for pair in written if pair[0].diff_id != _EMPTY_TAR]


def _write_layer(
    source: LayerSource,
    created_by: str,
    compression: media.Compression,
    blobs: Path,
    scratch: str,
    counter: _Counter,
) -> tuple[LayerSummary, Descriptor]:
    with room_for(blobs) as room:
        blob = write_blob(counter.counted(source.chunks()), compression, blobs, scratch=scratch, ahead=room.add)
    summary = LayerSummary(digest=blob.digest, diff_id=blob.diff_id, size=blob.size, created_by=created_by)
    return summary, Descriptor(media_type=media.LAYERS[compression], digest=blob.digest, size=blob.size)


def _as_blob(summary: LayerSummary, descriptor: Descriptor, blobs: Path) -> PackedBlob:
    return PackedBlob(
        media_type=descriptor.media_type,
        digest=summary.digest,
        size=summary.size,
        diff_id=summary.diff_id,
        path=blobs / summary.digest.hex,
    )


def _carry_over(blob: PackedBlob, created_by: str, blobs: Path) -> tuple[LayerSummary, Descriptor]:
    target = blobs / blob.digest.hex
    if not target.exists():
        link_or_copy(blob.path, target)
    try:
        media_type = media.oci_layer_type(blob.media_type)
    except ValueError as error:
        raise InvalidImage(f"the base image has a layer that cannot be used: {error}") from error
    summary = LayerSummary(digest=blob.digest, diff_id=blob.diff_id, size=blob.size, created_by=created_by)
    return summary, Descriptor(media_type=media_type, digest=blob.digest, size=blob.size)


class _Counter:
    """Adds up the bytes of layers that are written side by side."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            with self._lock:
                self._done += len(chunk)
                self._progress.count(self._done, None)
            yield chunk


def image_in(
    layout: Path, *, engine: str, digest: Digest | None = None, platform: Platform | None = None
) -> BuiltImage:
    """A layout on disk as a BuiltImage. Raises InvalidImage.

    ``digest`` names one of several, or an index; of an index it is the image for ``platform``, this machine's where
    None is given.
    """
    image = layouts.find_manifest(layout, digest=digest, platform=platform, otherwise=host_platform())
    manifest = layouts.read_manifest(layout, image.digest)
    layouts.check_blobs(layout, image, manifest)
    diff_ids, created_by = layouts.read_history(layout, manifest)
    return BuiltImage(
        layout=layout,
        digest=image.digest,
        config_digest=manifest.config.digest,
        size=sum({blob.digest: blob.size for blob in (image, manifest.config, *manifest.layers)}.values()),
        layers=tuple(
            LayerSummary(digest=layer.digest, diff_id=diff_id, size=layer.size, created_by=text)
            for layer, diff_id, text in zip(manifest.layers, diff_ids, created_by, strict=True)
        ),
        engine=engine,
        others=other_images(layout, image.digest, digest) if platform is None else (),
        beside=beside_image(layout, image.digest),
    )
