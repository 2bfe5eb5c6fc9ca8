"""The images of this machine: layouts by digest, and which plan or reference led to which."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.cache.notes import is_reading_all, read_vouched, write_if_allowed, write_vouched
from kbuild.cache.scratch import scratch_folder
from kbuild.cache.tree import stamp
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.errors import InvalidImage
from kbuild.files import mark_used
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import blob_path, list_images
from kbuild.image.store.image_index import BuiltIndex, index_in, single_image, write_index
from kbuild.image.store.pack import image_in
from kbuild.platform import Platform
from kbuild.untrusted import parse_json

_SHORT, _HEX = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})"), 64


@dataclass(frozen=True, slots=True)
class LocalImages:
    """A folder with ``<hex digest>/`` for each layout and one small file a name; every change is one rename."""

    root: Path

    def add(self, build: Callable[[Path], BuiltImage]) -> BuiltImage:
        """Let ``build`` write a layout into an empty place and keep it under its digest."""
        with scratch_folder(self.root, ".new-") as scratch:
            image = build(scratch / "layout")
            kept = self.root / image.digest.hex

            def read() -> BuiltImage:
                return image_in(kept, engine=image.engine, digest=image.digest)

            _keep(image.layout, kept, scratch, lambda: [read()])
            return read()

    def add_index(self, images: Mapping[Platform, BuiltImage]) -> BuiltIndex:
        """Keep the index of images that are here; its layout shares their files."""
        with scratch_folder(self.root, ".new-") as scratch:
            index = write_index(images, scratch / "layout")
            kept = self.root / index.digest.hex

            def read() -> BuiltIndex:
                return index_in(kept, index.digest, engine=index.engine)

            _keep(index.layout, kept, scratch, lambda: read().images.values())
            return read()

    def name(self, image: BuiltImage | BuiltIndex, reference: ImageReference) -> None:
        """Remember that ``reference`` means this image from now on."""
        with contextlib.suppress(InvalidImage):
            if self._record("references", str(_named(reference))) == (image.digest, image.engine):
                return  # which a cache that may only be read can be told too
        self._write("references", str(_named(reference)), image)

    def record_plan(self, key: Digest, image: BuiltImage) -> None:
        """Remember what a plan was built to, and that nobody wrote to its layers since."""
        write_vouched(self._entry("plans", str(key)), _plan_record(key, image))

    def by_plan(self, key: Digest) -> BuiltImage | None:
        """The image that this plan was built to, if it is still here and whole."""
        try:
            image = self._read("plans", str(key))
        except InvalidImage:
            return None  # it is built again, which mends it
        if image is None or not _is_whole(image):
            return None
        entry, record = self._entry("plans", str(key)), _plan_record(key, image)
        with contextlib.suppress(FileNotFoundError):
            if read_vouched(entry) == record and not is_reading_all():
                return image
        if not _is_whole(image, read=True):
            return None
        write_if_allowed(entry, record)
        return image

    def by_reference(self, reference: ImageReference, *, platform: Platform | None = None) -> BuiltImage | None:
        """The image of this name, or of this digest whatever its name; see ``by_digest`` for ``platform``."""
        if reference.digest is not None:
            return self.by_digest(reference.digest, platform=platform)
        return self._read("references", str(_named(reference)), platform)

    def by_digest(
        self, digest: Digest, *, engine: str = "unknown", platform: Platform | None = None
    ) -> BuiltImage | None:
        """The image with this manifest digest; of an index the one for ``platform``, or for this machine.

        Raises InvalidImage where it is for other platforms than the one asked for.
        """
        layout = self.root / digest.hex
        if not layout.is_dir():
            return None
        mark_used(layout)
        image = image_in(layout, engine=engine, digest=digest, platform=platform)
        return image if image.digest == digest else self.alone(image)

    def beginning_with(self, text: str) -> Digest | None:
        """The one digest here of which ``text`` is 8 figures or more, with ``sha256:`` before them or without."""
        match = _SHORT.fullmatch(text)
        found = [] if match is None else [path.name for path in self.root.glob(f"{match[1]}*") if path.is_dir()]
        return Digest(found[0]) if len(found) == 1 and len(found[0]) == _HEX else None

    def index_by_reference(self, reference: ImageReference) -> BuiltIndex | None:
        """The index of this name or digest, None where it is none."""
        digest = reference.digest
        if digest is None:
            record = self._record("references", str(_named(reference)))
            digest = None if record is None else record[0]
        if digest is None or not (self.root / digest.hex).is_dir():
            return None
        mark_used(self.root / digest.hex)
        if len(list_images(self.root / digest.hex, digest)) < 2:
            return None
        return index_in(self.root / digest.hex, digest, engine="unknown")

    def alone(self, image: BuiltImage) -> BuiltImage:
        """An image of a layout that holds several, in a layout of its own, as what loads or runs one needs it."""
        here = self.by_digest(image.digest, engine=image.engine)
        if here is None or not _is_whole(here):
            here = self.add(lambda layout: single_image(image, layout))
        return replace(here, others=image.others, beside=image.beside)

    def _entry(self, kind: str, key: str) -> Path:
        return self.root / kind / digest_json(key).hex

    def _write(self, kind: str, key: str, image: BuiltImage | BuiltIndex) -> None:
        content = json.dumps({"key": key, "digest": str(image.digest), "engine": image.engine})
        write_vouched(self._entry(kind, key), content.encode())

    def _read(self, kind: str, key: str, platform: Platform | None = None) -> BuiltImage | None:
        record = self._record(kind, key)
        return None if record is None else self.by_digest(record[0], engine=record[1], platform=platform)

    def _record(self, kind: str, key: str) -> tuple[Digest, str] | None:
        try:
            value = parse_json(read_vouched(self._entry(kind, key)))
            return Digest.parse(value["digest"]), str(value["engine"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidImage(f"{self._entry(kind, key)} is damaged", hint="remove it and build again") from error


def _named(reference: ImageReference) -> ImageReference:
    # As everywhere with images: who names no tag means latest.
    return reference.with_tag(reference.tag or "latest")


def _keep(layout: Path, kept: Path, scratch: Path, read: Callable[[], Iterable[BuiltImage]]) -> None:
    """Move a layout to its place, unless a whole one is there: others may be reading that one."""
    if kept.exists() and not _are_whole(read):
        kept.rename(scratch / "damaged")
    if not kept.exists():
        try:
            layout.rename(kept)
        except OSError:
            # Somebody else built the same meanwhile: one digest, one content.
            if not kept.is_dir():
                raise


def _are_whole(read: Callable[[], Iterable[BuiltImage]]) -> bool:
    # Read: what was built a moment ago would otherwise give way to layers of somebody else's, of the same size.
    try:
        return all(_is_whole(image, read=True) for image in read())
    except InvalidImage:
        return False


def _is_whole(image: BuiltImage, *, read: bool = False) -> bool:
    """Whether every layer is there in its size, and where they are read with its digest; manifest and config were
    read, and their digests with them."""
    paths = [(blob_path(image.layout, layer.digest), layer) for layer in image.layers]
    return all(
        path.is_file() and path.stat().st_size == layer.size and (not read or digest_file(path) == layer.digest)
        for path, layer in paths
    )


def _plan_record(key: Digest, image: BuiltImage) -> bytes:
    stamps = [stamp(blob_path(image.layout, layer.digest)) for layer in image.layers]
    value = {"key": str(key), "digest": str(image.digest), "engine": image.engine, "layers": stamps}
    return json.dumps(value).encode()
