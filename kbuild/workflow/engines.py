"""Staging what a plan copies, and building it with an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild.digest import Digest, digest_json
from kbuild.errors import UnsupportedInstruction
from kbuild.image.deliver.sharing import shared_keys
from kbuild.image.engine import NOTHING_PACKED, BuiltImage, Engine, EngineName, PackedLayers, make_engine
from kbuild.image.engines.native import copies_plan
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.packages.staging import complete, needed_layers
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import pack
from kbuild.plan.build_plan import BuildContext
from kbuild.plan.context import finish_context
from kbuild.plan.render import installs_in_container
from kbuild.progress import Progress, how_many
from kbuild.workflow.prepare import Prepared, download_packages
from kbuild.workflow.tools import Tools


def find_built(prepared: Prepared, images: LocalImages) -> BuiltImage | None:
    """The image that this machine built from the same plan, with the same engine and compression."""
    return images.by_plan(_key(prepared))


def build(prepared: Prepared, images: LocalImages, tools: Tools, workdir: Path, *, reuse: bool) -> BuiltImage:
    """Build the image of one platform, with ``reuse`` from layers that are there; found by its plan from then on."""
    folder = workdir / prepared.platform.conda_subdir
    folder.mkdir()
    image = _build(prepared, images, tools, folder, reuse=reuse)
    images.record_plan(_key(prepared), image)
    return image


def _key(prepared: Prepared) -> Digest:
    return digest_json([str(prepared.plan.digest), prepared.request.engine])


def stage_layers(prepared: Prepared, tools: Tools, folder: Path, names: Sequence[str]) -> BuildContext:
    """The context with these layers; their directories may lie in the cache."""
    packages = prepared.stage.packages(names)
    downloads = download_packages(prepared.locked, packages, tools) if packages else {}
    with tools.phases("stage") as progress:
        trees = prepared.stage.lay(names, downloads, into=folder, progress=progress)
        progress.made(f"{how_many(len(downloads), 'package')} laid out" if downloads else how_many(len(names), "layer"))
        return finish_context(folder, prepared.plan, trees)


def whole_context(prepared: Prepared, tools: Tools, folder: Path) -> BuildContext:
    """Everything that the Dockerfile copies, in one folder."""
    plan, stage = prepared.plan, prepared.stage
    if not installs_in_container(plan.dockerfile):
        with tools.shared.leading([f"stage {prepared.locked.lockfile.digest}"]):
            return complete(stage_layers(prepared, tools, folder, [layer.name for layer in plan.layers]))
    from kbuild.image.engines.install_context import context_sources, write_install_context

    sources = context_sources(plan.dockerfile)
    layers = [layer for layer in plan.layers if layer.source in sources]
    context = stage_layers(prepared, tools, folder, [layer.name for layer in layers])
    write_install_context(
        prepared.locked, prepared.platform, stage.groups, stage.bundle, owned=stage.owned, into=folder
    )
    return complete(context, layers)


def give_layers(place: ImageReference, prepared: Prepared, tools: Tools, *, built: bool) -> None:
    """Have other builders find there what this one's image is made of; ``built`` says that it was built just now."""
    wheels = prepared.locked.lockfile.wheels_for(prepared.platform)
    layers = LayerCache(root=tools.cache / "layers", compression=prepared.request.compression)
    with tools.phases("cache") as progress:
        tools.sharing(place, "give").give(prepared.plan, wheels, layers, progress, built=built)


def _build(prepared: Prepared, images: LocalImages, tools: Tools, workdir: Path, *, reuse: bool) -> BuiltImage:
    """Build with the engine asked for; ``auto`` is native, and buildkit for what native cannot execute."""
    engine = prepared.request.engine
    if engine in ("auto", "native") and not installs_in_container(prepared.plan.dockerfile):
        try:
            return _build_native(prepared, images, tools, workdir, reuse=reuse)
        except UnsupportedInstruction as error:
            if engine == "native":
                raise
            with tools.phases("build") as progress:
                progress.tell(f"{error.message}; building with buildkit instead")
    if engine == "native":
        raise UnsupportedInstruction("the native engine has no stage to install packages in")
    building = _Building.by("buildkit", prepared, images, tools)
    probed = building.engine.probe()  # before the work that would be for nothing
    context = whole_context(prepared, tools, workdir / "whole")
    with tools.phases("build") as progress:
        if prepared.request.cache_from is not None:
            progress.tell(f"{prepared.request.cache_from.name} is not asked for layers: buildkit makes each of them")
        progress.note(f"buildkit engine: {probed}")
        return building.build(context, workdir, progress)


def _build_native(prepared: Prepared, images: LocalImages, tools: Tools, workdir: Path, *, reuse: bool) -> BuiltImage:
    """What earlier builds packed is taken, where the Dockerfile's layers follow from the plan."""
    plan = prepared.plan
    building = _Building.by("native", prepared, images, tools)
    keys = layer_keys(plan) if copies_plan(plan) else {}
    with tools.shared.leading(f"layer {key} {prepared.request.compression}" for key in keys.values()):
        found = {source: building.cache.get(key) for source, key in keys.items()} if reuse else {}
        packed = {source: blob for source, blob in found.items() if blob is not None}
        missing = {source: key for source, key in shared_keys(plan).items() if source not in packed}
        place = prepared.request.cache_from
        if reuse and missing and place is not None:
            with tools.phases("cache") as progress:
                packed |= tools.sharing(place, "take").bring(missing, building.cache, progress)
        known = PackedLayers(keys=keys, packed=packed)
        context = stage_layers(prepared, tools, workdir / "context", needed_layers(plan, known.packed))
        with tools.phases("build") as progress:
            if known.packed:
                progress.note(f"{len(known.packed)} of {len(plan.layers)} layers are there already")
            progress.note(f"native engine: {building.engine.probe()}")
            return building.build(context, workdir, progress, known)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Building:
    """What one build is done with: its engine, made once, and where what it makes is kept."""

    engine: Engine
    prepared: Prepared
    images: LocalImages
    cache: LayerCache

    @staticmethod
    def by(name: EngineName, prepared: Prepared, images: LocalImages, tools: Tools) -> _Building:
        settings = prepared.settings
        if installs_in_container(prepared.plan.dockerfile):
            from kbuild.image.engines.install_context import install_secrets

            settings = replace(settings, secrets=install_secrets(prepared.locked, prepared.platform))
        engine = make_engine(name, tools.run, settings)
        cache = LayerCache(root=tools.cache / "layers", compression=prepared.request.compression)
        return _Building(engine=engine, prepared=prepared, images=images, cache=cache)

    def build(
        self, context: BuildContext, workdir: Path, progress: Progress, known: PackedLayers = NOTHING_PACKED
    ) -> BuiltImage:
        """Execute the context's Dockerfile, and keep the image among the local ones."""
        scratch = workdir / self.engine.name
        scratch.mkdir()
        output = self.engine.build(context, self.prepared.base, workdir=scratch, progress=progress, known=known)

        def write(layout: Path) -> BuiltImage:
            return pack(
                output,
                context.plan,
                layout,
                engine=self.engine.name,
                progress=progress,
                compression=self.cache.compression,
                cache=self.cache,
            )

        built = self.images.add(write)
        progress.made(
            f"{how_many(len(built.layers), 'layer')}, {built.size / 1e6:.0f} MB, by the {self.engine.name} engine"
        )
        return built
