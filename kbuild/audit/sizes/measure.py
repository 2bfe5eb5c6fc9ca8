"""Whose each file of an image is, from the metadata files inside it.

Formats: PyPA's "Recording installed projects" (``*.dist-info/RECORD``); conda's ``conda-meta/*.json``; PEP 3147
(``__pycache__``).
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kbuild.audit.image_facts import is_conda_meta, read_conda, read_record, stated_name, wants_bytes
from kbuild.audit.sizes.values import ImageSizes, Kind, LayerSize, PackageSize, join
from kbuild.errors import InvalidImage

_OWN_CODE = "code/"  # where MLflow keeps code_paths in a model
_ARTIFACTS = "artifacts/"
_Owner = tuple[Kind, str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSize:
    """A file by its path without a leading slash; ``data`` where ``wants_bytes`` names it. Links have no size."""

    path: str
    size: int
    data: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSizes:
    """A layer of an image, with the size of its blob."""

    digest: str
    created_by: str
    packed: int
    files: Sequence[FileSize]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePlaces:
    """Where things lie in the image, without leading slashes; ``base`` is what its base is called."""

    prefix: str
    model: str
    runtime: str
    base: str = "base image"


def measure(layers: Iterable[LayerSizes], places: ImagePlaces) -> ImageSizes:
    """Add up the files of each layer by whose they are."""
    given = tuple(layers)
    owners = _owners((file for layer in given for file in layer.files), places.prefix)
    return ImageSizes(
        layers=tuple(
            LayerSize(
                digest=layer.digest,
                name=layer_name(layer.created_by) or f"layer {number}",
                packed=layer.packed,
                packages=_add_up(layer.files, owners, places),
            )
            for number, layer in enumerate(given, 1)
        )
    )


def layer_name(created_by: str) -> str:
    """``numpy`` of ``COPY ["package-numpy/", "/"]``, else the instruction itself on one line."""
    text = " ".join(created_by.split())
    words = [word for word in text.removesuffix(" # buildkit").split(" ") if not word.startswith("--")]
    if len(words) < 3 or words[0] != "COPY":
        return text
    try:
        sources = json.loads(" ".join(words[1:])) if words[1].startswith("[") else words[1:]
        return str(sources[0]).strip("/").removeprefix("package-") or text
    except (ValueError, LookupError, TypeError, RecursionError):
        return text  # cut off, or nothing that a builder wrote


def _add_up(files: Iterable[FileSize], owners: Mapping[str, _Owner], places: ImagePlaces) -> tuple[PackageSize, ...]:
    sizes: dict[_Owner, tuple[int, int]] = {}
    for file in files:
        owner = owners.get(file.path) or _by_place(file.path, owners, places)
        size, number = sizes.get(owner, (0, 0))
        sizes[owner] = size + file.size, number + 1
    return join(
        PackageSize(kind=kind, name=name, version=version, size=size, files=number)
        for (kind, name, version), (size, number) in sizes.items()
    )


def _owners(files: Iterable[FileSize], prefix: str) -> dict[str, _Owner]:
    """Whose a path is, as far as somebody recorded it: of what conda brought it is conda's package, RECORD or not.

    A record that cannot be read owns nothing here: that it is damaged is for the audit to say.
    """
    conda: dict[str, _Owner] = {}
    python: dict[str, _Owner] = {}
    infos: dict[str, dict[str, bytes]] = {}
    for file in files:
        if file.data is None or not wants_bytes(file.path, prefix):
            continue
        if is_conda_meta(file.path, prefix):
            try:
                record = read_conda(file.path, file.data)
            except InvalidImage:
                continue
            owner: _Owner = ("conda", record.name, record.version)
            conda |= dict.fromkeys((f"{prefix}/{name}" for name in record.files), owner)
            conda[file.path] = owner
        elif posixpath.dirname(file.path).endswith(".dist-info"):
            infos.setdefault(posixpath.dirname(file.path), {})[posixpath.basename(file.path)] = file.data
    for info, data in infos.items():
        name, version = stated_name(data.get("METADATA", b""), info)
        owner = ("python", name, version)
        python |= dict.fromkeys((path for path, _ in read_record(data.get("RECORD", b""), info)), owner)
        python[f"{info}/METADATA"] = owner
    return python | conda


def _by_place(path: str, owners: Mapping[str, _Owner], places: ImagePlaces) -> _Owner:
    folder, name = posixpath.split(path)
    if name.endswith(".pyc") and posixpath.basename(folder) == "__pycache__":
        source = posixpath.join(posixpath.dirname(folder), f"{name.partition('.')[0]}.py")
        return owners.get(source) or _by_place(source, owners, places)
    if folder.endswith(".dist-info"):  # INSTALLER and the like, which not every RECORD names
        found = owners.get(f"{folder}/METADATA")
        if found is not None:
            return found
    if path.startswith(f"{places.model}/"):
        inside = path.removeprefix(f"{places.model}/")
        if inside.startswith(_OWN_CODE):
            return "code", "project code", ""
        if inside.startswith(_ARTIFACTS):
            return "model", inside.removeprefix(_ARTIFACTS).partition("/")[0], ""
        return "model", "model files", ""
    if path.startswith(f"{places.runtime}/"):
        return "code", "kbuild's server", ""
    if path.startswith(f"{places.prefix}/"):
        return "other", "environment's other files", ""
    return "base", places.base, ""
