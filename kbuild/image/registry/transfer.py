"""Pulling an image into a layout, and pushing one from a layout."""

from __future__ import annotations

from pathlib import Path

from kbuild.cache.room import room_for
from kbuild.digest import Digest, digest_bytes
from kbuild.errors import HashMismatch, InvalidImage, RegistryError
from kbuild.files import mark_used
from kbuild.image.oci import layout as layouts
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, Manifest, index_from_json, parse_json
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.blob_places import BlobPlaces
from kbuild.image.registry.client import RegistryClient
from kbuild.image.registry.upload import push_blob
from kbuild.image.store.image_index import BuiltIndex
from kbuild.image.store.pack import replacing
from kbuild.platform import Platform
from kbuild.progress import Progress

_LITTLE = 100_000  # bytes that are told in kB


def pull_image(
    reference: ImageReference, platform: Platform, *, cache: Path, progress: Progress
) -> tuple[ImageReference, Path]:
    """Resolve a tag or digest to one platform's image and bring it into a layout below ``cache``.

    Returns the reference by the image manifest's digest, and the layout. What is in the cache by digest is not asked
    for again. Raises RegistryError, HashMismatch, InvalidImage, or OutputError when the cache cannot be written.
    """
    if reference.digest is not None and layouts.is_layout(cache / reference.digest.hex):
        kept = cache / reference.digest.hex
        mark_used(kept)
        _check_platform(kept, layouts.read_manifest(kept, reference.digest), platform, reference)
        return reference.with_digest(reference.digest), kept
    client = RegistryClient(reference)
    media_type, data = client.read_manifest(str(reference.digest or reference.tag or "latest"))
    _check(reference, reference.digest, data)
    if media_type in media.INDEXES:
        entry = _for_platform(index_from_json(parse_json(data, str(reference))), platform, reference)
        media_type, data = client.read_manifest(str(entry.digest))
        _check(reference, entry.digest, data)
    if media_type not in media.MANIFESTS:
        raise InvalidImage(f"{reference} is not an image: its media type is {media_type}")
    digest = digest_bytes(data)
    target = cache / digest.hex
    manifest = Manifest.from_json(parse_json(data, str(reference)), str(reference))
    manifest.check_config(str(reference.with_digest(digest)))
    if layouts.is_layout(target):
        mark_used(target)
        _check_platform(target, manifest, platform, reference)
    else:
        with room_for(target, sum(blob.size for blob in manifest.layers)), replacing(target) as folder:
            (folder / "blobs" / "sha256").mkdir(parents=True)
            for blob in dict.fromkeys((manifest.config, *manifest.layers)):
                progress.note(f"pulling {blob.digest} of {reference.familiar}")
                client.fetch_blob(blob, layouts.blob_path(folder, blob.digest), progress)
            _check_platform(folder, manifest, platform, reference)
            layouts.blob_path(folder, digest).write_bytes(data)
            image = Descriptor(media_type=media_type, digest=digest, size=len(data))
            for name, content in layouts.make_entrance(image, manifest, reference.with_tag(reference.tag)).items():
                (folder / name).write_bytes(content)
    return reference.with_digest(digest), target


def push_image(
    layout: Path,
    digest: Digest,
    reference: ImageReference,
    *,
    places: BlobPlaces | None = None,
    base: ImageReference | None = None,
    progress: Progress,
) -> ImageReference:
    """Push an image of a layout; blobs that the repository has are not sent again.

    Nor are those that another repository of the registry has, as far as it is known: by ``places``, or as that of the
    ``base`` image. Returns the reference by digest.
    Raises RegistryError, and InvalidImage when the layout lacks a blob.
    """
    client = RegistryClient(reference)
    image = layouts.find_manifest(layout, digest=digest)
    manifest = layouts.read_manifest(layout, digest)
    sent = 0
    for blob in dict.fromkeys((*manifest.layers, manifest.config)):
        path = layouts.blob_path(layout, blob.digest)
        if not path.is_file():
            raise InvalidImage(f"not a whole image layout: {path} is missing")
        if client.has_blob(blob.digest):
            progress.note(f"{blob.digest} is already there")
            continue
        sources = _sources(reference, blob.digest, places, base)
        progress.note(f"pushing {blob.digest}")
        if push_blob(client, blob, path, sources=sources, progress=progress):
            progress.note(f"{blob.digest} was in {reference.registry} already, and is now here too")
        else:
            sent += blob.size
    data = layouts.blob_path(layout, digest).read_bytes()
    client.push_manifest(reference.tag or str(digest), image.media_type, data)
    if places is not None:
        places.add(reference, [blob.digest for blob in (*manifest.layers, manifest.config)])
    whole = sum(blob.size for blob in (*manifest.layers, manifest.config))
    progress.made(_sent(sent, whole, reference.registry))
    return reference.with_digest(digest)


def _sent(sent: int, whole: int, registry: str) -> str:
    """How many of so many bytes a registry was given."""
    if not sent:
        return f"nothing sent to {registry}, which had all {whole / 1e6:.1f} MB"
    size = f"{sent / 1e6:.1f} MB" if sent >= _LITTLE else f"{sent / 1e3:.1f} kB"
    had = f", which had the other {(whole - sent) / 1e6:.1f} MB" if sent < whole else ""
    return f"{size} sent to {registry}{had}"


def push_index(index: BuiltIndex, reference: ImageReference) -> ImageReference:
    """Push an index whose images the repository has; returns the reference by its digest. Raises RegistryError."""
    data = layouts.blob_path(index.layout, index.digest).read_bytes()
    RegistryClient(reference).push_manifest(reference.tag or str(index.digest), media.INDEX, data)
    return reference.with_digest(index.digest)


def _sources(
    target: ImageReference, digest: Digest, places: BlobPlaces | None, base: ImageReference | None
) -> list[str]:
    """The repositories of the target's registry that may have a blob."""
    known = None if places is None else places.find(target, digest)
    below = base.repository if base is not None and base.registry == target.registry else None
    found = dict.fromkeys(name for name in (known, below) if name is not None)
    return [name for name in found if name != target.repository]


def _for_platform(entries: tuple[Descriptor, ...], platform: Platform, reference: ImageReference) -> Descriptor:
    for entry in entries:
        if entry.platform == (platform.os, platform.architecture):
            return entry
    known = sorted(
        {"/".join(entry.platform) for entry in entries if entry.platform and "unknown" not in entry.platform}
    )
    raise RegistryError(f"{reference} is not there for {platform}", hint=f"it is for {', '.join(known)}")


def _check_platform(layout: Path, manifest: Manifest, platform: Platform, reference: ImageReference) -> None:
    found = layouts.read_platform(layout, manifest)
    if found != str(platform):
        raise RegistryError(f"{reference} is not there for {platform}", hint=f"it is for {found}")


def _check(reference: ImageReference, expected: Digest | None, data: bytes) -> None:
    if expected is not None and digest_bytes(data) != expected:
        raise HashMismatch(f"{reference.registry} sent another manifest for {reference.name}@{expected}")
