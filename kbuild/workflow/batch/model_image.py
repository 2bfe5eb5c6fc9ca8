"""A model's files as an image of their own: for servers that are not kbuild's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kbuild.digest import Digest, digest_json
from kbuild.errors import BaseImageError
from kbuild.image.base.choice import parse_base
from kbuild.image.base.resolve import resolve_base
from kbuild.image.deliver.naming import name_values
from kbuild.image.engine import BuiltImage, PackedLayers
from kbuild.image.engines.native import NativeEngine
from kbuild.image.oci.compress import check_compressor
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.media import Compression
from kbuild.image.store.image_index import BuiltIndex
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import pack, packing
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.context import finish_context, stage_files
from kbuild.plan.model_only import EMPTY_BASE, MODELS_PATH, make_model_plan
from kbuild.plan.split import split_model
from kbuild.platform import Platform, host_platform
from kbuild.progress import how_many
from kbuild.workflow.build import fetch_pinned, working_folder
from kbuild.workflow.delivery import Delivery
from kbuild.workflow.stopping import stopping_at_signals
from kbuild.workflow.tools import Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelImageRequest:
    """What is wanted; ``base`` None is nothing at all. The files are the same for every platform."""

    model: str
    platforms: tuple[Platform, ...]
    base: str | None
    labels: tuple[tuple[str, str], ...]
    compression: Compression


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelImage:
    """``reference`` is ``name@sha256:…``, of the index where there are several platforms, as ``layout`` is; ``size`` in
    bytes is that of ``image``."""

    image: BuiltImage
    index: BuiltIndex | None
    reference: str
    layout: Path
    model_digest: Digest
    pushed: str | None

    @property
    def digest(self) -> Digest:
        """The digest in ``reference``."""
        return self.image.digest if self.index is None else self.index.digest


def build_model_image(
    request: ModelImageRequest, delivery: Delivery, tools: Tools, *, reuse: bool = True
) -> ModelImage:
    """Build an image with the model's files in ``/models`` and nothing that runs, and deliver it.

    The model's run is not told: its tags name the image that serves. Raises what fetching the model, finding the base
    and delivering raise, and InvalidModel for credentials in the model.
    """
    check_compressor(request.compression)
    images = LocalImages(tools.cache / "images")
    with stopping_at_signals(tools) as tools, working_folder(tools) as workdir:
        reference, bundle = fetch_pinned(request.model, tools, workdir, reuse=reuse)
        reference = delivery.numbered(reference, bundle, tools)
        built: dict[Platform, BuiltImage] = {}
        for platform in request.platforms:
            base = _base(request.base, platform, tools)
            plan = make_model_plan(
                bundle, base, platform, packed_by=packing(request.compression), labels=dict(request.labels)
            )
            key = digest_json([str(plan.digest), "model"])
            image = images.by_plan(key) if reuse else None
            if image is None:
                folder = workdir / platform.conda_subdir
                image = _build(plan, base, bundle, images, tools, folder, request.compression, reuse=reuse)
                images.record_plan(key, image)
            built[platform] = image
        return _deliver(bundle, reference, built, plan.from_line, delivery, images, tools)


def _base(name: str | None, platform: Platform, tools: Tools) -> ResolvedBase:
    if name is None:
        return EMPTY_BASE
    choice = parse_base(name)
    if choice.suite is not None:
        raise BaseImageError(
            f"an assembled base has no program that a model's files would need: --base {name}",
            hint="leave --base out, or name an image that has what your server starts in it, such as a shell",
        )
    with tools.phases("base") as progress:
        return resolve_base(choice, platform, cache=tools.cache, run=tools.run, progress=progress)


def _build(
    plan: BuildPlan,
    base: ResolvedBase,
    bundle: ModelBundle,
    images: LocalImages,
    tools: Tools,
    folder: Path,
    compression: Compression,
    *,
    reuse: bool,
) -> BuiltImage:
    cache = LayerCache(root=tools.cache / "layers", compression=compression)
    keys = layer_keys(plan)
    packed = {source: blob for source, key in keys.items() if reuse and (blob := cache.get(key)) is not None}
    engine = NativeEngine(tools.run)
    with tools.phases("build") as progress:
        for name, files in split_model(bundle).items():
            if name not in packed:
                # Never moved: the next platform's image has the same files.
                stage_files(bundle, files, folder / name, move=False, path=MODELS_PATH)
        context = finish_context(folder, plan)
        known = PackedLayers(keys=keys, packed=packed)
        output = engine.build(context, base, workdir=folder, progress=progress, known=known)

        def write(layout: Path) -> BuiltImage:
            return pack(
                output, plan, layout, engine=engine.name, progress=progress, compression=compression, cache=cache
            )

        built = images.add(write)
        progress.made(f"{how_many(len(built.layers), 'layer')}, {built.size / 1e6:.1f} MB")
        return built


def _deliver(
    bundle: ModelBundle,
    reference: ModelReference,
    built: Mapping[Platform, BuiltImage],
    base: str,
    delivery: Delivery,
    images: LocalImages,
    tools: Tools,
) -> ModelImage:
    values = name_values(bundle, reference)
    push, tag = delivery.names(values)
    image = built[host_platform() if host_platform() in built else min(built)]
    index = images.add_index(built) if len(built) > 1 else None
    whole = image if index is None else index
    # Not the name of the image that serves it, which people have.
    name = tag or push or ImageReference.parse(f"{values['name'] or 'model'}-files")
    images.name(whole, name)
    if delivery.output is not None or delivery.load or push is not None:
        from kbuild.workflow.publishing import publish  # requests and Docker's SDK

        publish(image, name, index=index, output=delivery.output, load=delivery.load, push=push, base=base, tools=tools)
    written = delivery.output if delivery.output is not None and delivery.output.is_dir() else whole.layout
    return ModelImage(
        image=image,
        index=index,
        reference=name.with_digest(whole.digest).familiar,
        layout=written.absolute(),
        model_digest=bundle.digest,
        pushed=None if push is None else push.with_digest(whole.digest).familiar,
    )
