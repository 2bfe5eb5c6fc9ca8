"""In which repositories of a registry this machine has seen blobs, so that others there need no upload of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.notes import if_allowed, write_whole
from kbuild.digest import Digest
from kbuild.image.oci.image_reference import ImageReference

_KEPT = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class BlobPlaces:
    """One small file a registry. What it says is a hint: a registry that no longer has the blob there says so."""

    root: Path

    def find(self, target: ImageReference, digest: Digest) -> str | None:
        """Another repository of the target's registry that had this blob."""
        repository = self._read(target.registry).get(str(digest))
        return repository if repository != target.repository else None

    def add(self, place: ImageReference, digests: Iterable[Digest]) -> None:
        """Remember that these blobs are in this repository; raises OSError."""
        known = self._read(place.registry)
        for digest in digests:
            known.pop(str(digest), None)
            known[str(digest)] = place.repository
        kept = dict(list(known.items())[-_KEPT:])
        with if_allowed():
            write_whole(self._path(place.registry), json.dumps(kept).encode())

    def _path(self, registry: str) -> Path:
        return self.root / f"{registry.replace('/', '_')}.json"

    def _read(self, registry: str) -> dict[str, str]:
        try:
            value = json.loads(self._path(registry).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return {str(key): str(each) for key, each in value.items()} if isinstance(value, dict) else {}
