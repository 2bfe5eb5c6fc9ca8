"""Rebuilding as a proof: what an image says it was made from, and the verdict on what that gives again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.digest import digest_file
from kbuild.errors import InvalidImage
from kbuild.image.compare.diff import ImageDiff, diff_images
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.media import Compression, layer_compression
from kbuild.plan.left_out import LeftOut
from kbuild.plan.make import LABEL_FILES_LEFT_OUT, LABEL_LEFT_OUT, LABEL_MODEL_URI, LABEL_RUN_ID
from kbuild.platform import Platform

_BASE = "io.kbuild.base.name"
_LOCK = "io.kbuild.lock.digest"
_MODEL = "io.kbuild.model.digest"
_OWN = ("io.kbuild.", "org.opencontainers.image.created", "org.opencontainers.image.revision")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What an image's labels say, and how its layers are packed, which its manifest says.

    ``labels`` are those that kbuild does not set by itself.
    """

    model: str
    base: str
    platform: Platform
    lock_digest: str
    model_digest: str
    labels: tuple[tuple[str, str], ...]
    compression: Compression
    left_out: LeftOut


@dataclass(frozen=True, kw_only=True, slots=True)
class RebuildReport:
    """The verdict: ``diff`` goes from the image to what was built from its claims. Times in seconds."""

    claims: Claims
    diff: ImageDiff
    versions: Mapping[str, str]
    reused_downloads: bool
    seconds: Mapping[str, float]

    @property
    def same(self) -> bool:
        """Whether the digests are equal."""
        return self.diff.same

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "image": self.diff.before,
            "rebuilt": self.diff.after,
            "same": self.same,
            "model": self.claims.model,
            "model_digest": self.claims.model_digest,
            "lock_digest": self.claims.lock_digest,
            "base": self.claims.base,
            "platform": str(self.claims.platform),
            "compression": self.claims.compression,
            "left_out": list(self.claims.left_out.packages),
            "left_out_files": self.claims.left_out.to_json()["files"],
            "versions": dict(self.versions),
            "reused_downloads": self.reused_downloads,
            "seconds": dict(self.seconds),
            "difference": None if self.same else self.diff.to_json(),
        }


def read_claims(image: BuiltImage) -> Claims:
    """What the image says it was made from; raises InvalidImage for one that kbuild did not build."""
    config = layouts.read_json_blob(image.layout, image.config_digest)
    labels = {str(key): str(value) for key, value in ((config.get("config") or {}).get("Labels") or {}).items()}
    model = labels.get(LABEL_MODEL_URI) or labels.get(LABEL_RUN_ID)
    missing = [key for key in (_BASE, _LOCK, _MODEL) if key not in labels]
    if model is None or missing:
        what = LABEL_MODEL_URI if model is None else missing[0]
        raise InvalidImage(
            f"{image.digest} does not say what it was made from: it has no label {what}",
            hint="only an image that kbuild built from a logged model can be rebuilt",
        )
    return Claims(
        model=model,
        base=labels[_BASE],
        platform=Platform(config["os"], config["architecture"]),
        lock_digest=labels[_LOCK],
        model_digest=labels[_MODEL],
        labels=tuple((key, value) for key, value in sorted(labels.items()) if not key.startswith(_OWN)),
        compression=_compression(image),
        left_out=_left_out(image, labels),
    )


def _left_out(image: BuiltImage, labels: Mapping[str, str]) -> LeftOut:
    packages = labels.get(LABEL_LEFT_OUT, "").split()
    try:
        return LeftOut.from_json({"packages": packages, "files": json.loads(labels.get(LABEL_FILES_LEFT_OUT, "{}"))})
    except ValueError as error:
        raise InvalidImage(f"{image.digest}: its label {LABEL_FILES_LEFT_OUT} cannot be read: {error}") from error


def _compression(image: BuiltImage) -> Compression:
    """Of the topmost layer: those below may be a base image's own, carried over as they were."""
    manifest = layouts.read_manifest(image.layout, image.digest)
    return layer_compression(manifest.layers[-1].media_type)


def judge(image: BuiltImage, rebuilt: BuiltImage, claims: Claims, **facts: Any) -> RebuildReport:
    """Compare; ``facts`` are the other fields of the report."""
    return RebuildReport(claims=claims, diff=diff_images(image, rebuilt), **facts)


def carry_downloads(cache: Path, clean: Path) -> int:
    """Link the packages of a cache into a clean one, those alone whose bytes still have their sha256; how many."""
    carried = 0
    names = [
        (path, f"downloads/{path.parent.name}/{path.name}", path.parent.name) for path in cache.glob("downloads/*/*")
    ]
    names += [(path, f"debs/{path.name}", path.stem) for path in cache.glob("debs/*.deb")]
    for path, name, sha256 in sorted(names):
        if path.name.startswith(".") or digest_file(path).hex != sha256:
            continue
        target = clean / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:  # another file system
            shutil.copyfile(path, target)
        carried += 1
    return carried
