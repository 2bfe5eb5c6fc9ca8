"""What an image must be by its plan, made again here, and by what this machine built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kbuild.audit.image_layers import ImageLayer
from kbuild.audit.planned import Planned, PlannedLayer
from kbuild.cache.scratch import work_folder
from kbuild.digest import digest_json
from kbuild.errors import InvalidImage, KbuildError
from kbuild.image.compare.contents import ReadLayer
from kbuild.image.engine import ENGINES, BuiltImage, PackedBlob, PackedLayers, make_engine
from kbuild.image.engines.native import copies_plan
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.image_config import make_config
from kbuild.image.packages.environment import PREFIX
from kbuild.image.packages.wheels import WheelTarget
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.image.store.local import LocalImages
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.context import finish_context
from kbuild.progress import Progress, Silent
from kbuild.verify.rebuild import Claims, read_claims
from kbuild.workflow import Tools
from kbuild.workflow.audit.recorded import recorded_digests
from kbuild.workflow.audit.replanning import Making, NotAtHand, Sources, find_groups, gather, possible_plans
from kbuild.workflow.audit.wheels import prove_wheels

_COPY = re.compile(r"COPY (?:--\S+ )*(\S+)/ /")


def find_planned(
    image: BuiltImage,
    layers: tuple[ImageLayer, ...],
    sources: Sources,
    tools: Tools,
    progress: Progress,
    *,
    read: ReadLayer,
) -> Planned:
    """What the image must be. What cannot be told here is told as fault; nothing is downloaded for it."""
    recorded, rebuilt = recorded_digests(sources.tags, image, tools)
    nothing = Planned(recorded=recorded, rebuilt=rebuilt)
    try:
        claims = read_claims(image, model="model")
        making = gather(claims, image, sources, tools, progress)
        if claims.platform not in making.lockfile.platforms:
            there = ", ".join(map(str, making.lockfile.platforms))
            told = f"it says that it is for {claims.platform}, its lock is for {there}"
            return replace(nothing, other_platform=told, fault="no plan is for its platform")
        # Who builds may set labels of their own, which no model tells: those of an image that the run names are so.
        given = not recorded or str(image.digest) in recorded.values()
        making = replace(making, labels=dict(claims.labels) if given else making.labels)
        planned = _compare_with(making, claims, layers, tools, read)
        return replace(planned, recorded=recorded, rebuilt=rebuilt)
    except (NotAtHand, InvalidImage) as error:
        return replace(nothing, fault=str(getattr(error, "message", error)))
    except KbuildError as error:
        return replace(nothing, fault=f"its plan cannot be made again: {error.message}")


def _compare_with(
    making: Making, claims: Claims, layers: tuple[ImageLayer, ...], tools: Tools, read: ReadLayer
) -> Planned:
    locked = making.lockfile.for_platform(claims.platform)
    python = next((package.version for package in locked if package.name == "python"), "")
    groups, fault = find_groups(making.lockfile, claims, tools)
    plans = possible_plans(making, claims, groups, python)
    known = ((plan, found) for plan in plans if (found := _built(plan, tools)) is not None)
    plan, built = (plans[0], None) if fault else next(known, (plans[0], None))
    copies = copies_plan(plan)
    whole = copies and making.base.kind == "debs"
    planned: tuple[PlannedLayer, ...] | None = None
    if built is not None:
        planned = tuple(_of_image(built, layers, read))
    elif fault is None and whole:
        cache = LayerCache(root=tools.cache / "layers", compression=claims.compression)
        planned = tuple(_of_cache(plan, cache, layers, read))
    else:
        fault = fault or "this machine has not built it"
    if built is not None and not whole:
        config: Mapping[str, Any] | None = layouts.read_json_blob(built.layout, built.config_digest)
        whole = True
    else:
        config = _config(plan, making.base, tools) if copies else None
    if planned is not None:
        target = WheelTarget(python=python, platform=claims.platform, prefix=PREFIX)
        planned, fault = prove_wheels(planned, groups, layers, target, cache=tools.cache)
    return Planned(
        config=config,
        partial=not whole,
        annotations=dict(plan.annotations),
        layers=planned,
        fault=fault,
        other_base=making.other_base,
        base_packages={each.name: each.version for each in making.base.packages},
    )


def _built(plan: BuildPlan, tools: Tools) -> BuiltImage | None:
    """The image that this machine built from the plan, by whichever engine."""
    images = LocalImages(tools.cache / "images")
    keys = (digest_json([str(plan.digest), engine]) for engine in ("auto", *ENGINES))
    return next((image for key in keys if (image := images.by_plan(key)) is not None), None)


def _of_image(built: BuiltImage, layers: tuple[ImageLayer, ...], read: ReadLayer) -> Iterator[PlannedLayer]:
    here = {layer.diff_id for layer in layers}
    descriptors = layouts.read_manifest(built.layout, built.digest).layers
    for number, (layer, descriptor) in enumerate(zip(built.layers, descriptors, strict=True)):
        match = _COPY.fullmatch(layer.created_by)
        name = match[1] if match else f"{number} (of the base)"
        members = None
        if layer.diff_id not in here:
            blob = layouts.blob_path(built.layout, descriptor.digest)
            found, members = read(blob, descriptor.digest, descriptor.media_type)
            members = members if found == layer.diff_id else None
        yield PlannedLayer(name=name, diff_id=layer.diff_id, members=members)


def _of_cache(
    plan: BuildPlan,
    cache: LayerCache,
    layers: tuple[ImageLayer, ...],
    read: ReadLayer,
) -> Iterator[PlannedLayer]:
    # What the cache says of a blob's content is not taken for it.
    here = {layer.digest: layer.diff_id for layer in layers}
    keys = layer_keys(plan)
    for layer in plan.layers:
        blob = cache.get(keys[layer.source], look=True)
        if blob is None or blob.digest in here:
            yield PlannedLayer(name=layer.name, diff_id=None if blob is None else here[blob.digest])
        else:
            diff_id, members = read(blob.path, blob.digest, blob.media_type)
            yield PlannedLayer(name=layer.name, diff_id=diff_id, members=members)


def _config(plan: BuildPlan, base: ResolvedBase, tools: Tools) -> Mapping[str, Any]:
    """The image config as the native engine makes it of the plan's Dockerfile, on nothing."""
    nothing = {
        layer.source: PackedBlob(media_type="", digest=plan.digest, size=0, diff_id=plan.digest, path=tools.cache)
        for layer in plan.layers
    }
    with work_folder(tools.cache, "audit-") as folder:
        context = finish_context(folder, plan)
        engine = make_engine("native", tools.run)
        output = engine.build(
            context,
            replace(base, kind="debs"),
            workdir=folder,
            progress=Silent(),
            known=PackedLayers(keys=layer_keys(plan), packed=nothing),
        )
    return make_config(
        output.config,
        platform=plan.platform,
        created=plan.created,
        diff_ids=(),
        created_by=[layer.created_by for layer in output.layers],
    )
