"""Content descriptors and manifests (OCI image-spec: descriptor.md, manifest.md, image-index.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kbuild import untrusted
from kbuild.digest import Digest
from kbuild.errors import InvalidImage
from kbuild.image.oci import media

# Of BuildKit's attestations: what they say about an image stands beside it in its index, in an image's clothes
# (moby/buildkit docs/attestations/attestation-storage.md).
_NOWHERE = ("unknown", "unknown")
# What an image needs; another address, data, notes of a layer are not it, whatever they are called.
_OF_MANIFEST = frozenset({"schemaVersion", "mediaType", "config", "layers", "annotations"})
_OF_BLOB = frozenset({"mediaType", "digest", "size"})
# Keys that readers written in Go take in letters of any kind (its encoding/json), the last of them.
_FIELDS = frozenset(
    {"cmd", "config", "diff_ids", "digest", "entrypoint", "env", "history", "layers", "manifests", "mediatype"}
    | {"platform", "rootfs", "schemaversion", "size"}
)
_MAX_CONFIG = untrusted.LARGEST_JSON  # bytes; a config of 127 layers, the most that engines take, is a hundredth of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptor:
    """A pointer to a blob. ``size`` is in bytes; ``platform`` is ``(os, architecture)``, where an index tells it."""

    media_type: str
    digest: Digest
    size: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: tuple[str, str] | None = None

    @property
    def is_image(self) -> bool:
        """Whether it points to an image's manifest, and not to an index or to what is said about an image."""
        # Not by its annotation alone: containerd, which knows none, takes an image of a platform all the same.
        return self.media_type in media.MANIFESTS and self.platform != _NOWHERE

    def to_json(self) -> dict[str, Any]:
        """The descriptor's JSON object, properties in the order of the specification."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform is not None:
            value["platform"] = {"architecture": self.platform[1], "os": self.platform[0]}
        return value

    @classmethod
    def from_json(cls, value: Any, where: str) -> Descriptor:
        """Read a descriptor found at ``where`` (``manifest.layers[2]``); raises InvalidImage naming the place."""
        entry = _object(value, where)
        media_type, size = entry.get("mediaType"), entry.get("size")
        if not isinstance(media_type, str):
            raise InvalidImage(f"{where}.mediaType is not a string: {media_type!r}")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidImage(f"{where}.size is not a number of bytes: {size!r}")
        try:
            digest = Digest.parse(str(entry.get("digest")))
        except ValueError as error:
            raise InvalidImage(f"{where}.digest is {error}") from error
        platform = entry.get("platform")
        return cls(
            media_type=media_type,
            digest=digest,
            size=size,
            annotations=_annotations(entry, where),
            platform=None if platform is None else _platform(platform, f"{where}.platform"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """An image manifest: the config's descriptor and the layers' from the lowest up; ``artifact_type`` is that of an
    artifact which is not an image (manifest.md "Guidelines for Artifact Usage"). ``beside`` are the places of what it
    says beside its image: other addresses, data, what it is about."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: tuple[tuple[str, str], ...] = ()
    artifact_type: str | None = None
    beside: tuple[str, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """The manifest's JSON object."""
        value: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media.MANIFEST,
            **({} if self.artifact_type is None else {"artifactType": self.artifact_type}),
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "manifest") -> Manifest:
        """Read an image manifest, OCI's or Docker's schema 2; raises InvalidImage naming the place."""
        entry = _object(value, where)
        _require_schema(entry, where)
        config = Descriptor.from_json(entry.get("config"), f"{where}.config")
        layers = entry.get("layers")
        if not isinstance(layers, list):
            raise InvalidImage(f"{where}.layers is not a list")
        artifact_type = entry.get("artifactType")
        if artifact_type is not None and not isinstance(artifact_type, str):
            raise InvalidImage(f"{where}.artifactType is not a string: {artifact_type!r}")
        return cls(
            artifact_type=artifact_type,
            config=config,
            layers=tuple(Descriptor.from_json(layer, f"{where}.layers[{n}]") for n, layer in enumerate(layers)),
            annotations=_annotations(entry, where),
            beside=tuple(_beside(entry)),
        )

    def check_config(self, where: str) -> None:
        """Before the config is fetched: raises InvalidImage where it says to be larger than any config is."""
        if self.config.size > _MAX_CONFIG:
            size, most = self.config.size, _MAX_CONFIG >> 20
            raise InvalidImage(
                f"{where} is not an image: its config is said to have {size} bytes, more than {most} MiB"
            )


def _beside(entry: dict[str, Any]) -> Iterator[str]:
    yield from (str(key) for key in entry if key not in _OF_MANIFEST and entry[key] is not None)
    stated = entry.get("mediaType") or media.MANIFEST
    if stated not in media.MANIFESTS:
        yield "mediaType"
    for where, value in (("config", entry["config"]), *((f"layers[{n}]", e) for n, e in enumerate(entry["layers"]))):
        yield from (f"{where}.{key}" for key in value if key not in _OF_BLOB and value[key] not in (None, {}))
        # Programs write OCI's names or Docker's: where they are mixed, what reads one may not be what reads the other.
        if media.is_dockers(value["mediaType"]) != (stated == media.DOCKER_MANIFEST):
            yield f"{where}.mediaType"


def index_from_json(value: Any, where: str = "index") -> tuple[Descriptor, ...]:
    """The manifests that an image index lists; raises InvalidImage naming the place."""
    entry = _object(value, where)
    _require_schema(entry, where)
    manifests = entry.get("manifests")
    if not isinstance(manifests, list):
        raise InvalidImage(f"{where}.manifests is not a list")
    return tuple(Descriptor.from_json(item, f"{where}.manifests[{n}]") for n, item in enumerate(manifests))


def make_index(manifests: tuple[Descriptor, ...]) -> dict[str, Any]:
    """An image index's JSON object."""
    return {
        "schemaVersion": 2,
        "mediaType": media.INDEX,
        "manifests": [manifest.to_json() for manifest in manifests],
    }


def parse_json(data: bytes, where: str) -> Any:
    """Decode JSON; raises InvalidImage naming ``where``, also where readers would differ over what it says."""
    try:
        return untrusted.parse_json(data, fields=_FIELDS)
    except untrusted.BrokenText as error:
        raise InvalidImage(f"{where} is not JSON: {error}") from error


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidImage(f"{where} is not a JSON object")
    return value


def _require_schema(entry: dict[str, Any], where: str) -> None:
    if entry.get("schemaVersion") != 2:
        raise InvalidImage(f"{where}.schemaVersion is {entry.get('schemaVersion')!r}, not 2")


def _annotations(entry: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    value = entry.get("annotations") or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for pair in value.items() for item in pair):
        raise InvalidImage(f"{where}.annotations is not an object of strings")
    return tuple(sorted(value.items()))


def _platform(value: Any, where: str) -> tuple[str, str]:
    entry = _object(value, where)
    os, architecture = entry.get("os"), entry.get("architecture")
    if not isinstance(os, str) or not isinstance(architecture, str):
        raise InvalidImage(f"{where} does not name os and architecture")
    return os, architecture
