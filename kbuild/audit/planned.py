"""What an image must be by the plan that it names, as far as it is at hand, and what is recorded of its digest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kbuild.audit.image_layers import LayerMember
from kbuild.digest import Digest


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedLayer:
    """A layer that the plan has. ``diff_id`` is None where nothing here says which bytes it is; ``members`` are those
    that it must have, known of layers that the image lacks. ``other`` are paths in it that are not what the lock names,
    whatever this machine built."""

    name: str
    diff_id: Digest | None = None
    members: tuple[LayerMember, ...] | None = None
    other: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """``config`` is the whole image config without ``rootfs``, None where it cannot be told; ``partial`` tells that a
    base of its own may add to it. ``layers`` None: which there must be cannot be told, and ``fault`` says why.

    ``other_base`` says how the base differs from the one that is recorded for the model, ``other_platform`` that the
    lock is for another. ``base_packages`` are names and versions of the binary packages that were recorded for a base
    of packages. ``recorded`` are the digests that the run's tags name, by tag; ``rebuilt`` tells that one of them says
    that building the image again gave it.
    """

    config: Mapping[str, Any] | None = None
    partial: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[PlannedLayer, ...] | None = None
    fault: str | None = None
    other_base: str | None = None
    other_platform: str | None = None
    base_packages: Mapping[str, str] = field(default_factory=dict)
    recorded: Mapping[str, str] = field(default_factory=dict)
    rebuilt: bool = False

    @property
    def whole(self) -> bool:
        """Whether every layer can be compared: then nothing of the image is left to be judged by its looks."""
        return self.layers is not None and all(layer.diff_id is not None for layer in self.layers)


def flat_config(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """An image config as names and texts, each variable and label by itself."""
    if path.endswith("Env") and isinstance(value, list):
        for pair in value:
            name, _, text = str(pair).partition("=")
            yield f"{path}.{name}", text
    elif isinstance(value, Mapping) and path in ("", "config", "config.Labels"):
        for key, inner in value.items():
            yield from flat_config(f"{path}.{key}" if path else str(key), inner)
    elif path != "rootfs":
        yield path, value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    elif isinstance(value, Mapping) and value.get("type") != "layers":  # its layers are compared by themselves
        yield "rootfs.type", str(value.get("type"))
