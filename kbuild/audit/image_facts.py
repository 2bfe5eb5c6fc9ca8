"""What lies in an image, as plain values, from the metadata files inside it.

Formats: PyPA's "Core metadata specifications" and "Recording installed projects" (``*.dist-info/METADATA``,
``RECORD``); conda's ``conda-meta/*.json`` (conda's docs, "Environment metadata").
"""

from __future__ import annotations

import base64
import csv
import email.parser
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.utils import canonicalize_name

from kbuild.audit.base_facts import BASE_FILES, ImageBase, read_base, wants_base_bytes
from kbuild.audit.image_layers import ImageLayer
from kbuild.audit.sizes.values import ImageSizes
from kbuild.digest import Digest, digest_json
from kbuild.errors import InvalidImage

_LEFT_OUT = "io.kbuild.slim.left-out"
_NOT_LICENSES = frozenset({"", "UNKNOWN", "OSI Approved"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFile:
    """A file of the image; ``data`` only where it was asked for."""

    digest: Digest
    size: int
    data: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """An installed Python distribution; ``changed`` are files whose bytes are not those that its RECORD names."""

    name: str
    version: str
    path: str
    license: str | None
    changed: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaRecord:
    """An installed conda package; ``purls`` are the package urls that its channel states."""

    name: str
    version: str
    build: str
    subdir: str
    sha256: str | None
    license: str | None
    files: frozenset[str]
    purls: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFacts:
    """``subdir`` is conda's name of the platform; ``model_digest`` is computed from the files, None without a model.

    ``unowned`` are files in site-packages that no distribution and no conda package brought, ``brought`` those that one
    did, unchanged; ``base`` is what the distribution's package manager says of the rest. ``config`` is the whole image
    config, ``beside`` what the manifest says beside config, layers and annotations. ``others`` are
    the platforms of the images that have the same name.
    """

    digest: str
    subdir: str
    labels: Mapping[str, str]
    distributions: tuple[Distribution, ...]
    conda: tuple[CondaRecord, ...]
    unowned: tuple[str, ...]
    model_digest: Digest | None
    base: ImageBase
    brought: frozenset[str] = frozenset()
    config: Mapping[str, Any] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    layers: tuple[ImageLayer, ...] = ()
    measured: Callable[[], ImageSizes] | None = field(default=None, compare=False, repr=False)

    @property
    def python(self) -> str | None:
        """The interpreter's version as its conda package says."""
        return next((record.version for record in self.conda if record.name == "python"), None)

    @property
    def left_out(self) -> frozenset[str]:
        """The canonical names of the locked packages that a slim image says it is without."""
        return frozenset(canonicalize_name(name) for name in self.labels.get(_LEFT_OUT, "").split())


def facts_folders(prefix: str, model_path: str) -> tuple[str, ...]:
    """The files, and the folders with all below, that ``make_image_facts`` looks at."""
    return prefix, model_path, *BASE_FILES


def wants_bytes(path: str, prefix: str) -> bool:
    """Whether ``make_image_facts`` needs the content of this file, not its digest alone."""
    if wants_base_bytes(path):
        return True
    folder, name = posixpath.split(path)
    if folder == f"{prefix}/conda-meta":
        return name.endswith(".json")
    return folder.endswith(".dist-info") and name in ("METADATA", "RECORD")


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What an image says of itself; ``config`` is its image config, ``subdir`` conda's word for its platform."""

    digest: str
    subdir: str
    labels: Mapping[str, str]
    config: Mapping[str, Any] | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    layers: tuple[ImageLayer, ...] = ()
    measured: Callable[[], ImageSizes] | None = None


def make_image_facts(
    files: Mapping[str, ImageFile],
    described: Description,
    *,
    prefix: str,
    model_path: str,
    release: Mapping[str, str] | None = None,
) -> ImageFacts:
    """From the image's files of ``facts_folders`` (relative paths). Raises InvalidImage.

    ``release`` holds os-release's fields of a base that has no such file.
    """
    conda = tuple(read_conda(path, files[path].data or b"") for path in sorted(files) if is_conda_meta(path, prefix))
    infos = sorted({posixpath.dirname(path) for path in files if path.endswith(".dist-info/METADATA")})
    owned = {f"{prefix}/{name}" for record in conda for name in record.files}
    distributions = []
    changed: set[str] = set()
    for info in infos:
        distribution, brought = _distribution(info, files)
        distributions.append(distribution)
        owned |= brought
        changed |= {_place(posixpath.dirname(info), path) for path in distribution.changed}
    return ImageFacts(
        digest=described.digest,
        subdir=described.subdir,
        labels=described.labels,
        distributions=tuple(distributions),
        conda=conda,
        unowned=tuple(path for path in sorted(files) if "/site-packages/" in path and _counts(path, owned)),
        model_digest=_model_digest(files, model_path),
        base=read_base({path: file.data for path, file in files.items()}, known=release),
        brought=frozenset(owned - changed),
        config=described.config,
        annotations=described.annotations,
        beside=described.beside,
        others=described.others,
        layers=described.layers,
        measured=described.measured,
    )


def is_conda_meta(path: str, prefix: str) -> bool:
    """Whether it is the record of an installed conda package."""
    return posixpath.dirname(path) == f"{prefix}/conda-meta" and path.endswith(".json")


def _counts(path: str, owned: set[str]) -> bool:
    # Bytecode is made while the image is built, of files that are themselves checked.
    return path not in owned and not path.endswith(".pyc")


def read_conda(path: str, data: bytes) -> CondaRecord:
    """A record of ``conda-meta``; raises InvalidImage."""
    try:
        value = json.loads(data)
        return CondaRecord(
            name=str(value["name"]),
            version=str(value["version"]),
            build=str(value.get("build", "")),
            subdir=str(value.get("subdir", "")),
            sha256=value.get("sha256"),
            license=value.get("license") or None,
            files=frozenset(map(str, value.get("files", ()))),
            purls=tuple(map(str, value.get("purls") or ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidImage(f"/{path} of the image is not a conda package record: {error!r}") from error


def _distribution(info: str, files: Mapping[str, ImageFile]) -> tuple[Distribution, set[str]]:
    """The distribution, and the paths that its RECORD lists."""
    metadata = email.parser.BytesParser().parsebytes(files[f"{info}/METADATA"].data or b"", headersonly=True)
    site = posixpath.dirname(info)
    owned: set[str] = set()
    changed, missing = [], []
    record = files.get(f"{info}/RECORD")
    for path, wanted in _rows((record.data if record is not None else None) or b""):
        place = _place(site, path)
        owned.add(place)
        file = files.get(place)
        if file is None:
            # Bytecode that a wheel lists is made anew, or left out.
            missing += [path] if not path.endswith(".pyc") else []
        elif wanted is not None and file.digest != wanted:
            changed.append(path)
    name, version = _name(metadata, info)
    distribution = Distribution(
        name=name,
        version=version,
        path=info,
        license=stated_licence(metadata),
        changed=tuple(sorted(changed)),
        missing=tuple(sorted(missing)),
    )
    return distribution, owned


def _place(site: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(site, path)).lstrip("/")


def stated_name(metadata: bytes, info: str) -> tuple[str, str]:
    """Canonical name and version of the distribution whose ``.dist-info`` folder is ``info``."""
    return _name(email.parser.BytesParser().parsebytes(metadata, headersonly=True), info)


def _name(metadata: email.message.Message, info: str) -> tuple[str, str]:
    stated = str(metadata.get("Name") or posixpath.basename(info).partition("-")[0])
    return canonicalize_name(stated), str(metadata.get("Version") or "")


def read_record(data: bytes, info: str) -> Iterator[tuple[str, Digest | None]]:
    """The files that a RECORD in the folder ``info`` lists, by their places in the image."""
    site = posixpath.dirname(info)
    for path, digest in _rows(data):
        yield _place(site, path), digest


def _rows(data: bytes) -> Iterator[tuple[str, Digest | None]]:
    for row in csv.reader(data.decode("utf-8", errors="replace").splitlines()):
        if len(row) < 2 or not row[0]:
            continue
        algorithm, _, encoded = row[1].partition("=")
        yield row[0], _decoded(encoded) if algorithm == "sha256" else None


def _decoded(encoded: str) -> Digest | None:
    try:
        return Digest(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex())
    except ValueError:
        return None


def stated_licence(metadata: email.message.Message) -> str | None:
    """The licence that a distribution's METADATA states, in its own words."""
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression).strip()
    classifiers = (str(each).split(" :: ") for each in metadata.get_all("Classifier") or ())
    names = [parts[-1] for parts in classifiers if parts[0] == "License" and parts[-1] not in _NOT_LICENSES]
    text = str(metadata.get("License") or "").strip()
    # Old metadata often holds the whole text of a licence here.
    if text not in _NOT_LICENSES and "\n" not in text and len(text) < 80:
        return text
    return " AND ".join(sorted(set(names))) or None


def _model_digest(files: Mapping[str, ImageFile], model_path: str) -> Digest | None:
    """As ``ModelBundle.digest``: over the sorted list of (path, sha256), compiled files left out."""
    start = f"{model_path}/"
    below = sorted(path for path in files if path.startswith(start) and "__pycache__" not in path.split("/"))
    # Of a name that is no text no model is: it has only to differ.
    names = [path.removeprefix(start).encode("utf-8", "backslashreplace").decode() for path in below]
    content = [[name, str(files[path].digest)] for name, path in zip(names, below, strict=True)]
    return digest_json(content) if content else None
