"""What an image or a model says of itself."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kbuild.api.find import existing_image, no_image
from kbuild.api.session import Session, open_session, take_model
from kbuild.audit.sizes.treemap import draw
from kbuild.audit.sizes.values import ImageSizes
from kbuild.cache.scratch import work_folder
from kbuild.errors import ImageNotFound, InvalidReference, KbuildError, ModelNotFound
from kbuild.image.compare.contents import read_config
from kbuild.image.compare.sizes import has_layers, read_sizes
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.layout import read_manifest
from kbuild.image.store.listing import list_here, names_here
from kbuild.image.store.verdicts import Verdicts
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference
from kbuild.offered.given import take_either
from kbuild.offered.shown import html_table
from kbuild.platform import Platform
from kbuild.progress import how_many
from kbuild.workflow import Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """What was found, as JSON values, and of an image whose layers were opened how large its packages are.

    An image's facts are its digests, platform, sizes in bytes, entrypoint, user, labels, annotations, layers and
    packages; a model's are what MLmodel and its run say, ``tags`` those that kbuild wrote. ``names`` are those that an
    image has on this machine.
    """

    kind: str
    facts: Mapping[str, Any]
    sizes: ImageSizes | None = None
    names: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        if self.sizes is not None:
            return draw(self.sizes, name=str(self.facts["digest"])[:19])
        return html_table({name: value for name, value in self.facts.items() if not isinstance(value, dict | list)})


@take_either
def inspect(
    reference: str | None = None,
    *,
    packages: bool | None = None,
    platform: Platform | None = None,
    session: Session | None = None,
) -> Inspected:
    """What an image or a model says of itself; None is the image that was built here last.

    ``packages`` asks for sizes by package, None where the image's layers are on this machine: of an image in a registry
    they are fetched for it. ``platform`` is whose image of an image index is meant. Raises ImageNotFound,
    AmbiguousModel, InvalidImage, and what asking the registry or MLflow does.
    """
    session = session or open_session()
    tools = session.tools
    if reference is None:
        built = list_here(tools.cache / "images")
        if not built:
            raise ImageNotFound("no image was built here yet", hint="build one with: kbuild image")
        reference = str(built[0].digest)
    with tools.using_cache():
        with existing_image(reference, tools, platform) as found:
            if found is not None:
                return _image(found[0], session, packages)
        try:
            model = ModelReference.parse(take_model(reference, session))
            with work_folder(tools.cache, "work-") as folder:
                bundle = tools.store.fetch(model, folder / "model")
                return Inspected(kind="model", facts=_model(model, bundle, tools))
        except (InvalidReference, ModelNotFound) as error:
            if reference.strip().startswith(("models:/", "runs:/")):
                raise
            image, model_hint = no_image(reference, tools).hint or "", error.hint or ""
            meant = image if "did you mean" in image or "did you mean" not in model_hint else model_hint
            raise ImageNotFound(
                f"{reference!r} is not an image built here, not an OCI layout or tar, and not a model",
                hint=meant or None,
            ) from error


def _image(image: BuiltImage, session: Session, packages: bool | None) -> Inspected:
    sizes = None
    if has_layers(image) if packages is None else packages:
        with session.voice("read") as progress:
            sizes = read_sizes(image, progress, cache=session.tools.cache)
            progress.made(f"{how_many(len(sizes.layers), 'layer')}, {how_many(len(sizes.packages), 'package')}")
    platform, config = read_config(image.layout, image.digest)
    manifest = read_manifest(image.layout, image.digest)
    facts = {
        "digest": str(image.digest),
        "config_digest": str(image.config_digest),
        "platform": str(platform),
        "size": image.size,
        "unpacked": None if sizes is None else sizes.size,
        "entrypoint": config.get("Entrypoint"),
        "user": config.get("User"),
        "labels": config.get("Labels") or {},
        "annotations": dict(manifest.annotations),
        "layers": [
            {
                "digest": str(layer.digest),
                "diff_id": str(layer.diff_id),
                "size": layer.size,
                "created_by": layer.created_by,
            }
            for layer in image.layers
        ],
        "packages": None if sizes is None else sizes.to_json()["packages"],
        **Verdicts(session.tools.cache / "images").said(image.digest).to_json(),
    }
    names = sorted(names_here(session.tools.cache / "images").get(str(image.digest), ()))
    return Inspected(kind="image", facts=facts, sizes=sizes, names=tuple(names))


def _model(reference: ModelReference, bundle: ModelBundle, tools: Tools) -> dict[str, Any]:
    facts = bundle.facts
    try:
        tags = {} if facts.run_id is None else dict(tools.store.read_run(facts.run_id).tags)
    except KbuildError:
        tags = {}  # of a run that another server has: the model itself is here
    logged = datetime.datetime.fromtimestamp(facts.created, datetime.UTC)
    return {
        "model": facts.uri or str(reference),
        "name": facts.name,
        "model_digest": str(bundle.digest),
        "run": facts.run_id,
        "logged": logged.isoformat(timespec="seconds"),
        "python": facts.python_version,
        "mlflow": facts.mlflow_version,
        "flavors": list(facts.flavors),
        "size": bundle.size,
        "files": len(bundle.files),
        "signature": facts.signature,
        "tags": {key: value for key, value in tags.items() if key.startswith("kbuild.")},
    }
