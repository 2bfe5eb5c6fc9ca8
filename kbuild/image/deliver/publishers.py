"""Publishers: where a finished image goes. None of them asks which engine built it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kbuild.errors import OutputError
from kbuild.files import link_or_copy
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.blob_places import BlobPlaces
from kbuild.image.registry.transfer import push_image
from kbuild.image.run.docker import DockerDaemon
from kbuild.image.store.pack import output_error, refuse_other, replacing
from kbuild.progress import Progress


class Publisher(Protocol):
    """Delivers an image to one kind of place."""

    def publish(self, image: BuiltImage, reference: ImageReference, *, progress: Progress) -> ImageReference:
        """Deliver under a name; returns the reference by digest. Raises the KbuildError of the place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutPublisher:
    """An OCI layout directory of the image's own; blobs are linked where the file system allows it."""

    destination: Path

    def publish(self, image: BuiltImage, reference: ImageReference, *, progress: Progress) -> ImageReference:
        """Raises OutputError. An older layout in the place is replaced."""
        refuse_other(self.destination)
        progress.note(f"writing {self.destination}")
        manifest = layouts.read_manifest(image.layout, image.digest)
        descriptor = layouts.find_manifest(image.layout, digest=image.digest)
        with replacing(self.destination) as folder:
            (folder / "blobs" / "sha256").mkdir(parents=True)
            for digest in {image.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}:
                link_or_copy(layouts.blob_path(image.layout, digest), layouts.blob_path(folder, digest))
            for name, data in layouts.make_entrance(descriptor, manifest, reference).items():
                (folder / name).write_bytes(data)
        return reference.with_digest(image.digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class TarballPublisher:
    """One tar file that ``docker load``, ``podman load`` and ``skopeo`` (``oci-archive:``) read."""

    destination: Path

    def publish(self, image: BuiltImage, reference: ImageReference, *, progress: Progress) -> ImageReference:
        """Raises OutputError."""
        if self.destination.is_dir():
            raise OutputError(f"{self.destination} is a folder", hint="name a file with --output")
        progress.note(f"writing {self.destination}")
        try:
            self.destination.parent.mkdir(parents=True, exist_ok=True)
            layouts.write_layout_tar(image.layout, self.destination, reference=reference)
        except OSError as error:
            raise output_error(error, self.destination) from error
        return reference.with_digest(image.digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class DaemonPublisher:
    """A Docker daemon's image store."""

    daemon: DockerDaemon

    def publish(self, image: BuiltImage, reference: ImageReference, *, progress: Progress) -> ImageReference:
        """Raises EngineUnavailable or InvalidImage."""
        progress.note(f"loading {reference.familiar} into Docker {self.daemon.version}")
        loaded = self.daemon.load(image, reference)
        if loaded.unpacked:
            progress.tell(
                f"Docker {self.daemon.version} reads no zstd, so it was given the layers unpacked; an image that every "
                "engine reads is made by --compression gzip"
            )
        if not loaded.keeps_digest:
            progress.tell(f"this Docker keeps images by their config: the ID is {loaded.id}")
        progress.made(f"loaded into Docker {self.daemon.version}")
        return reference.with_digest(image.digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryPublisher:
    """A registry; only blobs it lacks are sent. ``base``: the base image, where it came from a registry."""

    places: BlobPlaces | None = None
    base: ImageReference | None = None

    def publish(self, image: BuiltImage, reference: ImageReference, *, progress: Progress) -> ImageReference:
        """Raises RegistryError."""
        return push_image(image.layout, image.digest, reference, places=self.places, base=self.base, progress=progress)
