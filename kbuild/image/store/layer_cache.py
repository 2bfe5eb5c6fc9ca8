"""Layers that were packed before, by what decides their bytes.

``layers/sha256/<digest>`` is a compressed layer, ``layers/keys/<key>`` the small record that leads to it. Both appear
in one rename, the blob first, so a process that is killed leaves at most an unnamed temporary file. A blob is taken
when size, time and inode are those of the moment its bytes were last hashed; otherwise it is hashed again, and one
that does not hold is dropped: its layer is simply made anew. That costs no read of what nobody touched. A record that
nobody here vouches for leads nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kbuild.cache.notes import is_reading_all, read_vouched, write_vouched
from kbuild.cache.tree import stamp
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.files import link_or_copy, mark_used
from kbuild.image.engine import PackedBlob
from kbuild.image.oci import media
from kbuild.image.oci.compress import SETTINGS
from kbuild.image.oci.tarball import RECIPE
from kbuild.plan.build_plan import BuildPlan

# Seconds in which a layer that is only looked at is not marked again: the next audit would read it anew.
_USED = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCache:
    """A folder of packed layers of one compression; safe for several processes at once."""

    root: Path
    compression: media.Compression

    def get(self, key: Digest, *, look: bool = False) -> PackedBlob | None:
        """The layer of this key, None where there is none or its bytes no longer hold.

        What is taken is marked as used, so that making room for a build never takes its own layers; who only has a
        ``look`` leaves the mark of the last minutes.
        """
        record = self._record(key)
        try:
            value = json.loads(read_vouched(record))
            blob = PackedBlob(
                media_type=media.LAYERS[self.compression],
                digest=Digest.parse(value["digest"]),
                size=int(value["size"]),
                diff_id=Digest.parse(value["diff_id"]),
                path=self.blobs / Digest.parse(value["digest"]).hex,
            )
            if not self._is_sound(blob, value["stamp"]):
                self._drop(record, blob.path)
                return None
            if value["stamp"] != stamp(blob.path):
                self._write(key, blob)
            mark_used(blob.path, within=_USED if look else 0)
        except FileNotFoundError:
            return None  # never made, or removed by somebody else just now
        except (ValueError, KeyError, TypeError):
            record.unlink(missing_ok=True)
            return None
        return blob

    def by_diff_id(self, diff_id: Digest) -> PackedBlob | None:
        """The layer whose tar has this digest, whoever packed it; None where there is none."""
        return self.get(_diff_id_key(diff_id))

    def put(self, key: Digest | None, blob: PackedBlob) -> None:
        """Keep a layer that was just written and hashed, by its diff ID and by ``key``; raises OSError.

        ``blob.path`` may be linked, not copied: layer blobs are never changed in place.
        """
        self.blobs.mkdir(parents=True, exist_ok=True)
        kept = self.blobs / blob.digest.hex
        with blob.path.open("rb") as file:
            os.fsync(file.fileno())  # the record must not outlive a crash that its blob does not
        temporary = kept.with_name(f".{kept.name[:16]}-{os.getpid()}-{threading.get_ident()}")
        try:
            link_or_copy(blob.path, temporary)
            temporary.replace(kept)
        finally:
            temporary.unlink(missing_ok=True)
        for each in (_diff_id_key(blob.diff_id), key):
            if each is not None:
                self._write(each, replace(blob, path=kept))

    @property
    def blobs(self) -> Path:
        """Where the blobs are, named by the hexadecimal part of their digest."""
        return self.root / "sha256"

    def packed_key(self, key: Digest) -> Digest:
        """Everything that decides the blob: ``key`` decides the tar, the compressor its bytes."""
        return digest_json([key.hex, self.compression, SETTINGS[self.compression]])

    def _record(self, key: Digest) -> Path:
        return self.root / "keys" / self.packed_key(key).hex

    def _write(self, key: Digest, blob: PackedBlob) -> None:
        value = {
            "digest": str(blob.digest),
            "diff_id": str(blob.diff_id),
            "size": blob.size,
            "stamp": stamp(blob.path),
        }
        write_vouched(self._record(key), json.dumps(value).encode())

    def _is_sound(self, blob: PackedBlob, stamped: Any) -> bool:
        if blob.path.stat().st_size != blob.size:
            return False
        known = stamped == stamp(blob.path) and not is_reading_all()
        return known or digest_file(blob.path) == blob.digest

    def _drop(self, record: Path, blob: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            record.unlink()
            blob.unlink()


def layer_keys(plan: BuildPlan) -> dict[str, Digest]:
    """Source -> everything that decides the layer's tar: its own content, that of the layers it may meet, the base."""
    content = {layer.name: str(layer.content) for layer in plan.layers}
    return {
        layer.source: digest_json([RECIPE, str(plan.base), content[layer.name], [content[name] for name in layer.over]])
        for layer in plan.layers
    }


def _diff_id_key(diff_id: Digest) -> Digest:
    return digest_json(["diff ID", str(diff_id)])
