"""What the layers of an image bring, as values: every member of every tar, whatever comes above it.

Format: OCI image-spec layer.md (change sets, whiteouts).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kbuild.digest import Digest

MemberKind = Literal["file", "folder", "link", "hard link", "hidden", "hidden content", "device", "pipe"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMember:
    """A member by its normal path without a leading slash; ``size`` in bytes, ``digest`` and ``data`` are a file's.

    ``hidden`` takes the path away from the layers below (a whiteout), ``hidden content`` all that is in the folder.
    ``link`` is where a link leads, as it is written; ``data`` only where it was asked for. ``privileged`` tells of file
    capabilities, which work as setuid does. ``secrets`` are the kinds of secrets in it with their lines, None where
    nobody looked.
    """

    path: str
    kind: MemberKind
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    size: int = 0
    digest: Digest | None = None
    link: str = ""
    privileged: bool = False
    data: bytes | None = None
    secrets: tuple[tuple[str, int], ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLayer:
    """``diff_id`` is that of the content as it was read; ``stated`` is what the image's config says."""

    digest: Digest
    diff_id: Digest
    stated: Digest
    created_by: str
    members: tuple[LayerMember, ...]
