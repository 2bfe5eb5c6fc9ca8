"""What the plan that an image names is made again from, the model, lock and base; and the plans that may have been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kbuild._version import __version__
from kbuild.audit.lockview import LockView
from kbuild.digest import Digest
from kbuild.environment.lockfile import LockedPackage, Lockfile, parse_lockfile
from kbuild.errors import ImageNotFound
from kbuild.image.base.choice import base_name
from kbuild.image.base.records import BaseRecords
from kbuild.image.engine import BuiltImage
from kbuild.image.oci import layout as layouts
from kbuild.image.oci.media import LAYERS
from kbuild.image.packages.environment import environment_recipe
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.image.slim.packages import keep_groups
from kbuild.image.store.pack import packing
from kbuild.model.bundle import ModelBundle
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.make import Ingredients, make_plan
from kbuild.plan.render import Template
from kbuild.plan.runtime import runtime_digest
from kbuild.plan.split import PackageGroup
from kbuild.progress import Progress
from kbuild.verify.rebuild import Claims
from kbuild.workflow import Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """What the plan is made again from: None is not at hand. ``tags`` are those of the model's run."""

    bundle: ModelBundle | None
    lock: LockView | None
    tags: Mapping[str, str]
    template: Template
    labels: Mapping[str, str]


class NotAtHand(Exception):
    """Why the plan cannot be made again here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """What the plan is made from; ``other_base`` says that the image names another base than its model's record."""

    bundle: ModelBundle
    lockfile: Lockfile
    base: ResolvedBase
    other_base: str | None
    template: Template
    labels: Mapping[str, str]


def gather(claims: Claims, image: BuiltImage, sources: Sources, tools: Tools, progress: Progress) -> Making:
    """Raises NotAtHand, and what reading the lock and the record of the base raise."""
    labels = _labels(image)
    version = labels.get("io.kbuild.version")
    if version != __version__:
        raise NotAtHand(f"kbuild {version or 'of an unknown version'} built it, this is {__version__}")
    if sources.bundle is None or str(sources.bundle.digest) != claims.model_digest:
        raise NotAtHand(f"the model that it names ({claims.model_digest}) is not at hand")
    if sources.lock is None or not sources.lock.is_named(claims.lock_digest):
        raise NotAtHand(f"the lock that it names ({claims.lock_digest}) is not at hand")
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
    base = base or claimed_base(claims.base, stated, labels)
    return Making(
        bundle=sources.bundle,
        lockfile=lockfile,
        base=base,
        other_base=told,
        template=sources.template,
        labels=sources.labels,
    )


def claimed_base(name: str, digest: str, labels: Mapping[str, str]) -> ResolvedBase:
    """The base as the image itself tells of it."""
    try:
        parsed = Digest.parse(digest)
    except ValueError as error:
        raise NotAtHand(f"its label io.kbuild.base.digest is not a digest: {digest!r}") from error
    unsigned = labels.get("io.kbuild.base.unsigned") == "true"
    if "org.opencontainers.image.base.digest" not in labels:
        return ResolvedBase(kind="debs", name=name, digest=parsed, unsigned=unsigned)
    if name.startswith("oci:"):
        return ResolvedBase(kind="layout", name=name, digest=parsed)
    return ResolvedBase(
        kind="registry", name=name, digest=parsed, reference=f"{name.partition('@')[0]}@{digest}", unsigned=unsigned
    )


def find_groups(lockfile: Lockfile, claims: Claims, tools: Tools) -> tuple[tuple[PackageGroup, ...], str | None]:
    """The packages of each layer, or why they are not known here."""

    def no_download() -> Mapping[LockedPackage, Path]:
        raise ImageNotFound("how its packages are split into layers is not known here")

    wheels = lockfile.wheels_for(claims.platform)
    try:
        return keep_groups(split_wheels(wheels, cache=tools.cache, download=no_download), claims.left_out), None
    except ImageNotFound as error:
        return (), error.message


def possible_plans(making: Making, claims: Claims, groups: tuple[PackageGroup, ...], python: str) -> list[BuildPlan]:
    """The plan by the labels that count, then those that may have been built here: by others, and packed otherwise."""
    ingredients = Ingredients(
        bundle=making.bundle,
        lockfile=making.lockfile,
        base=making.base,
        platform=claims.platform,
        runtime=runtime_digest(),
        recipe=str(environment_recipe(python, claims.platform)),
    )
    stated = [
        make_plan(
            ingredients,
            groups,
            making.template,
            packed_by=packing(claims.compression),
            labels=labels,
            left_out=claims.left_out,
        )
        for labels in _unique(dict(making.labels), dict(claims.labels), {})
    ]
    # How it is packed is seen at one layer, which may not be the plan's.
    return [*stated, *(replace(plan, packed_by=packing(other)) for plan in stated for other in LAYERS)]


def _unique(*tables: dict[str, str]) -> list[dict[str, str]]:
    return [table for number, table in enumerate(tables) if table not in tables[:number]]


def _labels(image: BuiltImage) -> dict[str, str]:
    config = layouts.read_json_blob(image.layout, image.config_digest)
    labels = (config.get("config") or {}).get("Labels") or {}
    return {str(key): str(value) for key, value in labels.items()}
