"""What was read of a layer, kept by its digest: a second audit of the same layer opens it no more.

A record counts where this user's key vouches for it (``kbuild.cache.notes``), and of the rules by which it was made:
which files' content was asked for, and which secrets were looked for. The blob itself is hashed again unless it is the
very file, by inode and time of change, that was hashed when the record was made.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zstandard

from kbuild.audit import base_facts, image_facts, image_layers, secrets
from kbuild.audit.image_layers import LayerMember
from kbuild.cache.notes import is_reading_all, read_vouched, write_if_allowed
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.files import mark_used
from kbuild.image.compare import layers
from kbuild.image.compare.layers import Layer, other_digest, read_members
from kbuild.image.oci import whiteouts
from kbuild.urls import secret_names

_LARGEST = 256 << 20
"""Bytes of a record, which is one of this user's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownLayers:
    """Reads layers as ``read_members`` does, or remembers them in ``cache``. ``wants`` is told by ``prefix`` alone."""

    cache: Path
    prefix: str
    wants: Callable[[str], bool]
    scans: Callable[[str], bool]

    def read(self, blob: Path, digest: Digest, media_type: str) -> Layer:
        """The layer's diff ID and members; raises InvalidImage."""
        note = self.cache / "layer-members" / digest_json([str(digest), media_type, self.prefix, _rules()]).hex
        found = None if is_reading_all() else _read(note)
        if found is None or not blob.is_file():
            layer = read_members(blob, digest, media_type, self.wants, self.scans)
            _write(note, blob, layer)
            return layer
        files, layer = found
        if _file(blob) not in files:
            if digest_file(blob) != digest:
                raise other_digest(digest)
            _write(note, blob, layer, files)
        mark_used(note)
        return layer


def _file(blob: Path) -> list[int]:
    """By which a file is known for as long as nobody writes to it: no call sets the time of change."""
    status = blob.stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read(note: Path) -> tuple[list[list[int]], Layer] | None:
    try:
        data = read_vouched(note)
    except FileNotFoundError:
        return None
    value = json.loads(zstandard.ZstdDecompressor().decompress(data, max_output_size=_LARGEST))
    return value["files"], (Digest(value["diff_id"]), tuple(map(_member, value["members"])))


def _write(note: Path, blob: Path, layer: Layer, files: list[list[int]] | None = None) -> None:
    diff_id, members = layer
    # A file that is linked once more is another by its time of change: the last few are kept.
    value = {"files": [*(files or [])[-3:], _file(blob)], "diff_id": diff_id.hex, "members": [*map(_row, members)]}
    data = json.dumps(value, separators=(",", ":")).encode()
    if len(data) < _LARGEST:
        write_if_allowed(note, zstandard.ZstdCompressor(level=3).compress(data))


def _row(member: LayerMember) -> list[Any]:
    return [
        member.path,
        member.kind,
        member.mode,
        member.owner,
        member.size,
        member.digest.hex if member.digest is not None else None,
        member.link,
        member.privileged,
        base64.b64encode(member.data).decode() if member.data is not None else None,
        member.secrets,
    ]


def _member(row: list[Any]) -> LayerMember:
    path, kind, mode, owner, size, digest, link, privileged, data, found = row
    return LayerMember(
        path=path,
        kind=kind,
        mode=mode,
        owner=(owner[0], owner[1]),
        size=size,
        digest=None if digest is None else Digest(digest),
        link=link,
        privileged=privileged,
        data=None if data is None else base64.b64decode(data),
        secrets=None if found is None else tuple((name, line) for name, line in found),
    )


@cache
def _rules() -> str:
    """What other rules found says nothing of these."""
    modules = (layers, whiteouts, secrets, secret_names, image_facts, image_layers, base_facts)
    files = [str(digest_file(str(module.__file__))) for module in modules]
    return str(digest_json([files, version("detect-secrets")]))
