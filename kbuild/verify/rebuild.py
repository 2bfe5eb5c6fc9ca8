"""Rebuilding as a proof: what an image says it was made from, and the verdict on what that gives again."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zstandard

from kbuild.digest import Digest, digest_chunks, digest_file
from kbuild.environment.lockfile import read_lockfile
from kbuild.environment.locking.kept import cached_locks
from kbuild.errors import InvalidImage
from kbuild.image.compare.diff import ImageDiff, diff_images
from kbuild.image.engine import BuiltImage, LayerSummary
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import read_layer
from kbuild.image.oci.media import Compression, layer_compression
from kbuild.image.store.pack import PACKED_BY
from kbuild.plan.left_out import LeftOut
from kbuild.plan.make import LABEL_FILES_LEFT_OUT, LABEL_LEFT_OUT, LABEL_MODEL_URI, LABEL_RUN_ID
from kbuild.platform import Platform
from kbuild.progress import Progress
from kbuild.untrusted import parse_json

_BASE = "io.kbuild.base.name"
_LOCK = "io.kbuild.lock.digest"
_MODEL = "io.kbuild.model.digest"
_OWN = ("io.kbuild.", "org.opencontainers.image.created", "org.opencontainers.image.base.")

Verdict = Literal["same", "repacked", "differs"]
"""One digest; the same content, compressed otherwise; other content."""


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
    """The verdict: ``diff`` goes from the image to what was built from its claims. Times in seconds.

    ``packed_by`` says what compressed the image, and what compressed it here; None where an image does not say it.
    """

    claims: Claims
    verdict: Verdict
    diff: ImageDiff
    packed_by: tuple[str | None, str | None]
    versions: Mapping[str, str]
    reused_downloads: bool
    seconds: Mapping[str, float]

    @property
    def same(self) -> bool:
        """Whether the digests are equal."""
        return self.verdict == "same"

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "image": self.diff.before,
            "rebuilt": self.diff.after,
            "same": self.same,
            "verdict": self.verdict,
            "packed_by": dict(zip(("image", "rebuilt"), self.packed_by, strict=True)),
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


def read_claims(image: BuiltImage, *, model: str | None = None) -> Claims:
    """What the image says it was made from; raises InvalidImage for one that kbuild did not build.

    ``model`` is where the model is, for an image that does not say it: one of a model folder.
    """
    config = layouts.read_json_blob(image.layout, image.config_digest)
    labels = {str(key): str(value) for key, value in ((config.get("config") or {}).get("Labels") or {}).items()}
    model = model or labels.get(LABEL_MODEL_URI) or labels.get(LABEL_RUN_ID)
    missing = [key for key in (_BASE, _LOCK, _MODEL) if key not in labels]
    if model is None or missing:
        what = LABEL_MODEL_URI if model is None else missing[0]
        raise InvalidImage(
            f"{image.digest} does not say what it was made from: it has no label {what}",
            hint="only an image that kbuild built can be rebuilt; one of a model folder with --model FOLDER",
        )
    return Claims(
        model=model,
        base=labels[_BASE],
        platform=Platform(config["os"], config["architecture"]),
        lock_digest=labels[_LOCK],
        model_digest=labels[_MODEL],
        labels=_users_labels(image, labels),
        compression=_compression(image),
        left_out=_left_out(image, labels),
    )


def _users_labels(image: BuiltImage, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those that kbuild does not set by itself: its own are annotations too, and computed again."""
    own = dict(layouts.read_manifest(image.layout, image.digest).annotations)
    others = {key: value for key, value in labels.items() if own.get(key) != value and not key.startswith(_OWN)}
    return tuple(sorted(others.items()))


def _left_out(image: BuiltImage, labels: Mapping[str, str]) -> LeftOut:
    packages = labels.get(LABEL_LEFT_OUT, "").split()
    try:
        return LeftOut.from_json({"packages": packages, "files": parse_json(labels.get(LABEL_FILES_LEFT_OUT, "{}"))})
    except ValueError as error:
        raise InvalidImage(f"{image.digest}: its label {LABEL_FILES_LEFT_OUT} cannot be read: {error}") from error


def _compression(image: BuiltImage) -> Compression:
    """Of the topmost layer: those below may be a base image's own, carried over as they were."""
    manifest = layouts.read_manifest(image.layout, image.digest)
    return layer_compression(manifest.layers[-1].media_type)


def judge(image: BuiltImage, rebuilt: BuiltImage, claims: Claims, progress: Progress, **facts: Any) -> RebuildReport:
    """Compare; ``facts`` are the other fields of the report. Raises InvalidImage for damaged layers."""
    verdict: Verdict = "same" if image.digest == rebuilt.digest else "differs"
    if verdict == "differs" and _is_repacked(image, rebuilt, progress):
        verdict = "repacked"
    return RebuildReport(
        claims=claims,
        verdict=verdict,
        diff=diff_images(image, rebuilt, progress),
        packed_by=(_annotations(image).get(PACKED_BY), _annotations(rebuilt).get(PACKED_BY)),
        **facts,
    )


def _is_repacked(image: BuiltImage, rebuilt: BuiltImage, progress: Progress) -> bool:
    """Whether config, annotations and the content of every layer are equal, so that only the compression is another.

    The config names the contents; that the layers have them is seen by reading those that are other blobs.
    """
    stated = [{key: text for key, text in _annotations(each).items() if key != PACKED_BY} for each in (image, rebuilt)]
    if image.config_digest != rebuilt.config_digest or stated[0] != stated[1]:
        return False
    pairs = zip(image.layers, rebuilt.layers, strict=True)
    image.bring([layer.digest for layer, other in pairs if layer.digest != other.digest], progress)
    media_types = [layer.media_type for layer in layouts.read_manifest(image.layout, image.digest).layers]
    return all(
        layer.digest == other.digest or _content(image, layer, media_type) == other.diff_id
        for layer, other, media_type in zip(image.layers, rebuilt.layers, media_types, strict=True)
    )


def _content(image: BuiltImage, layer: LayerSummary, media_type: str) -> Digest:
    try:
        blob = layouts.blob_path(image.layout, layer.digest)
        return digest_chunks(read_layer(blob, layer_compression(media_type)))
    except (zlib.error, zstandard.ZstdError, ValueError, OSError) as error:
        raise InvalidImage(f"layer {layer.digest} of {image.layout} cannot be read: {error}") from error


def _annotations(image: BuiltImage) -> dict[str, str]:
    return dict(layouts.read_manifest(image.layout, image.digest).annotations)


def carry_pins(cache: Path, clean: Path, claims: Claims) -> Path | None:
    """Bring what pins an image of a model that no run keeps: the record of its base, and the packages of its lock that
    are on no index. Returns the lockfile, None where the cache has none of these packages.
    """
    record = Path("base-records") / f"{Digest.parse(claims.model_digest).hex}-{claims.platform.conda_subdir}.json"
    for name in (record, Path("channel")):
        if (cache / name).is_dir():
            shutil.copytree(cache / name, clean / name, dirs_exist_ok=True)
        elif (cache / name).is_file():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache / name, clean / name)
    return next((path for path in cached_locks(cache) if read_lockfile(path).is_named(claims.lock_digest)), None)


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
