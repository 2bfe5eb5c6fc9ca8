"""Engine: what executes a build context.

Every engine ends in uncompressed layers and a config; packing is not its job.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from kbuild.digest import Digest
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext
from kbuild.process import Runner
from kbuild.progress import Progress

EngineName = Literal["native", "buildkit"]

# Loaded on first use: building with one engine never imports another's tools.
ENGINES: dict[EngineName, str] = {
    "native": "kbuild.image.engines.native:NativeEngine",
    "buildkit": "kbuild.image.engines.buildkit:BuildKitEngine",
}


class LayerSource(Protocol):
    """An uncompressed layer tar, wherever it is."""

    def chunks(self) -> Iterator[bytes]:
        """The tar in pieces, the same bytes at each call; raises OSError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedBlob:
    """A base image's layer as it lies in a layout; it is carried over unchanged. ``size`` is in bytes."""

    media_type: str
    digest: Digest
    size: int
    diff_id: Digest
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class RawLayer:
    """One layer and the Dockerfile text that made it.

    ``key`` is set where it may be kept for other images, ``diff_id`` where the engine knows it before it is read.
    ``size`` is that of its files in bytes, where that is known: the largest are packed first.
    """

    content: LayerSource | PackedBlob
    created_by: str
    size: int = 0
    key: Digest | None = None
    diff_id: Digest | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineOutput:
    """Layers from the lowest up, and the ``config`` object of the OCI image config (config.md "config")."""

    layers: tuple[RawLayer, ...]
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedLayers:
    """By the source of their COPY: the keys of the plan's layers, and those that are packed already."""

    keys: Mapping[str, Digest] = field(default_factory=dict)
    packed: Mapping[str, PackedBlob] = field(default_factory=dict)


NOTHING_PACKED = PackedLayers()


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How the build is done, none of which is in the image; only BuildKit has any of it.

    ``builder`` is one of docker buildx, ``network`` that of RUN steps (``host``). ``contexts`` are further named build
    contexts. ``secrets`` are for secret mounts by their id: a text, or a file of this machine.
    """

    builder: str | None = None
    network: str | None = None
    contexts: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str | Path] = field(default_factory=dict, repr=False)


DEFAULT_SETTINGS = EngineSettings()


class Engine(Protocol):
    """Executes the rendered Dockerfile of a build context."""

    name: str

    def probe(self) -> str:
        """One line about what was found (versions); raises EngineUnavailable when it cannot run here."""

    def build(
        self,
        context: BuildContext,
        base: ResolvedBase,
        *,
        workdir: Path,
        progress: Progress,
        known: PackedLayers = NOTHING_PACKED,
    ) -> EngineOutput:
        """Execute; raises BuildFailed, UnsupportedInstruction, BaseImageError or OutputError.

        The directories of layers in ``known.packed`` need not be there, where ``copies_plan`` says that it is so.
        Writes only below ``workdir``, which must outlive the output: layers may be read from it.
        """


def make_engine(name: EngineName, runner: Runner, settings: EngineSettings = DEFAULT_SETTINGS) -> Engine:
    """The engine of that name, its processes started by ``runner``."""
    module, _, kind = ENGINES[name].partition(":")
    return cast(Engine, getattr(import_module(module), kind)(runner, settings))


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """One layer of a finished image; sizes are of the blob as stored."""

    digest: Digest
    diff_id: Digest
    size: int
    created_by: str


Bring = Callable[[Collection[Digest], Progress], None]


def _has_all(wanted: Collection[Digest], progress: Progress) -> None:
    """What is there need not be brought."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltImage:
    """A finished image: an OCI layout directory, the manifest digest, the config digest (the image ID).

    ``size`` is the sum of all its blobs in bytes, ``engine`` the one that built it. The layout of an image that a
    registry has may lack layers: who reads some calls ``bring`` with their digests first. It raises RegistryError,
    HashMismatch or OutputError. ``others`` are the platforms of the images that have the same name, where nobody said
    which is meant; ``beside`` is what the layout that it was found in says beside it (see ``beside_image``).
    """

    layout: Path
    digest: Digest
    config_digest: Digest
    size: int
    layers: tuple[LayerSummary, ...]
    engine: str
    bring: Bring = field(default=_has_all, compare=False, repr=False)
    others: tuple[str, ...] = field(default=(), compare=False)
    beside: tuple[str, ...] = field(default=(), compare=False)

    def bring_all(self, progress: Progress) -> None:
        """Have every layer in the layout."""
        self.bring([layer.digest for layer in self.layers], progress)
