"""Images that are in a registry and not on this machine: their documents at once, a layer when it is needed.

What a manifest and a config say (digest, platform, labels, what the layers hold by their diff IDs) is some kilobytes;
who compares two images of one environment, or builds one again, never reads most of the layers.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path

from kbuild.cache.room import room_for
from kbuild.cache.scratch import scratch_folder
from kbuild.cache.tree import writing
from kbuild.digest import Digest, digest_bytes, digest_file
from kbuild.errors import HashMismatch, InvalidImage
from kbuild.files import link_or_copy, mark_used
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, Manifest, index_from_json, parse_json
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.client import RegistryClient
from kbuild.image.store.image_index import BuiltIndex, index_in
from kbuild.image.store.pack import image_in, replacing
from kbuild.platform import Platform
from kbuild.progress import Progress

REMOTE = "remote"
"""The folder of the cache whose layouts may lack layers; no other of its folders may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteImages:
    """The images of registries, as far as ``cache`` was asked to know them."""

    cache: Path

    def find(self, reference: ImageReference, platform: Platform | None, progress: Progress) -> BuiltImage:
        """The image of a tag or digest, whose ``bring`` fetches layers; of an index that for ``platform``, or for this
        machine.

        An image that was asked for by its digest before is not asked for again. Raises RegistryError, HashMismatch,
        InvalidImage, or OutputError when the cache cannot be written.
        """
        layout, digest = self._documents(reference, progress)
        image = image_in(layout, engine="unknown", digest=digest, platform=platform)
        return self._bringing(image, reference)

    def index(self, reference: ImageReference, progress: Progress) -> BuiltIndex | None:
        """The image index of a tag or digest, None where it is an image. Raises as ``find``."""
        layout, digest = self._documents(reference, progress)
        if len(layouts.list_images(layout, digest)) < 2:
            return None
        index = index_in(layout, digest, engine="unknown")
        images = {platform: self._bringing(image, reference) for platform, image in index.images.items()}
        return replace(index, images=images)

    def _bringing(self, image: BuiltImage, reference: ImageReference) -> BuiltImage:
        return replace(image, bring=_Layers(cache=self.cache, image=image, reference=reference))

    def _documents(self, reference: ImageReference, progress: Progress) -> tuple[Path, Digest]:
        """A layout with the manifests and configs of a reference, and what it leads to."""
        root = self.cache / REMOTE
        if reference.digest is not None and layouts.is_layout(root / reference.digest.hex):
            mark_used(root / reference.digest.hex)
            return root / reference.digest.hex, reference.digest
        client = RegistryClient(reference)
        progress.note(f"asking {reference.registry} for {reference.familiar}")
        media_type, data = client.read_manifest(str(reference.digest or reference.tag or "latest"))
        top = _checked(reference, reference.digest, media_type, data)
        if layouts.is_layout(root / top.digest.hex):
            mark_used(root / top.digest.hex)
            return root / top.digest.hex, top.digest
        with replacing(root / top.digest.hex) as folder:
            (folder / "blobs" / "sha256").mkdir(parents=True)
            manifest = _write(client, reference, top, data, folder, progress)
            for name, content in layouts.make_entrance(top, manifest, reference.with_tag(reference.tag)).items():
                (folder / name).write_bytes(content)
        return root / top.digest.hex, top.digest


def _write(
    client: RegistryClient,
    reference: ImageReference,
    top: Descriptor,
    data: bytes,
    folder: Path,
    progress: Progress,
    depth: int = 0,
) -> Manifest | None:
    """Write a manifest and its config, of an index those of its images; returns the manifest, None of an index."""
    layouts.blob_path(folder, top.digest).write_bytes(data)
    if top.media_type in media.INDEXES:
        layouts.check_depth(depth, str(reference.with_digest(top.digest)))
        for entry in index_from_json(parse_json(data, str(reference)), str(reference)):
            if entry.media_type in media.MANIFESTS and not entry.is_image:
                continue  # what is said about an image is not asked for
            media_type, inner = client.read_manifest(str(entry.digest))
            below = _checked(reference, entry.digest, media_type, inner)
            _write(client, reference, below, inner, folder, progress, depth + 1)
        return None
    manifest = Manifest.from_json(parse_json(data, str(reference)), str(reference))
    manifest.check_config(str(reference.with_digest(top.digest)))
    target = layouts.blob_path(folder, manifest.config.digest)
    if not target.exists():
        client.fetch_blob(manifest.config, target, progress)
    return manifest


def _checked(reference: ImageReference, expected: Digest | None, media_type: str, data: bytes) -> Descriptor:
    digest = digest_bytes(data)
    if expected is not None and digest != expected:
        raise HashMismatch(f"{reference.registry} sent another manifest for {reference.name}@{expected}")
    if media_type not in media.MANIFESTS | media.INDEXES:
        raise InvalidImage(f"{reference.with_digest(digest)} is not an image: its media type is {media_type}")
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layers:
    """Fetches layers into an image's layout; see ``BuiltImage.bring``."""

    cache: Path
    image: BuiltImage
    reference: ImageReference
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def __call__(self, wanted: Collection[Digest], progress: Progress) -> None:
        layout = self.image.layout
        manifest = layouts.read_manifest(layout, self.image.digest)
        with self.one_at_a_time:
            missing = [
                layer
                for layer in dict.fromkeys(manifest.layers)
                if layer.digest in wanted and not layouts.blob_path(layout, layer.digest).is_file()
            ]
            if not missing:
                return
            client = RegistryClient(self.reference)
            with (
                writing(f"layers of {self.reference.familiar}"),
                scratch_folder(layout.parent, ".layers-") as scratch,
            ):
                for layer in missing:
                    self._bring(layer, client, scratch, progress)
        mark_used(layout)

    def _bring(self, layer: Descriptor, client: RegistryClient, scratch: Path, progress: Progress) -> None:
        new = scratch / layer.digest.hex
        for place in ("images", "pulled", REMOTE):
            for here in self.cache.glob(f"{place}/*/blobs/sha256/{layer.digest.hex}"):
                if here.stat().st_size == layer.size and digest_file(here) == layer.digest:
                    link_or_copy(here, new)
                    new.rename(layouts.blob_path(self.image.layout, layer.digest))
                    return
        progress.note(f"pulling {layer.digest} of {self.reference.familiar}")
        with room_for(new, layer.size):
            client.fetch_blob(layer, new, progress)
            new.rename(layouts.blob_path(self.image.layout, layer.digest))
