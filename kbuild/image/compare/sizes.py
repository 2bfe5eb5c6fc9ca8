"""The files of an image's layers by their sizes, read as streams: nothing is unpacked, and no layer is opened twice."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import zstandard

from kbuild.audit.image_facts import wants_bytes
from kbuild.audit.sizes.measure import FileSize, ImagePlaces, LayerSizes, measure
from kbuild.audit.sizes.values import ImageSizes
from kbuild.cache.notes import read_vouched, write_if_allowed
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.errors import InvalidImage
from kbuild.files import mark_used
from kbuild.image.compare.contents import model_path, read_config
from kbuild.image.compare.layers import normal_path, other_digest
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import DAMAGED, open_layer, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.image.packages.environment import PREFIX
from kbuild.plan.make import RUNTIME_PATH
from kbuild.progress import Progress

_FORM = 1  # changes with what is written down of a layer
_LARGEST = 32 << 20  # bytes of a file that is held
_LARGEST_NOTE = 256 << 20
_PYTHON = "/bin/python"
_BASE = "io.kbuild.base.name"


def find_prefix(config: dict[str, object]) -> str:
    """Where the environment lies: above the interpreter that the image starts, else where kbuild puts it."""
    entrypoint = config.get("Entrypoint")
    first = str(entrypoint[0]) if isinstance(entrypoint, list) and entrypoint else ""
    return first.removesuffix(_PYTHON) if first.startswith("/") and first.endswith(_PYTHON) else PREFIX


def image_places(config: dict[str, object]) -> ImagePlaces:
    """Where things lie in an image with this ``config`` object."""
    labels = config.get("Labels")
    base = str(labels.get(_BASE) or "") if isinstance(labels, dict) else ""
    prefix, runtime = find_prefix(config).lstrip("/"), RUNTIME_PATH.lstrip("/")
    return ImagePlaces(
        prefix=prefix, model=model_path(config), runtime=runtime, base=base.partition("@")[0] or "base image"
    )


def read_sizes(image: BuiltImage, progress: Progress, *, cache: Path) -> ImageSizes:
    """The sizes of an image's packages, by the layers they are in; ``cache`` keeps what was read of a layer.

    Raises InvalidImage for damaged layers.
    """
    image.bring_all(progress)
    _, config = read_config(image.layout, image.digest)
    places = image_places(config)
    layers = []
    for number, (layer, stored) in enumerate(
        zip(image.layers, layouts.read_manifest(image.layout, image.digest).layers, strict=True)
    ):
        progress.note(f"reading layer {number + 1} of {len(image.layers)}")
        blob = layouts.blob_path(image.layout, layer.digest)
        files = _files(blob, layer.digest, stored.media_type, places.prefix, cache)
        layers.append(LayerSizes(digest=str(layer.digest), created_by=layer.created_by, packed=layer.size, files=files))
    return measure(layers, places)


def _files(blob: Path, digest: Digest, media_type: str, prefix: str, cache: Path) -> tuple[FileSize, ...]:
    note = cache / "layer-members" / digest_json(["sizes", _FORM, str(digest), media_type, prefix]).hex
    try:
        rows = json.loads(zstandard.ZstdDecompressor().decompress(read_vouched(note), max_output_size=_LARGEST_NOTE))
        mark_used(note)
        return tuple(FileSize(path=path, size=size, data=data and base64.b64decode(data)) for path, size, data in rows)
    except FileNotFoundError:
        pass
    try:
        if digest_file(blob) != digest:
            raise other_digest(digest)
        files = tuple(_read(blob, media_type, prefix))
    except FileNotFoundError as error:
        raise InvalidImage(f"layer {digest} of the image is missing", hint="build it again") from error
    except DAMAGED as error:
        raise InvalidImage(f"layer {digest} of the image cannot be read: {error}") from error
    rows = [[each.path, each.size, each.data and base64.b64encode(each.data).decode()] for each in files]
    data = json.dumps(rows, separators=(",", ":")).encode()
    if len(data) < _LARGEST_NOTE:
        write_if_allowed(note, zstandard.ZstdCompressor(level=3).compress(data))
    return files


def _read(blob: Path, media_type: str, prefix: str) -> Iterator[FileSize]:
    with open_layer(read_layer(blob, layer_compression(media_type))) as archive:
        for member in archive:
            path = normal_path(member.name)
            if not path or member.isdir():
                continue
            size = member.size if member.isfile() and not member.islnk() else 0
            content = (
                archive.extractfile(member) if size <= _LARGEST and _wants(path, prefix) and member.isreg() else None
            )
            yield FileSize(path=path, size=size, data=None if content is None else content.read())


def _wants(path: str, prefix: str) -> bool:
    return path.startswith(f"{prefix}/") and wants_bytes(path, prefix)


def has_layers(image: BuiltImage) -> bool:
    """Whether all its layers are on this machine."""
    return all(layouts.blob_path(image.layout, layer.digest).is_file() for layer in image.layers)
