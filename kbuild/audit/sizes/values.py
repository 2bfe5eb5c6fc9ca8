"""Sizes of an image as plain values, in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["python", "conda", "base", "model", "code", "other"]
"""A Python distribution; a conda package; the base image's files; the model; code of the project and of kbuild; what
nothing of these brought."""

WORDS: dict[Kind, str] = {
    "python": "Python package",
    "conda": "conda package",
    "base": "base image",
    "model": "model",
    "code": "code",
    "other": "other files",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageSize:
    """``size`` is that of its ``files`` as they are unpacked, bytecode included. What has no version has "" there."""

    name: str
    kind: Kind
    version: str
    size: int
    files: int

    @property
    def title(self) -> str:
        """``numpy 2.1.0``."""
        return f"{self.name} {self.version}".rstrip()

    @property
    def key(self) -> tuple[Kind, str, str]:
        """What makes it another than all others."""
        return self.kind, self.name, self.version


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSize:
    """``name`` is what the layer copies, or the command that made it; ``packed`` the size of its blob.

    ``packages`` are those that have files in it, the largest first.
    """

    digest: str
    name: str
    packed: int
    packages: tuple[PackageSize, ...]

    @property
    def size(self) -> int:
        """As it is unpacked."""
        return sum(each.size for each in self.packages)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSizes:
    """Layers from the lowest up. A file that a higher layer replaces or hides counts, as it is stored all the same."""

    layers: tuple[LayerSize, ...]

    @property
    def size(self) -> int:
        """As it is unpacked."""
        return sum(each.size for each in self.layers)

    @property
    def packed(self) -> int:
        """Of all layers' blobs."""
        return sum(each.packed for each in self.layers)

    @property
    def packages(self) -> tuple[PackageSize, ...]:
        """Over all layers, the largest first."""
        return join(package for layer in self.layers for package in layer.packages)

    def places(self) -> dict[tuple[Kind, str, str], list[str]]:
        """The names of the layers that hold files of a package, by its key."""
        found: dict[tuple[Kind, str, str], list[str]] = {}
        for layer in self.layers:
            for each in layer.packages:
                found.setdefault(each.key, []).append(layer.name)
        return found

    def to_json(self) -> dict[str, Any]:
        """The sizes as JSON values; the schema of the audit's report describes them."""
        places = self.places()
        return {
            "layers": [
                {"digest": each.digest, "name": each.name, "packed": each.packed, "size": each.size}
                for each in self.layers
            ],
            "packages": [
                {
                    "name": each.name,
                    "kind": each.kind,
                    "version": each.version or None,
                    "size": each.size,
                    "files": each.files,
                    "layers": places[each.key],
                }
                for each in self.packages
            ],
        }


def join(sizes: Iterable[PackageSize]) -> tuple[PackageSize, ...]:
    """Those of one package added up, the largest first."""
    found: dict[tuple[Kind, str, str], tuple[int, int]] = {}
    for each in sizes:
        size, files = found.get(each.key, (0, 0))
        found[each.key] = size + each.size, files + each.files
    return tuple(
        PackageSize(kind=kind, name=name, version=version, size=size, files=files)
        for (kind, name, version), (size, files) in sorted(found.items(), key=lambda item: (-item[1][0], item[0]))
    )


def readable(size: int) -> str:
    """``1.2 GB``, ``45.2 MB``, ``8.1 kB``: of a thousand bytes each, as disks and registries count."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
