"""Layers that builders share through a registry, found by what decides their bytes.

One repository holds them. What belongs to one key is an image manifest of its own (OCI image-spec manifest.md,
"Guidelines for Artifact Usage") with a config of our own media type, the blob as its only layer, and the mark and diff
ID as annotations: a form that every registry takes, as an index of layers is not (moby/buildkit#2251).

Whoever may write to a registry can write anything into it, all fitting. So a manifest counts where a mark vouches for
all that it says of the key: an HMAC (RFC 2104) by a key that is made of ``KBUILD_CACHE_KEY``. The blob has to have the
digest and the size that are vouched for. Tags are made by the same key: builders of different keys neither see what the
others have nor write over it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.notes import derive_key
from kbuild.digest import Digest, canonical_json, digest_bytes
from kbuild.errors import HashMismatch, InvalidImage
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, Manifest, parse_json
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.client import RegistryClient
from kbuild.image.registry.upload import push_blob
from kbuild.progress import Progress

CONFIG_TYPE = "application/vnd.kbuild.cache.v1+json"
DIFF_ID = "io.kbuild.cache.diff-id"
MARK = "io.kbuild.cache.mark"
_PURPOSE = "the layers that builders share through a registry"
_CONFIG = b"{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedBlob:
    """What a key leads to; ``diff_id`` is that of a layer, None of anything else. ``size`` in bytes."""

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest | None = None

    @property
    def descriptor(self) -> Descriptor:
        """The blob alone."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)


class SharedLayers:
    """The shared layers of one repository. Not for several threads: each takes one of its own."""

    def __init__(self, place: ImageReference) -> None:
        self._place = place
        self._client = RegistryClient(place)

    def find(self, key: Digest) -> SharedBlob | None:
        """What somebody of our key vouches for under this key; None where there is nothing.

        Raises RegistryError, and HashMismatch for what has a tag of ours and nobody vouches for.
        """
        try:
            found = self._client.find_manifest(_tag(key))
            if found is None:
                return None
            manifest = Manifest.from_json(parse_json(found[1], "the manifest"))
            (layer,) = manifest.layers
            annotations = dict(manifest.annotations)
            diff_id = annotations.get(DIFF_ID)
            blob = SharedBlob(
                media_type=layer.media_type,
                digest=layer.digest,
                size=layer.size,
                diff_id=None if diff_id is None else Digest.parse(diff_id),
            )
        except (InvalidImage, ValueError) as error:
            raise self._stranger(key) from error
        if not hmac.compare_digest(_mark(key, blob).encode(), annotations.get(MARK, "").encode(errors="replace")):
            raise self._stranger(key)
        return blob

    def fetch(self, blob: SharedBlob, target: Path, progress: Progress) -> None:
        """Download a blob; raises RegistryError, HashMismatch for other bytes than were vouched for, and OSError."""
        self._client.fetch_blob(blob.descriptor, target, progress)

    def put(
        self, key: Digest, blob: SharedBlob, path: Path, *, sources: Sequence[str], scratch: Path, progress: Progress
    ) -> bool:
        """Have the key lead to a blob, whose bytes are sent where the registry has them neither here nor in one of the
        repositories in ``sources``; returns whether they were. Raises RegistryError and OSError."""
        sent = False
        if not self._client.has_blob(blob.digest):
            sent = not push_blob(self._client, blob.descriptor, path, sources=sources, progress=progress)
        config = Descriptor(media_type=CONFIG_TYPE, digest=digest_bytes(_CONFIG), size=len(_CONFIG))
        if not self._client.has_blob(config.digest):
            (scratch / "config").write_bytes(_CONFIG)
            push_blob(self._client, config, scratch / "config", progress=progress)
        diff_id = {} if blob.diff_id is None else {DIFF_ID: str(blob.diff_id)}
        annotations = tuple(sorted({**diff_id, MARK: _mark(key, blob)}.items()))
        manifest = Manifest(config=config, layers=(blob.descriptor,), annotations=annotations)
        self._client.push_manifest(_tag(key), media.MANIFEST, canonical_json(manifest.to_json()))
        return sent

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _stranger(self, key: Digest) -> HashMismatch:
        return HashMismatch(f"{self._place.name}:{_tag(key)} was written by somebody without this KBUILD_CACHE_KEY")


def _tag(key: Digest) -> str:
    return f"cache-{_hmac(canonical_json(['tag', key.hex]))}"


def _mark(key: Digest, blob: SharedBlob) -> str:
    diff_id = None if blob.diff_id is None else str(blob.diff_id)
    return _hmac(canonical_json(["mark", key.hex, blob.media_type, str(blob.digest), blob.size, diff_id]))


def _hmac(message: bytes) -> str:
    return hmac.new(derive_key(_PURPOSE).encode(), message, hashlib.sha256).hexdigest()
