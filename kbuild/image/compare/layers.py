"""The members of a layer, read from its bytes as a stream each time: what somebody wrote down of them proves nothing.

Format: OCI image-spec layer.md; extended attributes as GNU tar and Go write them (``SCHILY.xattr.`` in PAX headers).
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from kbuild.audit.image_layers import LayerMember, MemberKind
from kbuild.audit.secrets import find_in_chunks
from kbuild.digest import Digest, digest_file
from kbuild.errors import InvalidImage
from kbuild.image.oci.compress import DAMAGED, open_layer, read_layer
from kbuild.image.oci.media import layer_compression
from kbuild.image.oci.whiteouts import read_whiteout

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


Layer = tuple[Digest, tuple[LayerMember, ...]]
"""The digest of an unpacked layer (its diff ID) and its members in their order."""


def read_members(
    blob: Path,
    digest: Digest,
    media_type: str,
    wants: Callable[[str], bool],
    scans: Callable[[str], bool] = lambda _: False,
) -> Layer:
    """What a layer holds, with the content of those that
    ``wants`` names, and the secrets in those that ``scans`` names, whatever their size: of these nothing is held.

    The blob is hashed and read. Raises InvalidImage.
    """
    try:
        if digest_file(blob) != digest:
            raise other_digest(digest)
        return _read_tar(blob, media_type, wants, scans)
    except FileNotFoundError as error:
        raise InvalidImage(f"layer {digest} of the image is missing", hint="build it again") from error
    except DAMAGED as error:
        raise InvalidImage(f"layer {digest} of the image cannot be read: {error}") from error


def other_digest(digest: Digest) -> InvalidImage:
    """Of a blob that is not what its digest says."""
    return InvalidImage(
        f"layer {digest} of the image cannot be read: its bytes have another digest", hint="fetch or build it again"
    )


def file_streams(blob: Path, media_type: str, paths: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The content of the regular files of these paths, each to be read before the next is asked for."""
    chunks = read_layer(blob, layer_compression(media_type))
    with open_layer(chunks) as archive:
        for member in archive:
            path = normal_path(member.name)
            content = archive.extractfile(member) if member.isfile() and path in paths else None
            if content is not None:
                yield path, content


def _read_tar(blob: Path, media_type: str, wants: Callable[[str], bool], scans: Callable[[str], bool]) -> Layer:
    state = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for chunk in read_layer(blob, layer_compression(media_type)):
            state.update(chunk)
            yield chunk

    chunks = hashed()
    with open_layer(chunks) as archive:
        members = tuple(_member(archive, member, wants, scans) for member in archive if normal_path(member.name))
    for _ in chunks:  # what comes after the end of the archive is part of the layer's digest
        pass
    return Digest(state.hexdigest()), members


def _member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, wants: Callable[[str], bool], scans: Callable[[str], bool]
) -> LayerMember:
    path = normal_path(member.name)
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
    state, kept = hashlib.sha256(), bytearray() if wants(path) and member.size <= _LARGEST else None

    def chunks() -> Iterator[bytes]:
        while chunk := content.read(_READ):
            state.update(chunk)
            if kept is not None:
                kept.extend(chunk)
            yield chunk

    secrets = tuple(find_in_chunks(chunks(), name=path).items()) if scans(path) else None
    for _ in chunks():  # what was not scanned
        pass
    data = None if kept is None else bytes(kept)
    digest = Digest(state.hexdigest())
    return LayerMember(path=path, kind=kind, size=member.size, digest=digest, data=data, secrets=secrets, **common)


def normal_path(name: str) -> str:
    """The path of a member without a leading slash, empty for the root itself."""
    return posixpath.normpath(f"/{name}").lstrip("/")
