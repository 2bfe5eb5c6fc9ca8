"""Which packages share a layer: the heavy ones get one of their own, so that models with common packages share it.

The answer depends on the lock alone: on the wheels' sizes and paths, which its hashes pin, never on what is installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.utils import canonicalize_name

from kbuild.environment.lockfile import LockedPackage
from kbuild.model.bundle import ModelBundle, ModelFile
from kbuild.plan.install_order import install_order

RULE = 2
"""Changes whenever the same wheels would be split differently."""

DEPENDENCIES = "dependencies"
"""The layer of the packages that are not heavy."""

PROJECT_LAYER = "project"
MODEL_LAYER = "model"
_ARTIFACT = "artifact-"

# An image may have 127 layers in Docker's overlay store, and every layer costs a request to each registry.
_OWN_LAYERS = 10
_HEAVY = 8_000_000
_LARGE_ARTIFACTS = 12
_LARGE = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelFacts:
    """What a wheel's directory says: bytes of its files when unpacked, and where they go.

    ``marks`` are of the contents: of one path two wheels that bring the same bytes have the same one.
    """

    size: int
    paths: frozenset[str]
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """A path that several packages bring with different contents, and these in the order in which pip installs them:
    what the last of them brings is what is there."""

    path: str
    packages: tuple[LockedPackage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageGroup:
    """Wheels that are one layer; ``name`` is also its folder in the build context.

    ``left_out`` has the patterns (``kbuild.plan.left_out``) of the files that packages are without, by their names.
    ``overlaps`` are by path.
    """

    name: str
    packages: tuple[LockedPackage, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()

    def hidden(self) -> dict[LockedPackage, dict[str, LockedPackage]]:
        """The paths, as ``WheelFacts`` has them, in whose place the file of another package of this group is."""
        found: dict[LockedPackage, dict[str, LockedPackage]] = {}
        for overlap in self.overlaps:
            kept = [package for package in overlap.packages if package in self.packages]
            for package in kept[:-1]:
                found.setdefault(package, {})[overlap.path] = kept[-1]
        return found


def split_packages(facts: Mapping[LockedPackage, WheelFacts]) -> tuple[PackageGroup, ...]:
    """The groups from the largest down, then the one of everything else.

    Wheels that bring the same path are in the same group, so no file of one group can hide one of another: a group's
    layer is the same bytes whatever other groups there are.
    """
    families = _families(facts)
    sized = sorted((-sum(facts[package].size for package in family), family) for family in families)
    heavy = [family for size, family in sized if -size >= _HEAVY][:_OWN_LAYERS]
    named = [(f"package-{canonicalize_name(_largest(family, facts).name)}", family) for family in heavy]
    rest = sorted(package for _, family in sized if family not in heavy for package in family)
    if rest:
        named.append((DEPENDENCIES, tuple(rest)))
    overlaps = _overlaps(facts)
    return tuple(
        PackageGroup(
            name=name,
            packages=packages,
            overlaps=tuple(each for each in overlaps if each.packages[0] in packages),
        )
        for name, packages in named
    )


def group_json(group: PackageGroup) -> dict[str, Any]:
    """A group as JSON values, packages by their sha256."""
    return {
        "name": group.name,
        "packages": [package.sha256 for package in group.packages],
        "left_out": {name: list(each) for name, each in group.left_out.items()},
        "overlaps": [[each.path, [package.sha256 for package in each.packages]] for each in group.overlaps],
    }


def read_group(value: Mapping[str, Any], by_hash: Mapping[str, LockedPackage]) -> PackageGroup:
    """The inverse of ``group_json``; raises KeyError, TypeError or ValueError for anything else."""
    return PackageGroup(
        name=str(value["name"]),
        packages=tuple(by_hash[sha] for sha in value["packages"]),
        left_out={str(name): tuple(each) for name, each in value["left_out"].items()},
        overlaps=tuple(
            Overlap(path=str(path), packages=tuple(by_hash[sha] for sha in packages))
            for path, packages in value["overlaps"]
        ),
    )


def split_model(bundle: ModelBundle) -> dict[str, tuple[ModelFile, ...]]:
    """Layer name -> files of the bundle: ``project`` (its code), ``model``, and one layer for each large artifact."""
    large = sorted((file for file in bundle.files if file.size >= _LARGE), key=lambda file: (-file.size, file.path))
    own = {file.path: f"{_ARTIFACT}{file.digest.hex[:12]}" for file in large[:_LARGE_ARTIFACTS]}
    found: dict[str, list[ModelFile]] = {PROJECT_LAYER: [], MODEL_LAYER: []}
    for file in bundle.files:
        # MLflow keeps code_paths in code/
        name = own.get(file.path) or (PROJECT_LAYER if file.path.startswith("code/") else MODEL_LAYER)
        found.setdefault(name, []).append(file)
    order = [PROJECT_LAYER, *sorted(set(found) - {PROJECT_LAYER, MODEL_LAYER}), MODEL_LAYER]
    return {name: tuple(found[name]) for name in order if found[name]}


def is_of_model(name: str) -> bool:
    """Whether a layer of this name holds files of one model alone, its code left out."""
    return name == MODEL_LAYER or name.startswith(_ARTIFACT)


def _families(facts: Mapping[LockedPackage, WheelFacts]) -> list[tuple[LockedPackage, ...]]:
    """Packages joined where a path of one is a path, or a folder, of another."""
    head = {package: package for package in facts}

    def find(package: LockedPackage) -> LockedPackage:
        while head[package] != package:
            package = head[package]
        return package

    files: dict[str, LockedPackage] = {}
    folders: dict[str, list[LockedPackage]] = {}
    for package in sorted(facts):
        for path in facts[package].paths:
            other = files.setdefault(path, package)
            head[find(package)] = find(other)
        for folder in _folders(facts[package].paths):
            folders.setdefault(folder, []).append(package)
    for path, package in files.items():
        for other in folders.get(path, ()):
            head[find(other)] = find(package)
    joined: dict[LockedPackage, list[LockedPackage]] = {}
    for package in sorted(facts):
        joined.setdefault(find(package), []).append(package)
    return [tuple(family) for family in joined.values()]


def _overlaps(facts: Mapping[LockedPackage, WheelFacts]) -> list[Overlap]:
    brought: dict[str, list[LockedPackage]] = {}
    for package, each in facts.items():
        for path in each.marks:
            brought.setdefault(path, []).append(package)
    differing = {
        path: packages
        for path, packages in brought.items()
        if len({facts[package].marks[path] for package in packages}) > 1
    }
    if not differing:
        return []
    places = {package: place for place, package in enumerate(install_order(facts))}
    return [
        Overlap(path=path, packages=tuple(sorted(differing[path], key=places.__getitem__)))
        for path in sorted(differing)
    ]


def _folders(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
    return found


def _largest(family: tuple[LockedPackage, ...], facts: Mapping[LockedPackage, WheelFacts]) -> LockedPackage:
    return min(family, key=lambda package: (-facts[package].size, package))
