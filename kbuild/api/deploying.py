"""Writing down how an image is to be served: for Kubernetes, Knative, KServe or Docker Compose."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.api.find import REGISTRY_FORM, cut_digest, existing_image
from kbuild.api.fleet.watching import open_registry
from kbuild.api.session import Session, open_session, take_model
from kbuild.deploy.canary import Canary, Gateway
from kbuild.deploy.compose import make_compose
from kbuild.deploy.deployment import MAX_BODY, Deployment, Size, make_label
from kbuild.deploy.kubernetes import Files, make_kubernetes
from kbuild.deploy.measured import size_by
from kbuild.deploy.serverless import make_knative, make_kserve
from kbuild.deploy.write import write_files
from kbuild.digest import Digest, digest_bytes
from kbuild.errors import ConfigurationError, ImageNotFound, InvalidReference, ModelNotFound
from kbuild.image.compare.contents import read_config
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.store.listing import list_here
from kbuild.image.store.local import LocalImages
from kbuild.measuring.profile import Profile, Profiles
from kbuild.model.model_reference import ModelReference
from kbuild.offered.given import take_either
from kbuild.plan.make import LABEL_RUN_ID
from kbuild.tracking.image_tags import Tag
from kbuild.untrusted import BrokenText, parse_json, read_text, why

_CLUSTERS = ("kubernetes", "knative", "kserve")
TARGETS = (*_CLUSTERS, "compose")
_FACTS = "io.kbuild."
_MEASURED = f"{_FACTS}measured"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeployOptions:
    """``to`` is one of TARGETS; ``name`` is a DNS label, by default of the model's name or the image's.

    ``cpu`` and ``memory`` are quantities of Kubernetes', None for what ``profile`` says, a file that ``kbuild measure
    --json`` wrote, or else what was measured of the image here, or else the defaults. ``canary`` is another model or
    image and its percentage of the requests. ``gateway`` is for Kubernetes alone, ``serverless`` for KServe, and
    ``port``, one of the host, for compose.
    """

    to: str = "kubernetes"
    name: str | None = None
    namespace: str | None = None
    pull_secret: str | None = None
    cpu: str | None = None
    memory: str | None = None
    replicas: tuple[int, int] = (Size().least, Size().most)
    profile: Path | None = None
    canary: tuple[str, int] | None = None
    gateway: Gateway | None = None
    serverless: bool = False
    port: int | None = None

    def __post_init__(self) -> None:
        only = {
            "--gateway": (self.gateway, ("kubernetes",)),
            "--serverless": (self.serverless, ("kserve",)),
            "--port": (self.port, ("compose",)),
            "--canary": (self.canary, _CLUSTERS),
            "--namespace": (self.namespace, _CLUSTERS),
            "--pull-secret": (self.pull_secret, _CLUSTERS),
            "--replicas": (self.replicas != (Size().least, Size().most), _CLUSTERS),
        }
        for option, (given, targets) in only.items():
            if given and self.to not in targets:
                raise ConfigurationError(
                    f"{option} is not for --to {self.to}", hint=" or ".join(f"--to {each}" for each in targets)
                )


@take_either
def deploy(
    subject: str, output: Path, options: DeployOptions | None = None, *, session: Session | None = None
) -> list[Path]:
    """Write the manifests that serve a model's image into a folder; returns the files.

    ``subject`` is an image of a registry, or a model whose image was pushed. The same images, profiles and options give
    the same bytes. Raises ImageNotFound where no registry has it, OutputError where a file there is not kbuild's.
    """
    asked = options or DeployOptions()
    session = session or open_session()
    name, image = _find(subject, session)
    stated = None if asked.profile is None else _read_profile(asked.profile)
    made, *digests = _deployment(asked.name or make_label(name), image, asked, stated, session)
    canary = None
    if asked.canary is not None:
        other, percent = asked.canary
        second = _find(other, session)[1]
        if second == image:
            raise ConfigurationError(
                f"the canary is {image} itself", hint="kbuild list, or another version of the model"
            )
        deployment, digest = _deployment(made.name, second, asked, stated, session)
        canary = Canary(deployment=deployment, percent=percent)
        digests.append(digest)
    if stated is not None and stated.digest not in digests:
        raise ConfigurationError(
            f"{asked.profile} is of {stated.digest}, which is not deployed here",
            hint=f"kbuild measure {image} --json > {asked.profile}",
        )
    return write_files(_make(asked, made, canary), output)


def _make(asked: DeployOptions, made: Deployment, canary: Canary | None) -> Files:
    if asked.to == "kubernetes":
        return make_kubernetes(made, canary=canary, gateway=asked.gateway)
    if asked.to == "knative":
        return make_knative(made, canary=canary)
    if asked.to == "kserve":
        return make_kserve(made, canary=canary, serverless=asked.serverless)
    return make_compose(made, port=asked.port)


def _deployment(
    name: str, image: ImageReference, asked: DeployOptions, stated: Profile | None, session: Session
) -> tuple[Deployment, Digest]:
    """Of an image of a registry, in the size that was stated, or measured of this very image; its own digest."""
    tools = session.tools
    with (
        tools.using_cache(),
        existing_image(str(image), tools) as found,
    ):
        if found is None:
            raise ImageNotFound(f"{image} is not an image of a registry", hint=REGISTRY_FORM)
        # Of an index the one for this machine, as it is measured.
        digest = found[0].digest
        _, config = read_config(found[0].layout, digest)
    is_of_it = stated is not None and stated.digest == digest
    profile = stated if is_of_it else Profiles(tools.cache / "images").read(digest)
    bounded = any(str(each).startswith(f"{MAX_BODY}=") for each in config.get("Env") or ())
    sized = size_by(profile, cpu=asked.cpu, memory=asked.memory, replicas=asked.replicas, bounded=bounded)
    for line in f"{image.familiar}: {sized.told}".split("\n"):
        session.voice.say(line)
    labels = {str(key): str(value) for key, value in (config.get("Labels") or {}).items()}
    facts = {key: value for key, value in labels.items() if key.startswith(_FACTS) and len(value) <= _LONGEST}
    user = str(config.get("User") or "").partition(":")[0]
    made = Deployment(
        name=name,
        image=image,
        port=_port(config.get("ExposedPorts")),
        user=int(user) if user.isascii() and user.isdecimal() and int(user) else None,
        size=sized.size,
        namespace=asked.namespace,
        pull_secret=asked.pull_secret,
        facts=facts if sized.fact is None else {**facts, _MEASURED: sized.fact},
    )
    return made, digest


def _read_profile(path: Path) -> Profile:
    try:
        value = parse_json(read_text(path))
    except (OSError, BrokenText) as error:
        raise ConfigurationError(f"the profile {path} cannot be read: {why(error)}") from error
    return Profile.from_json(value, str(path))


_LONGEST = 500  # of a label that is worth an annotation


def _find(subject: str, session: Session) -> tuple[str, ImageReference]:
    """A name for what is served, and the image by digest. Raises ImageNotFound where it is in no registry."""
    reference = ImageReference.find(subject)
    if reference is not None and subject.startswith(f"{reference.registry}/"):
        return reference.repository.rpartition("/")[2], _by_digest(reference)
    try:
        model = ModelReference.parse(take_model(subject, session))
    except (InvalidReference, ModelNotFound) as error:
        raise _only_here(subject, session) or cut_digest(subject, session.tools) or error from error
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


def _only_here(subject: str, session: Session) -> ImageNotFound | None:
    """The error for an image that was built on this machine, None where it is none."""
    images = list_here(session.tools.cache / "images")
    digest = LocalImages(session.tools.cache / "images").beginning_with(subject)
    found = [each for each in images if subject in each.names or each.digest == digest]
    if not found:
        return None
    model = found[0].labels.get(LABEL_RUN_ID, "MODEL")
    return ImageNotFound(
        f"{subject} was built here, and is in no registry that it could be served from",
        hint=f"kbuild image {model} --push REGISTRY/NAME:TAG",
    )


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
