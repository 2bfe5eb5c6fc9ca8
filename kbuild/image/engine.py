"""Engine: what executes a build context. Every engine ends in uncompressed layers and a config; packing is not its job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kbuild.digest import Digest
from kbuild.plan.base import ResolvedBase
from kbuild.plan.plan import BuildContext
from kbuild.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class RawLayer:
    """An uncompressed layer tar on disk and the Dockerfile text that made it.

    ``diff_id`` is the digest of the tar. ``packed`` is set for a layer of the base image that already exists as a
    compressed blob and must be carried over unchanged (media type, digest, size, path of the blob).
    """

    path: Path
    diff_id: Digest
    created_by: str
    packed: PackedBlob | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBlob:
    """A layer blob as it lies in a layout."""

    media_type: str
    digest: Digest
    size: int
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOutput:
    """Layers from the lowest up, and the ``config`` object of the OCI image config (config.md "config")."""

    layers: tuple[RawLayer, ...]
    config: dict[str, Any]


class Engine(Protocol):
    """Executes the rendered Dockerfile of a build context."""

    name: str

    def probe(self) -> str:
        """One line about what was found (versions); raises EngineUnavailable when it cannot run here."""

    def build(
        self, context: BuildContext, base: ResolvedBase, *, workdir: Path, progress: Progress
    ) -> EngineOutput:
        """Execute; raises BuildFailed or UnsupportedInstruction. Writes only below ``workdir``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """One layer of a finished image; sizes are of the blob as stored."""

    digest: Digest
    diff_id: Digest
    size: int
    created_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImage:
    """A finished image: an OCI layout directory, the manifest digest, the config digest (the image ID)."""

    layout: Path
    digest: Digest
    config_digest: Digest
    size: int
    layers: tuple[LayerSummary, ...]
    engine: str
