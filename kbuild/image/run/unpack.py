"""An image of a layout as a root file system in a directory, without root and without leaving that directory.

Each layer is unpacked once, whatever images have it (see ``layer_tree``); a root is put together from these trees by
hard links, for as long as somebody needs it. Whoever runs in such a root must not be able to write to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.cache.entries import state_size
from kbuild.cache.locks import in_use
from kbuild.cache.room import room_for
from kbuild.cache.scratch import work_folder
from kbuild.cache.tree import UNPACKED, cached_tree, is_sound, writing
from kbuild.digest import Digest, digest_file
from kbuild.errors import InvalidImage
from kbuild.image.engine import Bring
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.compress import DAMAGED, read_layer
from kbuild.image.oci.descriptor import Descriptor
from kbuild.image.oci.media import layer_compression
from kbuild.image.run.layer_tree import RECIPE, lay_layer, unpack_layer
from kbuild.platform import host_platform
from kbuild.progress import Progress

# Where a sandbox mounts something: a read-only root must already have them.
_MOUNT_POINTS = ("proc", "dev", "tmp", "sys")
_TREES = f"{UNPACKED}/layers-{RECIPE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackedImage:
    """``root`` is the file system, ``config`` the ``config`` object of the image config (config.md), ``digest`` the
    manifest's."""

    root: Path
    config: dict[str, Any]
    digest: Digest


@contextmanager
def unpacked_image(
    layout: Path, *, digest: Digest | None = None, cache: Path, progress: Progress, bring: Bring | None = None
) -> Iterator[UnpackedImage]:
    """An image of a layout as a file system, which is gone after the block; its layers stay unpacked in ``cache``.

    Without ``digest`` it is the layout's only image for this machine; ``bring`` is that of an image which may lack
    layers, and asked for those alone that are unpacked nowhere yet. Raises InvalidImage for damaged or hostile
    layers, OutputError when the cache cannot be written.
    """
    entry = layouts.find_manifest(layout, digest=digest, platform=None if digest else host_platform())
    manifest = layouts.read_manifest(layout, entry.digest)
    config = layouts.read_json_blob(layout, manifest.config.digest)
    diff_ids, _ = layouts.read_history(layout, manifest)
    with ExitStack() as stack:
        folder = stack.enter_context(work_folder(cache, "run-"))
        # What a cache that may only be read does not hold is unpacked for this once.
        own = cache if folder.parent == cache else folder
        trees = []
        for number, (layer, diff_id) in enumerate(zip(manifest.layers, diff_ids, strict=True), 1):
            place = f"layer {number} of {len(manifest.layers)}"
            there = cache if own == cache or is_sound(cache / _TREES / diff_id.hex, sealed=False) else own
            trees.append(_unpacked_layer(layout, layer, diff_id, there, place, progress, bring))
        stack.enter_context(in_use(trees))
        root = folder / "root"
        with writing("the unpacked image", cache), room_for(folder) as room:
            root.mkdir()
            for tree in trees:
                lay_layer(tree, root, room)
            for name in _MOUNT_POINTS:
                (root / name).mkdir(exist_ok=True)
            root.chmod(0o755)
            state_size(folder, room.used)
        yield UnpackedImage(root=root, config=dict(config.get("config") or {}), digest=entry.digest)


def _unpacked_layer(
    layout: Path,
    layer: Descriptor,
    diff_id: Digest,
    cache: Path,
    place: str,
    progress: Progress,
    bring: Bring | None,
) -> Path:
    """The tree of a layer, addressed by its diff ID, against which it is checked while it is unpacked."""

    def make(folder: Path) -> None:
        if bring is not None:
            bring([layer.digest], progress)
        progress.note(f"unpacking {place}")
        blob = layouts.blob_path(layout, layer.digest)
        if not blob.is_file() or digest_file(blob) != layer.digest:
            raise InvalidImage(f"layer {layer.digest} of {layout} is missing or damaged", hint="build it again")
        try:
            with room_for(folder) as room:
                found = unpack_layer(read_layer(blob, layer_compression(layer.media_type)), folder, room)
        except DAMAGED as error:
            raise InvalidImage(f"layer {layer.digest} of {layout} cannot be unpacked: {error}") from error
        if found != diff_id:
            raise InvalidImage(f"layer {layer.digest} of {layout} has the diff ID {found}, its config says {diff_id}")

    with writing("the unpacked image", cache):
        # Not sealed: that would read all of it once more.
        return cached_tree(cache / _TREES / diff_id.hex, make, sealed=False)
