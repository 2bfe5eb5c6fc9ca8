"""Publishing a built image, or the index of several, wherever it was asked to go."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from kbuild.digest import Digest
from kbuild.image.deliver.publishers import (
    DaemonPublisher,
    LayoutPublisher,
    Publisher,
    RegistryPublisher,
    TarballPublisher,
)
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry.blob_places import BlobPlaces
from kbuild.image.run.docker import DockerDaemon
from kbuild.image.store.image_index import BuiltIndex, write_index
from kbuild.plan.build_plan import BASE_CONTEXT
from kbuild.progress import Progress, how_many
from kbuild.workflow.tools import Tools


def publish(
    image: BuiltImage,
    name: ImageReference,
    *,
    index: BuiltIndex | None,
    output: Path | None,
    load: bool,
    push: ImageReference | None,
    base: str,
    tools: Tools,
    once: bool = False,
) -> None:
    """To ``output``, a Docker engine and a registry, as far as they are named; ``base`` is the plan's ``FROM``.

    With ``once`` a registry that has the image by that name is sent nothing. Raises the error of the place that does
    not take it.
    """
    publishers: list[tuple[Publisher, ImageReference]] = []
    if output is not None:
        is_tar = output.suffix == ".tar"
        publishers.append(((TarballPublisher if is_tar else LayoutPublisher)(destination=output), name))
    if load:
        publishers.append((DaemonPublisher(daemon=DockerDaemon()), name))
    if push is not None and not (once and is_there(push, (index or image).digest)):
        places = BlobPlaces(root=tools.cache / "registries")
        publishers.append((RegistryPublisher(places=places, base=_registry_base(base)), push))
    with tools.phases("publish") as progress:
        for publisher, reference in publishers:
            if index is None:
                publisher.publish(image, reference, progress=progress)
            else:
                _publish_index(index, image, publisher, reference, progress)


def is_there(reference: ImageReference, digest: Digest) -> bool:
    """Whether the registry has the image of that digest by that tag. Raises RegistryError."""
    from kbuild.image.registry.client import RegistryClient  # requests; most builds push nothing

    with closing(RegistryClient(reference)) as client:
        return reference.tag is not None and client.find_digest(reference.tag) == str(digest)


def _publish_index(
    index: BuiltIndex, image: BuiltImage, publisher: Publisher, reference: ImageReference, progress: Progress
) -> None:
    """``image`` is the one of the index that a daemon gets: older stores keep no index."""
    match publisher:
        case LayoutPublisher(destination=destination):
            progress.note(f"writing {destination}")
            write_index(index.images, destination, reference=reference)
        case TarballPublisher():
            publisher.publish(replace(image, layout=index.layout), reference, progress=progress)
        case RegistryPublisher():
            for platform, each in index.images.items():
                progress.note(f"pushing the image for {platform}")
                publisher.publish(each, reference.with_digest(each.digest), progress=progress)
            # Last: whoever pulls the tag meanwhile gets what it was, never an index whose images are missing.
            from kbuild.image.registry.transfer import push_index  # requests; most builds push nothing

            push_index(index, reference)
            progress.made(f"{how_many(len(index.images), 'image')} and their index, to {reference.registry}")
        case _:
            progress.tell(f"loading {image.digest} alone: an engine gets the image of its own platform")
            publisher.publish(image, reference, progress=progress)


def _registry_base(from_line: str) -> ImageReference | None:
    """The base image's name, where it came from a registry."""
    return None if from_line in ("scratch", BASE_CONTEXT) else ImageReference.parse(from_line)
