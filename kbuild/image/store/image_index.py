"""Image indexes: the images of several platforms under one digest (OCI image-spec image-index.md).

An index is put together from finished images: each has the manifest, and so the digest, that it has alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.digest import Digest
from kbuild.errors import InvalidImage, PlatformError
from kbuild.files import link_or_copy
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, make_index
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.pack import image_in, refuse_other, replacing
from kbuild.platform import Platform


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltIndex:
    """An image index in an OCI layout, and the image of each platform, in order of the platforms.

    ``size`` is the sum of all blobs in bytes; what images share counts once.
    """

    layout: Path
    digest: Digest
    size: int
    images: Mapping[Platform, BuiltImage]
    engine: str

    def for_platform(self, platform: Platform) -> BuiltImage:
        """The image of one platform; raises PlatformError naming those that are there."""
        if platform not in self.images:
            there = ", ".join(map(str, self.images))
            raise PlatformError(f"{self.digest} has no image for {platform}", hint=f"it is for {there}")
        return self.images[platform]


def write_index(
    images: Mapping[Platform, BuiltImage], destination: Path, *, reference: ImageReference | None = None
) -> BuiltIndex:
    """Write an OCI layout with the index of these images; blobs are links where the file system allows it.

    The index depends on the images alone. An older layout in the place is replaced. Raises OutputError.
    """
    refuse_other(destination)
    with replacing(destination) as folder:
        (folder / "blobs" / "sha256").mkdir(parents=True)
        entries = [_carry(images[platform], platform, folder) for platform in sorted(images)]
        index = layouts.write_json_blob(folder, make_index(tuple(entries)), media.INDEX)
        for name, data in layouts.make_entrance(index, None, reference).items():
            (folder / name).write_bytes(data)
    engine = next(iter(images.values())).engine
    return index_in(destination, index.digest, engine=engine)


def index_in(layout: Path, digest: Digest, *, engine: str) -> BuiltIndex:
    """The index of this digest in a layout; raises InvalidImage, also where it names an image twice or no platform."""
    found: dict[Platform, BuiltImage] = {}
    for entry in layouts.list_images(layout, digest):
        if entry.platform is None or Platform(*entry.platform) in found:
            raise InvalidImage(f"index {digest} does not say which platform {entry.digest} is for")
        found[Platform(*entry.platform)] = image_in(layout, engine=engine, digest=entry.digest)
    blobs = layout / "blobs" / "sha256"
    return BuiltIndex(
        layout=layout,
        digest=digest,
        size=sum(path.stat().st_size for path in blobs.iterdir()),
        images={platform: found[platform] for platform in sorted(found)},
        engine=engine,
    )


def find_index(layout: Path) -> Digest | None:
    """The digest of the index that a layout holds, None where it holds an image; raises InvalidImage."""
    entries = layouts.read_index(layout)
    several = len(entries) == 1 and len(layouts.list_images(layout, entries[0].digest)) > 1
    return entries[0].digest if several else None


def single_image(image: BuiltImage, destination: Path) -> BuiltImage:
    """An image of a layout with several in a layout of its own; raises OutputError."""
    manifest = layouts.read_manifest(image.layout, image.digest)
    with replacing(destination) as folder:
        (folder / "blobs" / "sha256").mkdir(parents=True)
        entry = _carry(image, None, folder)
        for name, data in layouts.make_entrance(entry, manifest, None).items():
            (folder / name).write_bytes(data)
    return replace(image, layout=destination)


def _carry(image: BuiltImage, platform: Platform | None, folder: Path) -> Descriptor:
    """Bring an image's blobs into a layout; returns its descriptor, with the platform where one is given."""
    entry = layouts.find_manifest(image.layout, digest=image.digest)
    manifest = layouts.read_manifest(image.layout, image.digest)
    for digest in {image.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}:
        target = layouts.blob_path(folder, digest)
        if not target.exists():
            link_or_copy(layouts.blob_path(image.layout, digest), target)
    named = entry.platform if platform is None else (platform.os, platform.architecture)
    return replace(entry, annotations=(), platform=named)
