"""The plan that an image names, made again from its model, lock and base, and what this machine built from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kbuild._version import __version__
from kbuild.audit.image_layers import ImageLayer
from kbuild.audit.lockview import LockView
from kbuild.audit.planned import Planned, PlannedLayer
from kbuild.cache.scratch import work_folder
from kbuild.digest import Digest, digest_json
from kbuild.environment.lockfile import LockedPackage, Lockfile, parse_lockfile
from kbuild.errors import ImageNotFound, InvalidImage, KbuildError
from kbuild.image.base.choice import base_name
from kbuild.image.base.records import BaseRecords
from kbuild.image.compare.contents import ReadLayer
from kbuild.image.engine import ENGINES, BuiltImage, PackedBlob, PackedLayers, make_engine
from kbuild.image.engines.native import copies_plan
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.image_config import make_config
from kbuild.image.oci.media import LAYERS
from kbuild.image.packages.environment import PREFIX, environment_recipe
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.image.packages.wheels import WheelTarget
from kbuild.image.slim.packages import keep_groups
from kbuild.image.store.layer_cache import LayerCache, layer_keys
from kbuild.image.store.local import LocalImages
from kbuild.image.store.pack import packing
from kbuild.model.bundle import ModelBundle
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.context import finish_context
from kbuild.plan.make import Ingredients, make_plan
from kbuild.plan.render import Template
from kbuild.plan.runtime import runtime_digest
from kbuild.plan.split import PackageGroup
from kbuild.progress import Progress, Silent
from kbuild.verify.rebuild import Claims, read_claims
from kbuild.workflow import Tools
from kbuild.workflow.audit.recorded import recorded_digests
from kbuild.workflow.audit.wheels import prove_wheels

_COPY = re.compile(r"COPY (?:--\S+ )*(\S+)/ /")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the plan is made again from: None is not at hand. ``tags`` are those of the model's run."""

    bundle: ModelBundle | None
    lock: LockView | None
    tags: Mapping[str, str]
    template: Template
    labels: Mapping[str, str]


class _NotAtHand(Exception):
    """Why the plan cannot be made again here."""


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
        making = _gather(claims, image, sources, tools, progress)
        if claims.platform not in making.lockfile.platforms:
            there = ", ".join(map(str, making.lockfile.platforms))
            told = f"it says that it is for {claims.platform}, its lock is for {there}"
            return replace(nothing, other_platform=told, fault="no plan is for its platform")
        # Who builds may set labels of their own, which no model tells: those of an image that the run names are so.
        given = not recorded or str(image.digest) in recorded.values()
        making = replace(making, labels=dict(claims.labels) if given else making.labels)
        planned = _compare_with(making, claims, image, layers, tools, read)
        return replace(planned, recorded=recorded, rebuilt=rebuilt)
    except (_NotAtHand, InvalidImage) as error:
        return replace(nothing, fault=str(getattr(error, "message", error)))
    except KbuildError as error:
        return replace(nothing, fault=f"its plan cannot be made again: {error.message}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Making:
    bundle: ModelBundle
    lockfile: Lockfile
    base: ResolvedBase
    other_base: str | None
    template: Template
    labels: Mapping[str, str]


def _gather(claims: Claims, image: BuiltImage, sources: Sources, tools: Tools, progress: Progress) -> _Making:
    labels = _labels(image)
    version = labels.get("io.kbuild.version")
    if version != __version__:
        raise _NotAtHand(f"kbuild {version or 'of an unknown version'} built it, this is {__version__}")
    if sources.bundle is None or str(sources.bundle.digest) != claims.model_digest:
        raise _NotAtHand(f"the model that it names ({claims.model_digest}) is not at hand")
    if sources.lock is None or not sources.lock.is_named(claims.lock_digest):
        raise _NotAtHand(f"the lock that it names ({claims.lock_digest}) is not at hand")
    lockfile = parse_lockfile(sources.lock.content, source="the lock")
    bases = (
        BaseRecords(store=tools.store, cache=tools.cache / "base-records")
        .read(sources.bundle, claims.platform, progress)
        .bases.values()
    )
    stated = labels.get("io.kbuild.base.digest", "")
    base = next((each for each in bases if str(each.digest) == stated), None)
    told = None
    if base is None:
        base = next((each for each in bases if base_name(each.name) == base_name(claims.base)), None)
        if base is not None:
            told = f"it says that its base {claims.base} is {stated}, the one recorded for the model is {base.digest}"
    base = base or _claimed_base(claims.base, stated, labels)
    return _Making(
        bundle=sources.bundle,
        lockfile=lockfile,
        base=base,
        other_base=told,
        template=sources.template,
        labels=sources.labels,
    )


def _claimed_base(name: str, digest: str, labels: Mapping[str, str]) -> ResolvedBase:
    """The base as the image itself tells of it."""
    try:
        parsed = Digest.parse(digest)
    except ValueError as error:
        raise _NotAtHand(f"its label io.kbuild.base.digest is not a digest: {digest!r}") from error
    unsigned = labels.get("io.kbuild.base.unsigned") == "true"
    if "org.opencontainers.image.base.digest" not in labels:
        return ResolvedBase(kind="debs", name=name, digest=parsed, unsigned=unsigned)
    if name.startswith("oci:"):
        return ResolvedBase(kind="layout", name=name, digest=parsed)
    return ResolvedBase(
        kind="registry", name=name, digest=parsed, reference=f"{name.partition('@')[0]}@{digest}", unsigned=unsigned
    )


def _compare_with(
    making: _Making,
    claims: Claims,
    image: BuiltImage,
    layers: tuple[ImageLayer, ...],
    tools: Tools,
    read: ReadLayer,
) -> Planned:
    def no_download() -> Mapping[LockedPackage, Path]:
        raise ImageNotFound("how its packages are split into layers is not known here")

    wheels = tuple(package for package in making.lockfile.for_platform(claims.platform) if package.manager == "pip")
    fault: str | None = None
    groups: tuple[PackageGroup, ...] = ()
    try:
        groups = keep_groups(split_wheels(wheels, cache=tools.cache, download=no_download), claims.left_out)
    except ImageNotFound as error:
        fault = error.message
    python = next((p.version for p in making.lockfile.for_platform(claims.platform) if p.name == "python"), "")
    ingredients = Ingredients(
        bundle=making.bundle,
        lockfile=making.lockfile,
        base=making.base,
        platform=claims.platform,
        runtime=runtime_digest(),
        recipe=str(environment_recipe(python, claims.platform)),
    )

    def plan_with(labels: Mapping[str, str]) -> BuildPlan:
        return make_plan(
            ingredients,
            groups,
            making.template,
            packed_by=packing(claims.compression),
            labels=labels,
            left_out=claims.left_out,
        )

    # So are those of a plan that was built here. How it is packed is seen at one layer, which may not be the plan's.
    stated = [plan_with(labels) for labels in _unique(dict(making.labels), dict(claims.labels), {})]
    plans = [*stated, *(replace(plan, packed_by=packing(other)) for plan in stated for other in LAYERS)]
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


def _unique(*tables: dict[str, str]) -> list[dict[str, str]]:
    return [table for number, table in enumerate(tables) if table not in tables[:number]]


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


def _labels(image: BuiltImage) -> dict[str, str]:
    config = layouts.read_json_blob(image.layout, image.config_digest)
    labels = (config.get("config") or {}).get("Labels") or {}
    return {str(key): str(value) for key, value in labels.items()}
