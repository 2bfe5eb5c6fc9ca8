"""Image layouts on disk (OCI image-spec image-layout.md): reading, and writing as a directory or one tar."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from kbuild.digest import Digest, canonical_json, digest_bytes
from kbuild.errors import InvalidImage
from kbuild.image.oci import media, tarball
from kbuild.image.oci.descriptor import Descriptor, Manifest, index_from_json, make_index, parse_json
from kbuild.image.oci.image_reference import ImageReference
from kbuild.platform import Platform
from kbuild.untrusted import LARGEST_JSON, BrokenText, read_bytes, why

OCI_LAYOUT = "oci-layout"
INDEX = "index.json"
DOCKER_MANIFEST = "manifest.json"
_VERSION = {"imageLayoutVersion": "1.0.0"}
_REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
_MAX_DEPTH = 4
_NAMES = frozenset({_REF_NAME, _CONTAINERD_NAME})


def blob_path(layout: Path, digest: Digest) -> Path:
    """Where a blob lies in a layout."""
    return layout / "blobs" / "sha256" / digest.hex


def is_layout(folder: Path) -> bool:
    """Whether the folder claims to be an image layout."""
    return (folder / OCI_LAYOUT).is_file()


def read_top(layout: Path, name: str) -> Any:
    """What one of the files at its top says (``oci-layout``, ``index.json``); raises InvalidImage."""
    return parse_json(_read(layout / name), name)


def read_index(layout: Path) -> tuple[Descriptor, ...]:
    """The manifests that ``index.json`` lists; raises InvalidImage."""
    return index_from_json(read_top(layout, INDEX), INDEX)


def read_json_blob(layout: Path, digest: Digest) -> Any:
    """A blob that is JSON, its digest checked; raises InvalidImage."""
    data = _read(blob_path(layout, digest))
    if digest_bytes(data) != digest:
        raise InvalidImage(f"blob {digest} of {layout} does not have that digest")
    return parse_json(data, f"blob {digest}")


def find_manifest(
    layout: Path,
    *,
    digest: Digest | None = None,
    platform: Platform | None = None,
    otherwise: Platform | None = None,
) -> Descriptor:
    """The descriptor of one image manifest in a layout, indexes inside it followed.

    With ``digest`` the manifest (or one of the index) of that digest; with ``platform`` the one for it; with neither
    the only one. Where several are left it is the one for ``otherwise``. Raises InvalidImage when there is none or
    several.
    """
    found = find_images(layout, digest)
    # An entry that names no platform is not ruled out by one: an only image often does not.
    matching = [entry for entry in found.values() if platform is None or _is_for(entry, platform)]
    if len(matching) > 1 and platform is None and otherwise is not None:
        matching = [entry for entry in matching if _is_for(entry, otherwise)]
    if len(matching) == 1:
        return matching[0]
    what = " ".join(str(part) for part in (digest, platform or otherwise) if part is not None) or "an image"
    if matching:
        choices = ", ".join(str(entry.digest) for entry in matching)
        raise InvalidImage(f"{layout} holds several images: {choices}", hint="name one by its digest")
    there = sorted({"/".join(entry.platform) for entry in found.values() if entry.platform is not None})
    hint = f"it is for {', '.join(there)}: name one with --platform" if there else None
    raise InvalidImage(f"{layout} does not hold {what}", hint=hint)


def find_images(layout: Path, digest: Digest | None = None) -> dict[Digest, Descriptor]:
    """The image manifests of a layout, or below the entries of one digest; raises InvalidImage."""
    wanted = read_index(layout)
    if digest is not None:
        wanted = tuple(entry for entry in _entries(layout, wanted) if entry.digest == digest)
    return {entry.digest: entry for entry in _entries(layout, wanted) if entry.is_image}


def list_images(layout: Path, digest: Digest) -> tuple[Descriptor, ...]:
    """The image manifests of the index with this digest, in its order; of an image manifest itself alone.

    What is said about an image is none. Raises InvalidImage.
    """
    top = tuple(entry for entry in _entries(layout, read_index(layout)) if entry.digest == digest)[:1]
    return tuple(entry for entry in _entries(layout, top) if entry.is_image)


def read_manifest(layout: Path, digest: Digest) -> Manifest:
    """The image manifest with this digest; raises InvalidImage."""
    return Manifest.from_json(read_json_blob(layout, digest), f"manifest {digest}")


def check_blobs(layout: Path, image: Descriptor, manifest: Manifest) -> None:
    """Before anything reads them: raises InvalidImage for a blob that is no regular file, or of another size than its
    descriptor says. One that is missing is told by whoever needs it."""
    for blob in (image, manifest.config, *manifest.layers):
        try:
            status = blob_path(layout, blob.digest).stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidImage(f"blob {blob.digest} of {layout} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise InvalidImage(f"blob {blob.digest} of {layout} is not a regular file")
        if status.st_size != blob.size:
            raise InvalidImage(f"blob {blob.digest} of {layout} has {status.st_size} bytes, not {blob.size}")


def read_platform(layout: Path, manifest: Manifest) -> str:
    """``os/architecture`` as the image's config has them (config.md); raises InvalidImage."""
    config = read_json_blob(layout, manifest.config.digest)
    return f"{config.get('os')}/{config.get('architecture')}" if isinstance(config, dict) else "nothing"


def read_history(layout: Path, manifest: Manifest) -> tuple[tuple[Digest, ...], tuple[str, ...]]:
    """Diff ID and ``created_by`` of each layer from the lowest up; the text is empty where the config tells none.

    Raises InvalidImage when config and manifest do not fit each other.
    """
    config = read_json_blob(layout, manifest.config.digest)
    try:
        diff_ids = tuple(Digest.parse(diff_id) for diff_id in config["rootfs"]["diff_ids"])
        steps = [step for step in config.get("history") or [] if not step.get("empty_layer")]
        texts = tuple(str(step.get("created_by", "")) for step in steps)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidImage(f"config {manifest.config.digest} does not list its layers as an image does") from error
    _check_settings(config.get("config"), f"config {manifest.config.digest}")
    if len(diff_ids) != len(manifest.layers):
        raise InvalidImage(f"config {manifest.config.digest} lists {len(diff_ids)} layers, not {len(manifest.layers)}")
    return diff_ids, texts if len(texts) == len(diff_ids) else ("",) * len(diff_ids)


def _check_settings(settings: Any, where: str) -> None:
    """What the image says of how it is run has the types that config.md gives it; raises InvalidImage."""
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise InvalidImage(f"{where} cannot be used: its config is not an object")
    for key in ("Env", "Entrypoint", "Cmd"):
        value = settings.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise InvalidImage(f"{where} cannot be used: its {key} is not a list of texts")
    labels = settings.get("Labels")
    if labels is not None and not (
        isinstance(labels, dict) and all(isinstance(each, str) for pair in labels.items() for each in pair)
    ):
        raise InvalidImage(f"{where} cannot be used: its Labels are not an object of texts")
    for key in ("User", "WorkingDir"):
        if not isinstance(settings.get(key) or "", str):
            raise InvalidImage(f"{where} cannot be used: its {key} is not text")


def write_json_blob(layout: Path, value: Any, media_type: str) -> Descriptor:
    """Store a value as canonical JSON; raises OSError."""
    data = canonical_json(value)
    digest = digest_bytes(data)
    blob_path(layout, digest).write_bytes(data)
    return Descriptor(media_type=media_type, digest=digest, size=len(data))


def make_entrance(image: Descriptor, manifest: Manifest | None, reference: ImageReference | None) -> dict[str, bytes]:
    """The files at a layout's top: ``oci-layout``, ``index.json``, and Docker's ``manifest.json``.

    The last one is for engines without a containerd store; an image index, whose ``manifest`` is None, has none, for
    such engines keep one platform. ``reference`` becomes the annotations by which ``docker load`` and ``ctr import``
    name the image.
    """
    named = () if reference is None or reference.tag is None else _name_annotations(reference)
    # Names that the image had elsewhere are replaced, not kept beside the new one.
    others = (pair for pair in image.annotations if pair[0] not in _NAMES)
    entry = replace(image, annotations=tuple(sorted((*others, *named))))
    files = {OCI_LAYOUT: canonical_json(_VERSION), INDEX: canonical_json(make_index((entry,)))}
    if manifest is not None:
        tags = [reference.with_tag(reference.tag).familiar] if reference is not None and named else None
        docker = {**docker_image(manifest), "RepoTags": tags}
        files[DOCKER_MANIFEST] = canonical_json([docker])
    return files


def docker_image(manifest: Manifest) -> dict[str, Any]:
    """The image as Docker's ``manifest.json`` names it: its config and layers by their places."""
    layers = [_inside(layer.digest) for layer in manifest.layers]
    return {"Config": _inside(manifest.config.digest), "Layers": layers}


def layout_tar(layout: Path, *, reference: ImageReference | None = None) -> Iterator[bytes]:
    """The layout as a deterministic tar, in pieces: what ``docker load`` and ``skopeo oci-archive:`` read.

    With ``reference`` the image inside is named by it, whatever the layout itself says. Raises OSError, InvalidImage.
    """
    tops = {name: _read(layout / name) for name in (OCI_LAYOUT, INDEX, DOCKER_MANIFEST) if (layout / name).is_file()}
    if reference is not None:
        tops = _renamed(layout, reference)
    return tarball.tar_chunks(_tar_entries(layout, tops))


def _renamed(layout: Path, reference: ImageReference) -> dict[str, bytes]:
    entries = read_index(layout)
    if len(entries) == 1 and len(list_images(layout, entries[0].digest)) > 1:
        return make_entrance(entries[0], None, reference)
    image = find_manifest(layout)
    return make_entrance(image, read_manifest(layout, image.digest), reference)


def write_layout_tar(layout: Path, destination: Path, *, reference: ImageReference | None = None) -> None:
    """``layout_tar`` into a file, whole or not at all; raises OSError, InvalidImage."""
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for chunk in layout_tar(layout, reference=reference):
                file.write(chunk)
        temporary.replace(destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _tar_entries(layout: Path, tops: dict[str, bytes]) -> Iterator[tarball.Entry]:
    for name, data in tops.items():
        yield tarball.Entry(name=name.encode(), kind=tarball.FILE, mode=0o644, size=len(data), source=data)
    for folder in (b"blobs", b"blobs/sha256"):
        yield tarball.Entry(name=folder, kind=tarball.DIRECTORY, mode=0o755)
    for path in sorted((layout / "blobs" / "sha256").iterdir()):
        blob = f"blobs/sha256/{path.name}".encode()
        size = path.stat().st_size
        yield tarball.Entry(name=blob, kind=tarball.FILE, mode=0o644, size=size, source=str(path))


def _entries(
    layout: Path, entries: tuple[Descriptor, ...], depth: int = 0, seen: set[Digest] | None = None
) -> Iterator[Descriptor]:
    """The entries, and after each index those that it lists; one that stands in many places is followed once."""
    seen = set() if seen is None else seen
    for entry in entries:
        yield entry
        if entry.media_type in media.INDEXES and entry.digest not in seen:
            seen.add(entry.digest)
            check_depth(depth, str(entry.digest))
            inner = index_from_json(read_json_blob(layout, entry.digest), str(entry.digest))
            yield from _entries(layout, inner, depth + 1, seen)


def check_depth(depth: int, where: str) -> None:
    """Raises InvalidImage for an index that lies in more indexes than anybody makes."""
    if depth > _MAX_DEPTH:
        raise InvalidImage(f"index {where} lies in {depth} others, more than {_MAX_DEPTH}")


def _is_for(entry: Descriptor, platform: Platform) -> bool:
    return entry.platform in (None, (platform.os, platform.architecture))


def _name_annotations(reference: ImageReference) -> tuple[tuple[str, str], ...]:
    return ((_REF_NAME, str(reference.tag)), (_CONTAINERD_NAME, str(reference.with_tag(reference.tag))))


def _inside(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, largest=LARGEST_JSON)
    except FileNotFoundError as error:
        raise InvalidImage(f"not a whole image layout: {path} is missing") from error
    except (OSError, BrokenText) as error:
        raise InvalidImage(f"not a whole image layout: {path} cannot be read: {why(error)}") from error
