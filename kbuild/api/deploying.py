"""Writing down how an image is to be served: for Kubernetes, Knative, KServe or Docker Compose."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kbuild.api.find import REGISTRY_FORM, existing_image
from kbuild.api.fleet.watching import open_registry
from kbuild.api.session import Session, open_session, take_model
from kbuild.cache.folder import using_cache
from kbuild.deploy.compose import make_compose
from kbuild.deploy.deployment import Deployment, Size, make_label
from kbuild.deploy.kubernetes import Files, make_kubernetes
from kbuild.deploy.serverless import make_knative, make_kserve
from kbuild.deploy.write import write_files
from kbuild.digest import digest_bytes
from kbuild.errors import ImageNotFound, InvalidReference
from kbuild.image.compare.contents import read_config
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.model_reference import ModelReference
from kbuild.tracking.image_tags import Tag

TARGETS: Mapping[str, Callable[[Deployment], Files]] = {
    "kubernetes": make_kubernetes,
    "knative": make_knative,
    "kserve": make_kserve,
    "compose": make_compose,
}
_FACTS = "io.kbuild."


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployOptions:
    """``to`` is one of TARGETS; ``name`` is a DNS label, by default of the model's name or the image's."""

    to: str = "kubernetes"
    name: str | None = None
    namespace: str | None = None
    pull_secret: str | None = None
    size: Size = field(default_factory=Size)


def deploy(
    subject: str, output: Path, options: DeployOptions | None = None, *, session: Session | None = None
) -> list[Path]:
    """Write the manifests that serve a model's image into a folder; returns the files.

    ``subject`` is an image of a registry, or a model whose image was pushed. The same image and options give the same
    bytes. Raises ImageNotFound where no registry has it, OutputError where a file there is not kbuild's.
    """
    asked = options or DeployOptions()
    session = session or open_session()
    name, image = _find(subject, session)
    with (
        using_cache(session.tools.cache, limit=session.tools.cache_limit),
        existing_image(str(image), session.tools) as found,
    ):
        if found is None:
            raise ImageNotFound(f"{image} is not an image of a registry", hint=REGISTRY_FORM)
        _, config = read_config(found[0].layout, found[0].digest)
    labels = {str(key): str(value) for key, value in (config.get("Labels") or {}).items()}
    user = str(config.get("User") or "").partition(":")[0]
    made = Deployment(
        name=asked.name or make_label(name),
        image=image,
        port=_port(config.get("ExposedPorts")),
        user=int(user) if user.isascii() and user.isdecimal() and int(user) else None,
        size=asked.size,
        namespace=asked.namespace,
        pull_secret=asked.pull_secret,
        facts={key: value for key, value in labels.items() if key.startswith(_FACTS) and len(value) <= _LONGEST},
    )
    return write_files(TARGETS[asked.to](made), output)


_LONGEST = 500  # of a label that is worth an annotation


def _find(subject: str, session: Session) -> tuple[str, ImageReference]:
    """A name for what is served, and the image by digest. Raises ImageNotFound where it is in no registry."""
    try:
        reference = ImageReference.parse(subject)
    except InvalidReference:
        reference = None
    if reference is not None and subject.startswith(f"{reference.registry}/"):
        return reference.repository.rpartition("/")[2], _by_digest(reference)
    model = ModelReference.parse(take_model(subject, session.tools, session.config, session.voice))
    model = session.tools.store.pin(model)
    tags, name = _tags(model, session)
    pushed = tags.get(Tag.PUSHED)
    if pushed is None:
        raise ImageNotFound(
            f"{subject} has no image in a registry, as far as MLflow was told",
            hint=f"kbuild image {shlex.quote(subject)} --push REGISTRY/NAME:TAG, or name the image: {REGISTRY_FORM}",
        )
    image = ImageReference.parse(pushed)
    return name or image.repository.rpartition("/")[2], image


def _tags(model: ModelReference, session: Session) -> tuple[Mapping[str, str], str | None]:
    """What MLflow was told of a model's images, and the model's registered name."""
    if model.kind == "registered":
        for version in open_registry(session).versions(model.name):
            if version.version == model.version:
                return version.tags, model.name
    if model.run_id is not None:
        return session.tools.store.read_run(model.run_id).tags, None
    return {}, None


def _by_digest(reference: ImageReference) -> ImageReference:
    if reference.digest is not None:
        return reference.with_digest(reference.digest)
    from kbuild.image.registry.client import RegistryClient  # Docker's SDK, for its credentials

    _, data = RegistryClient(reference).read_manifest(reference.tag or "latest")
    return reference.with_digest(digest_bytes(data))


def _port(exposed: object) -> int:
    """The first of the image's ports."""
    ports = sorted(str(each).partition("/")[0] for each in exposed) if isinstance(exposed, dict) else []
    return int(ports[0]) if ports and ports[0].isdecimal() else 8080
