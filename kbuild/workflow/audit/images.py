"""What an image on disk holds, as facts for the audit, and the model inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache as cache_answer
from pathlib import Path

from kbuild.audit.image_facts import Description, ImageFacts, facts_folders, make_image_facts, wants_bytes
from kbuild.audit.secrets import may_hold_secrets
from kbuild.audit.sizes.measure import FileSize, LayerSizes, measure
from kbuild.cache.notes import read_vouched, write_if_allowed
from kbuild.digest import digest_json
from kbuild.image.base.debian.suites import find_suite
from kbuild.image.compare.contents import ImageContents, ReadLayer, model_path, read_config, read_contents
from kbuild.image.compare.known_layers import KnownLayers
from kbuild.image.compare.sizes import image_places
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.descriptor import Manifest
from kbuild.image.oci.media import layer_compression
from kbuild.image.oci.skipped import skipped_bytes
from kbuild.progress import Progress

_BASE = "io.kbuild.base.name"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadImage:
    """The facts of an image, and what reads a layer in the same way."""

    facts: ImageFacts
    read: ReadLayer


def read_image(
    image: BuiltImage, model_into: Path | None, progress: Progress, *, cache: Path
) -> tuple[ReadImage, Path | None]:
    """The facts of an image, and its model's files in ``model_into`` where there are any; ``cache`` keeps what was read
    of layers."""
    image.bring_all(progress)  # any of them may bring or hide a file that is looked at
    _, config = read_config(image.layout, image.digest)
    places = image_places(config)
    prefix = places.prefix

    known = KnownLayers(
        cache=cache, prefix=prefix, wants=lambda path: wants_bytes(path, prefix), scans=may_hold_secrets
    )
    contents = read_contents(
        image.layout,
        image.digest,
        folders=facts_folders(prefix, model_path(config)),
        read=known.read,
        extract=None if model_into is None else (model_path(config), model_into),
        progress=progress,
    )
    manifest = layouts.read_manifest(image.layout, image.digest)
    described = Description(
        digest=str(contents.digest),
        subdir=contents.platform.conda_subdir,
        labels=contents.labels,
        config=layouts.read_json_blob(image.layout, image.config_digest),
        annotations=dict(manifest.annotations),
        beside=(*image.beside, *manifest.beside, *_skipped(image.layout, manifest, cache)),
        others=image.others,
        layers=contents.layers,
        measured=cache_answer(lambda: measure(_layer_files(image, contents), places)),
    )
    release = _release(contents.labels.get(_BASE, ""))
    facts = make_image_facts(contents.files, described, prefix=prefix, model_path=model_path(config), release=release)
    has_model = model_into is not None and (model_into / "MLmodel").is_file()
    return ReadImage(facts=facts, read=known.read), model_into if has_model else None


def _skipped(layout: Path, manifest: Manifest, cache: Path) -> Iterator[str]:
    """What no reader of its layers gives, which is kept in ``cache``: the digests of the layers have been compared."""
    for number, layer in enumerate(manifest.layers):
        note = cache / "layer-members" / digest_json([str(layer.digest), "skipped", layer.media_type]).hex
        try:
            size = int(read_vouched(note))
        except FileNotFoundError:
            size = skipped_bytes(layouts.blob_path(layout, layer.digest), layer_compression(layer.media_type))
            write_if_allowed(note, str(size).encode())
        if size:
            yield f"layers[{number}], {size} bytes that every reader skips"


def _layer_files(image: BuiltImage, contents: ImageContents) -> Iterator[LayerSizes]:
    for layer, stored in zip(contents.layers, image.layers, strict=True):
        files = tuple(
            FileSize(path=member.path, size=member.size, data=member.data)
            for member in layer.members
            if member.kind != "folder"
        )
        yield LayerSizes(digest=str(layer.digest), created_by=layer.created_by, packed=stored.size, files=files)


def _release(base: str) -> dict[str, str]:
    """os-release's fields of a base that kbuild assembled: it holds the suite's packages, but no base-files."""
    suite = find_suite(*base.partition(":")[::2])
    return {} if suite is None else {"ID": suite.distribution, "VERSION_ID": suite.version}
