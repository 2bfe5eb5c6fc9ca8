"""The members of a layer, read as a stream and kept by the layer's digest: a second look reads no content.

Format: OCI image-spec layer.md; extended attributes as GNU tar and Go write them (``SCHILY.xattr.`` in PAX headers).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from kbuild.audit.image_layers import LayerMember, MemberKind
from kbuild.cache.tree import write_whole
from kbuild.digest import Digest, digest_bytes, digest_chunks, digest_file, digest_json
from kbuild.errors import InvalidImage
from kbuild.files import mark_used
from kbuild.image.oci.compress import ChunkStream, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.image.oci.whiteouts import read_whiteout

_RECIPE = 2
"""Changes whenever the same layer would be told otherwise."""
_READ = 1 << 20
_LARGEST = 32 << 20
_CAPABILITY = "SCHILY.xattr.security.capability"
_KINDS: dict[bytes, MemberKind] = {
    tarfile.LNKTYPE: "hard link",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.DIRTYPE: "folder",
    tarfile.FIFOTYPE: "pipe",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRecords:
    """Where members are kept between audits; ``wanted`` names the rule by which files have their content with them."""

    root: Path
    wanted: str

    def path(self, digest: Digest) -> Path:
        """The record of the layer with this digest."""
        return self.root / f"{digest_json([_RECIPE, self.wanted, str(digest)]).hex}.zst"


def read_members(
    blob: Path, digest: Digest, media_type: str, wants: Callable[[str], bool], records: LayerRecords | None = None
) -> tuple[Digest, tuple[LayerMember, ...]]:
    """The digest of the unpacked layer (its diff ID) and its members in their order, with the content of those that
    ``wants`` names.

    The blob is hashed each time, and read where no record of it is kept. Raises InvalidImage.
    """
    try:
        if digest_file(blob) != digest:
            raise InvalidImage(
                f"layer {digest} of the image cannot be read: its bytes have another digest",
                hint="fetch or build it again",
            )
        kept = None if records is None else records.path(digest)
        known = None if kept is None else _read_record(kept)
        if known is None:
            known = _read_tar(blob, media_type, wants)
            if kept is not None:
                # An audit in a cache that we may only read reads the layer each time.
                with contextlib.suppress(OSError):
                    write_whole(kept, _record(*known))
    except FileNotFoundError as error:
        raise InvalidImage(f"layer {digest} of the image is missing", hint="build it again") from error
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, ValueError, EOFError) as error:
        raise InvalidImage(f"layer {digest} of the image cannot be read: {error}") from error
    return known


def file_streams(blob: Path, media_type: str, paths: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The content of the regular files of these paths, each to be read before the next is asked for."""
    chunks = read_layer(blob, layer_compression(media_type))
    with tarfile.open(fileobj=cast(IO[bytes], ChunkStream(chunks)), mode="r|", bufsize=_READ) as archive:
        for member in archive:
            path = _normal(member.name)
            content = archive.extractfile(member) if member.isfile() and path in paths else None
            if content is not None:
                yield path, content


def _read_tar(blob: Path, media_type: str, wants: Callable[[str], bool]) -> tuple[Digest, tuple[LayerMember, ...]]:
    state = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in read_layer(blob, layer_compression(media_type)):
            state.update(chunk)
            yield chunk

    chunks = hashed()
    with tarfile.open(fileobj=cast(IO[bytes], ChunkStream(chunks)), mode="r|", bufsize=_READ) as archive:
        members = tuple(_member(archive, member, wants) for member in archive if _normal(member.name))
    for _ in chunks:  # what comes after the end of the archive is part of the layer's digest
        pass
    return Digest(state.hexdigest()), members


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, wants: Callable[[str], bool]) -> LayerMember:
    path = _normal(member.name)
    common: dict[str, Any] = {
        "mode": member.mode,
        "owner": (member.uid, member.gid),
        "privileged": _CAPABILITY in member.pax_headers,
    }
    whiteout = read_whiteout(path)
    if whiteout is not None:
        return LayerMember(path=whiteout.path, kind="hidden content" if whiteout.opaque else "hidden", **common)
    kind = _KINDS.get(member.type, "file")
    if kind != "file":
        return LayerMember(path=path, kind=kind, link=member.linkname, **common)
    content = archive.extractfile(member)
    if content is None:
        raise InvalidImage(f"a layer of the image holds /{path}, which is of an unknown kind ({member.type!r})")
    if wants(path) and member.size <= _LARGEST:
        data = content.read()
        return LayerMember(path=path, kind=kind, size=len(data), digest=digest_bytes(data), data=data, **common)
    digest = digest_chunks(iter(lambda: content.read(_READ), b""))
    return LayerMember(path=path, kind=kind, size=member.size, digest=digest, **common)


def _normal(name: str) -> str:
    return posixpath.normpath(f"/{name}").lstrip("/")


def _record(diff_id: Digest, members: tuple[LayerMember, ...]) -> bytes:
    rows = [
        [
            each.path, each.kind, each.mode, *each.owner, each.size, None if each.digest is None else each.digest.hex,
            each.link, each.privileged, None if each.data is None else base64.b64encode(each.data).decode(),
        ]
        for each in members
    ]  # fmt: skip
    return zstandard.compress(json.dumps([diff_id.hex, rows]).encode())


def _read_record(path: Path) -> tuple[Digest, tuple[LayerMember, ...]] | None:
    try:
        diff_id, rows = json.loads(zstandard.decompress(path.read_bytes()))
        members = tuple(_from_row(*row) for row in rows)
        mark_used(path)
    except (FileNotFoundError, ValueError, TypeError, zstandard.ZstdError):
        return None  # not read yet, or a damaged record: read again
    return Digest(diff_id), members


def _from_row(
    path: str,
    kind: MemberKind,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    digest: str | None,
    link: str,
    privileged: bool,
    data: str | None,
) -> LayerMember:
    return LayerMember(
        path=path,
        kind=kind,
        mode=mode,
        owner=(uid, gid),
        size=size,
        digest=None if digest is None else Digest(digest),
        link=link,
        privileged=privileged,
        data=None if data is None else base64.b64decode(data),
    )
