"""Delivery: a built image gets its name, goes where it was asked to go, and the model's run is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kbuild.digest import Digest
from kbuild.environment.lockfile import Lockfile
from kbuild.image.blob_places import BlobPlaces
from kbuild.image.docker import DockerDaemon
from kbuild.image.engine import BuiltImage
from kbuild.image.local import LocalImages
from kbuild.image.oci.reference import ImageReference
from kbuild.image.publish import DaemonPublisher, LayoutPublisher, Publisher, RegistryPublisher, TarballPublisher
from kbuild.model.bundle import ModelBundle
from kbuild.model.tags import Tag, write_tags
from kbuild.plan.plan import BASE_CONTEXT, BuildPlan
from kbuild.workflow.naming import fill_name, name_values
from kbuild.workflow.tools import Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """Where the image goes besides the local images.

    ``tag`` and ``push`` are texts of references in which the placeholders of ``naming`` are filled in. ``record`` says
    whether the model's run is told: its tags, and the base that was used.
    """

    tag: str | None = None
    output: Path | None = None
    load: bool = False
    push: str | None = None
    record: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """``reference`` is ``name@sha256:…``; ``layout`` is where the OCI layout lies.

    ``pushed`` is the reference by digest that a registry now has; ``untagged`` says why the model's run was not tagged.
    """

    image: BuiltImage
    reference: str
    layout: Path
    plan: BuildPlan
    model_digest: Digest
    lock_digest: Digest
    reused: bool
    pushed: str | None = None
    untagged: str | None = None


def deliver(
    image: BuiltImage,
    bundle: ModelBundle,
    lockfile: Lockfile,
    plan: BuildPlan,
    delivery: Delivery,
    images: LocalImages,
    tools: Tools,
    *,
    reused: bool,
) -> ImageResult:
    """Name the image, publish it where ``delivery`` says, and tag the model's run with it.

    Raises the error of the place that does not take it.
    """
    facts = bundle.facts
    values = name_values(bundle)
    push = None if delivery.push is None else fill_name(delivery.push, values)
    tag = None if delivery.tag is None else fill_name(delivery.tag, values)
    for given in {str(each) for each in (push, tag) if each is not None}:
        tools.shared.claim(given, image.digest)
    name = tag or push or ImageReference.parse(values["name"] or "model")
    images.name(image, name)
    publishers: list[tuple[Publisher, ImageReference]] = []
    pushed: str | None = None
    if delivery.output is not None:
        is_tar = delivery.output.suffix == ".tar"
        publishers.append(((TarballPublisher if is_tar else LayoutPublisher)(destination=delivery.output), name))
    if delivery.load:
        publishers.append((DaemonPublisher(daemon=DockerDaemon()), name))
    if push is not None:
        places = BlobPlaces(root=tools.cache / "registries")
        publishers.append((RegistryPublisher(places=places, base=_registry_base(plan)), push))
        pushed = push.with_digest(image.digest).familiar
    if publishers:
        with tools.phases("publish") as progress:
            for publisher, reference in publishers:
                publisher.publish(image, reference, progress=progress)
    written = delivery.output if delivery.output is not None and delivery.output.is_dir() else image.layout
    built = name.with_digest(image.digest).familiar
    tags = {
        Tag.IMAGE: built,
        Tag.IMAGE_DIGEST: str(image.digest),
        Tag.MODEL_DIGEST: str(bundle.digest),
        Tag.LOCK_DIGEST: str(lockfile.digest),
        **({} if pushed is None else {Tag.PUSHED: pushed}),
    }
    return ImageResult(
        image=image,
        reference=built,
        layout=written.absolute(),
        plan=plan,
        model_digest=bundle.digest,
        lock_digest=lockfile.digest,
        reused=reused,
        pushed=pushed,
        untagged=write_tags(tags, facts.run_id, facts.model_id, tools.store) if delivery.record else None,
    )


def _registry_base(plan: BuildPlan) -> ImageReference | None:
    """The base image's name, where it came from a registry."""
    return None if plan.from_line in ("scratch", BASE_CONTEXT) else ImageReference.parse(plan.from_line)
