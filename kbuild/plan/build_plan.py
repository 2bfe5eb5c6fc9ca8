"""BuildPlan: everything that determines the image, as pure data with its own digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kbuild.digest import Digest, digest_bytes, digest_json
from kbuild.platform import Platform

BASE_CONTEXT = "kbuild-base"
"""The name a Dockerfile's FROM gives to a base that is a local OCI layout (a named build context)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerPlan:
    """One ``COPY source/ /`` of the Dockerfile: a directory of the build context, and what decides its content.

    ``over`` names the lower layers whose files may also decide what is in this one; it has none in common with others.
    """

    name: str
    source: str
    content: Digest
    over: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageConfig:
    """The run-time part of the image, in the OCI image-spec's words (config.md "config")."""

    user: str
    entrypoint: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    exposed_port: int
    healthcheck: tuple[str, ...]
    stop_signal: str
    labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """What an engine is asked for.

    ``created`` is in seconds since 1970; ``from_line`` is what stands after FROM; ``dockerfile`` is the rendered text.
    ``packed_by`` names what turns the layers into blobs.
    """

    base: Digest
    base_name: str
    from_line: str
    platform: Platform
    created: int
    layers: tuple[LayerPlan, ...]
    config: ImageConfig
    annotations: tuple[tuple[str, str], ...]
    dockerfile: str
    packed_by: str = ""

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values; ``digest`` is over exactly this."""
        return {
            "base": str(self.base),
            "base_name": self.base_name,
            "from": self.from_line,
            "platform": str(self.platform),
            "created": self.created,
            "layers": [
                {"name": layer.name, "source": layer.source, "content": str(layer.content)} for layer in self.layers
            ],
            "config": {
                "user": self.config.user,
                "entrypoint": list(self.config.entrypoint),
                "env": dict(self.config.env),
                "exposed_port": self.config.exposed_port,
                "healthcheck": list(self.config.healthcheck),
                "stop_signal": self.config.stop_signal,
                "labels": dict(self.config.labels),
            },
            "annotations": dict(self.annotations),
            "dockerfile": str(digest_bytes(self.dockerfile.encode())),
            "packed_by": self.packed_by,
        }

    @property
    def digest(self) -> Digest:
        """The plan digest."""
        return digest_json(self.to_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildContext:
    """A directory that holds ``Dockerfile`` and one directory a layer, modes normalised to 0644/0755 (0777 links).

    An engine that runs here may read a layer's directory elsewhere: ``trees`` has those that are not in ``path``, each
    as the directories that together are it. Files that several of these have are the same in all.
    """

    path: Path
    plan: BuildPlan
    trees: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def roots(self, source: str) -> tuple[Path, ...]:
        """Where the directory of a layer is."""
        return self.trees.get(source, (self.path / source,))
