"""What an image is made from: the model, its lock, the base and the plan, each found or made in this order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.version import Version

from kbuild.digest import digest_json
from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.locking.lock_model import Locked
from kbuild.environment.locking.wanted import LockRequest
from kbuild.environment.target import Target
from kbuild.image.base.choice import Assembling, base_name, default_base, parse_base
from kbuild.image.base.look import check_libc, look_into
from kbuild.image.base.records import BaseRecords, Recorded
from kbuild.image.base.resolve import resolve_base
from kbuild.image.engine import EngineSettings
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.media import Compression
from kbuild.image.packages.environment import Environment, environment_recipe
from kbuild.image.packages.meanwhile import interpreter_meanwhile
from kbuild.image.packages.staging import Stage
from kbuild.image.packages.wheel_facts import split_wheels
from kbuild.image.slim.packages import keep_groups
from kbuild.image.store.pack import DEFAULT_COMPRESSION, packing
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference
from kbuild.plan.base import BaseFacts, ResolvedBase
from kbuild.plan.build_plan import BuildPlan
from kbuild.plan.left_out import NOTHING, LeftOut
from kbuild.plan.make import Ingredients, make_plan
from kbuild.plan.render import Template
from kbuild.plan.runtime import runtime_digest
from kbuild.plan.split import PackageGroup
from kbuild.platform import Platform
from kbuild.workflow.base_check import check_base
from kbuild.workflow.large import tell_large
from kbuild.workflow.slimming import Slimming, find_left_out
from kbuild.workflow.template_check import check_template
from kbuild.workflow.tools import Tools, bring_split


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """What image is wanted. ``base`` None is the default base; ``engine`` is auto, native or buildkit.

    ``slim`` leaves out what the model is measured not to need, ``left_out`` exactly this.
    ``builder`` and ``network`` are BuildKit's, see EngineSettings. ``cache_from`` names layers that builders share.
    """

    model: str
    lock: LockRequest
    engine: str = "auto"
    base: str | None = None
    assembling: Assembling = Assembling()  # noqa: RUF009  frozen
    template: Template = field(default_factory=Template)
    labels: tuple[tuple[str, str], ...] = ()
    compression: Compression = DEFAULT_COMPRESSION
    builder: str | None = None
    slim: bool = False
    left_out: LeftOut = NOTHING
    network: str | None = None
    cache_from: ImageReference | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenBase:
    """The base of one platform's image, and what earlier builds of the model used."""

    base: ResolvedBase
    facts: BaseFacts
    earlier: Recorded

    @property
    def is_new(self) -> bool:
        """Whether the model was never built on exactly this."""
        return self.earlier.bases.get(self.base.name) != replace(self.base, path=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Everything that determines one platform's image, and what its layers are staged from."""

    bundle: ModelBundle
    locked: Locked
    chosen: ChosenBase
    plan: BuildPlan
    platform: Platform
    stage: Stage
    request: ImageRequest
    settings: EngineSettings

    @property
    def base(self) -> ResolvedBase:
        """What the image stands on."""
        return self.chosen.base

    def check_base(self) -> None:
        """Raises BaseImageError where the base lacks what packages of the lock ask for."""
        packages = self.locked.lockfile.for_platform(self.platform)
        check_base(self.base, self.stage.environment.wheels_glibc, packages, self.platform)

    def record_base(self, tools: Tools) -> None:
        """Have later builds stand on the same base. Once it is built on: what failed is none to build on next time."""
        with tools.phases("record") as progress:
            _records(tools).write(self.bundle, self.platform, self.chosen.earlier, self.base, progress)


def prepare(
    request: ImageRequest,
    bundle: ModelBundle,
    locked: Locked,
    platform: Platform,
    tools: Tools,
    workdir: Path,
) -> Prepared:
    """The plan of one platform's image; raises what finding the base, slimming and the lock's packages raise."""
    packages = locked.lockfile.for_platform(platform)
    environment = Environment(locked.lockfile, platform, cache=tools.cache, run=tools.run)

    # What lays out the interpreter meanwhile does not know that another builder packed it.
    meanwhile = interpreter_meanwhile(environment, tools.cache / "downloads", tools.shared.leading)
    with meanwhile if request.cache_from is None else nullcontext():
        chosen = _base(request, bundle, platform, tools)
        base = chosen.base
        if chosen.is_new:
            check_base(base, environment.wheels_glibc, packages, platform)

        def download() -> dict[LockedPackage, Path]:
            # Before anything large is fetched for nothing.
            check_base(base, environment.wheels_glibc, packages, platform)
            return download_packages(locked, packages, tools)

        ingredients = Ingredients(
            bundle=bundle,
            lockfile=locked.lockfile,
            base=base,
            platform=platform,
            runtime=runtime_digest(),
            recipe=str(environment_recipe(locked.spec.python, platform)),
        )
        template, contexts = request.template, dict[str, str]()
        if template.install_base is not None:
            from kbuild.image.engines.install_context import place_install_base

            template, contexts = place_install_base(template, platform)

        def plan_with(groups: Sequence[PackageGroup], left_out: LeftOut) -> BuildPlan:
            return make_plan(
                ingredients,
                groups,
                template,
                packed_by=packing(request.compression),
                labels=dict(request.labels),
                left_out=left_out,
            )

        if template.file is not None:
            # Which packages share a layer is known from their files: what the template itself says is looked at before.
            check_template(plan_with((), NOTHING), base, chosen.facts)
        wheels = locked.lockfile.wheels_for(platform)
        with tools.shared.leading([f"download {locked.lockfile.digest}"]):
            bring_split(request.cache_from, wheels, tools)
            groups = split_wheels(wheels, cache=tools.cache, download=download)
    tell_large(wheels, tools)
    left_out = request.left_out
    if request.slim:
        slimming = Slimming(ingredients=ingredients, spec=locked.spec, environment=environment, groups=groups)
        left_out = find_left_out(slimming, tools, workdir, download)
    groups = keep_groups(groups, left_out)
    owned = bundle.root.is_relative_to(workdir)
    stage = Stage(bundle=bundle, owned=owned, base=base, environment=environment, groups=groups)
    return Prepared(
        bundle=bundle,
        locked=locked,
        chosen=chosen,
        plan=plan_with(groups, left_out),
        platform=platform,
        stage=stage,
        request=request,
        settings=EngineSettings(builder=request.builder, network=request.network, contexts=contexts),
    )


_ORIGINS = {
    "resolved": "made now",
    "cached": "made here before",
    "stored with the run": "stored with the run",
    "given": "from the file that was given",
}


def fetch_model(model: str, tools: Tools, workdir: Path, *, reuse: bool = True) -> ModelBundle:
    """The files of a model, its own where they lie on this machine, else below ``workdir``.

    With ``reuse`` the server is not asked again for files that it never changes.
    """
    reference = ModelReference.parse(model)
    with tools.phases("fetch") as progress:
        progress.note(f"fetching {reference}")
        bundle = tools.store.fetch(reference, workdir / "model", kept=reuse)
        progress.made(f"{reference.short}, trained with Python {bundle.facts.python_version}")
        return bundle


def lock_environment(bundle: ModelBundle, request: ImageRequest, tools: Tools, *, force: bool = False) -> Locked:
    """A model's lock for the base asked for, made once for all models of this process that ask for the same."""
    target = _target(request, bundle, tools)
    lock = replace(request.lock, target=target)
    facts = bundle.facts
    made_from = digest_json([facts.conda_env, facts.constraints, facts.python_version, target.glibc])
    with (
        tools.shared.leading([f"lock {made_from}"]) as first,
        # One channel takes the captured interpreters of all.
        tools.shared.alone("resolve") if first else nullcontext(),
        tools.phases("lock") as progress,
    ):
        locked = tools.lock(bundle, lock, progress, force=force)
        progress.made(f"{len(locked.lockfile.packages)} packages, {_ORIGINS[locked.origin]}")
        return locked


def _target(request: ImageRequest, bundle: ModelBundle, tools: Tools) -> Target:
    """The C library that wheels are chosen for: of the base asked for, else of the default one.

    Raises what finding a base raises that is no suite, whose C library is known.
    """
    choice = default_base() if request.base is None else parse_base(request.base)
    if choice.suite is not None:
        return Target(base=choice.name, glibc=choice.suite.glibc, chosen=request.base is not None)
    bases = [_base(request, bundle, platform, tools).base for platform in request.lock.platforms]
    known = [base.glibc for base in bases if base.glibc is not None]
    return Target(base=choice.name, glibc=min(known, key=Version), chosen=True) if known else Target(base=choice.name)


def _records(tools: Tools) -> BaseRecords:
    return BaseRecords(store=tools.store, cache=tools.cache / "base-records")


def _base(request: ImageRequest, bundle: ModelBundle, platform: Platform, tools: Tools) -> ChosenBase:
    """The base asked for; where nobody asks, the one this model was first built on, and at first the default."""
    with tools.phases("base") as progress:
        recorded = _records(tools).read(bundle, platform, progress)
        name = request.base or recorded.first
        choice = default_base() if name is None else parse_base(name)
        earlier = next((each for name, each in recorded.bases.items() if base_name(name) == choice.name), None)

        def resolve() -> ResolvedBase:
            # Other records of one name can mean one image, which two would then write to one place.
            with tools.shared.alone("base"):
                return resolve_base(
                    choice,
                    platform,
                    recorded=earlier,
                    locked=request.lock.locked,
                    assembling=request.assembling,
                    cache=tools.cache,
                    run=tools.run,
                    progress=progress,
                )

        known = f"base {choice.name} {platform} {None if earlier is None else earlier.digest}"
        base = tools.shared.once(known, resolve)
        facts = tools.shared.once(
            f"look {base.digest} {platform}", lambda: look_into(base, platform, cache=tools.cache)
        )
        progress.made(choice.name)
        return ChosenBase(base=check_libc(base, facts), facts=facts, earlier=recorded)


def download_packages(locked: Locked, packages: Iterable[LockedPackage], tools: Tools) -> dict[LockedPackage, Path]:
    """The file of each package, verified against its locked digest."""
    from kbuild.environment.index.download import fetch_packages

    def channels() -> list[str]:
        from kbuild.environment.condalock.channels import channel_urls

        return channel_urls(locked.spec.channels, locked.environ)

    with tools.phases("download") as progress:
        files = fetch_packages(
            packages,
            cache=tools.cache / "downloads",
            channel=locked.channel,
            progress=progress,
            environ=locked.environ,
            indexes=locked.indexes,
            channels=channels,
        )
        if tools.shared.is_news(f"downloaded {locked.lockfile.digest}", files):
            size = sum(path.stat().st_size for path in files.values())
            progress.made(f"{len(files)} packages, {size / 1e6:.0f} MB")
        return files
