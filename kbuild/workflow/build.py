"""From a model's name to a built image.

What only some builds need is imported where it is needed: most builds find nearly everything made already.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from packaging.version import Version

from kbuild.digest import digest_json
from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.locking import Locked, LockRequest, lock_bundle, write_lockfile
from kbuild.errors import BaseImageError, OutputError, PlatformError, UnsupportedInstruction
from kbuild.image.bases.choice import default_base, parse_base
from kbuild.image.bases.records import BaseRecords
from kbuild.image.bases.resolve import resolve_base
from kbuild.image.cache import keep_within, using_cache
from kbuild.image.engine import NOTHING_KNOWN, BuiltImage, EngineName, EngineSettings, KnownLayers, make_engine
from kbuild.image.layer_cache import LayerCache, layer_keys
from kbuild.image.local import LocalImages
from kbuild.image.native import copies_plan
from kbuild.image.oci.media import Compression
from kbuild.image.pack import DEFAULT_COMPRESSION, pack, packing
from kbuild.image.rootfs import Environment, environment_recipe
from kbuild.image.slim import keep_groups
from kbuild.image.staging import Stage, complete, needed_layers
from kbuild.image.wheel_facts import split_wheels
from kbuild.model.bundle import ModelBundle
from kbuild.model.reference import ModelReference
from kbuild.plan.base import ResolvedBase
from kbuild.plan.context import finish_context
from kbuild.plan.make import make_plan
from kbuild.plan.plan import BuildContext, BuildPlan
from kbuild.plan.render import Template, installs_in_container
from kbuild.plan.runtime import runtime_digest
from kbuild.platform import Platform, host_platform
from kbuild.progress import Progress
from kbuild.workflow.delivery import Delivery, ImageResult, deliver
from kbuild.workflow.slim import Slimming, find_left_out
from kbuild.workflow.tools import Tools


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """What image is wanted. ``base`` None is the default base; ``engine`` is auto, native or buildkit.

    ``slim`` leaves out what the model is measured not to need, ``left_out`` the packages of exactly these names.
    ``builder`` and ``network`` are BuildKit's, see EngineSettings.
    """

    model: str
    lock: LockRequest
    engine: str = "auto"
    base: str | None = None
    debian_mirror: str | None = None
    template: Template = field(default_factory=Template)
    labels: tuple[tuple[str, str], ...] = ()
    compression: Compression = DEFAULT_COMPRESSION
    builder: str | None = None
    slim: bool = False
    left_out: tuple[str, ...] = ()
    network: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    bundle: ModelBundle
    locked: Locked
    base: ResolvedBase
    plan: BuildPlan
    platform: Platform
    stage: Stage
    compression: Compression
    settings: EngineSettings


def lock_model(model: str, request: LockRequest, tools: Tools, *, output: Path | None, force: bool = False) -> Locked:
    """Lock a model's environment, store the lock with its run and, when ``output`` is given, write it there."""
    with _workdir(tools) as workdir:
        bundle = _fetch(model, tools, workdir)
        locked = _lock(bundle, request, tools, force=force)
    if output is not None:
        _write_lock(locked, output)
    return locked


def render_context(request: ImageRequest, tools: Tools, *, output: Path) -> BuildContext:
    """Write the Dockerfile and everything it copies into ``output``, which must not exist or be empty."""
    from kbuild.image.buildkit import stamp_times

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already", hint="remove it or name another folder with --output")
    if len(request.lock.platforms) > 1:
        raise PlatformError("a build context is for one platform", hint="name one with --platform")
    with _workdir(tools) as workdir:
        bundle = _fetch(request.model, tools, workdir)
        locked = _lock(bundle, request.lock, tools)
        prepared = _prepare(request, bundle, locked, request.lock.platforms[0], tools, workdir)
        context = _whole_context(prepared, tools, workdir / "context")
        try:
            # Copies, not links: the user may change them, and their times are set.
            shutil.copytree(context.path, output, symlinks=True, dirs_exist_ok=True)
            stamp_times(output)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(output, ignore_errors=True)
            raise OutputError(f"cannot write {output}: {_reason(error)}") from error
    return BuildContext(path=output, plan=context.plan)


def build_image(request: ImageRequest, delivery: Delivery, tools: Tools, *, reuse: bool = True) -> ImageResult:
    """Build the image of a model and deliver it; for several platforms their images, and the index of them.

    With ``reuse`` an image that this machine already built from the same plan is taken as it is.
    Raises whatever the floors raise; a delivery that fails leaves the built image among the local ones.
    """
    images = LocalImages(tools.cache / "images")
    platforms = request.lock.platforms
    if delivery.load and len(platforms) > 1 and host_platform() not in platforms:
        raise PlatformError(
            f"--load takes the image for {host_platform()} from an index", hint="add it to --platform, or use --output"
        )
    with _workdir(tools) as workdir:
        # Files and name are of one version, though somebody may move the alias meanwhile.
        reference = tools.store.pin(ModelReference.parse(request.model))
        bundle = _fetch(str(reference), tools, workdir)
        locked = _lock(bundle, request.lock, tools)
        # What one platform lacks is told before another is built.
        prepared = [
            _prepare(request, bundle, locked, platform, tools, workdir, record=delivery.record)
            for platform in platforms
        ]
        built = {each.platform: _build_once(request, each, images, tools, workdir, reuse=reuse) for each in prepared}
        reused = all(taken for _, taken in built.values())
        result = deliver(
            {platform: image for platform, (image, _) in built.items()},
            bundle,
            reference,
            locked.lockfile,
            {each.platform: each.plan for each in prepared},
            delivery,
            images,
            tools,
            reused=reused,
        )
    if not reused:
        keep_within(tools.cache, limit=tools.cache_limit)
    return result


def _build_once(
    request: ImageRequest, prepared: _Prepared, images: LocalImages, tools: Tools, workdir: Path, *, reuse: bool
) -> tuple[BuiltImage, bool]:
    """The image of one platform, and whether it was there already."""
    key = digest_json([str(prepared.plan.digest), request.engine, packing(request.compression)])
    image = images.by_plan(key) if reuse else None
    if image is not None:
        return image, True
    folder = workdir / prepared.platform.conda_subdir
    folder.mkdir()
    image = _build(request.engine, prepared, images, tools, folder, reuse=reuse)
    images.record_plan(key, image)
    return image, False


def _prepare(
    request: ImageRequest,
    bundle: ModelBundle,
    locked: Locked,
    platform: Platform,
    tools: Tools,
    workdir: Path,
    *,
    record: bool = True,
) -> _Prepared:
    base = _base(request, bundle, platform, tools, record=record)
    packages = locked.lockfile.for_platform(platform)
    environment = Environment(locked.lockfile, platform, cache=tools.cache, run=tools.run)
    _check_glibc(base, environment, packages)
    wheels = tuple(package for package in packages if package.manager == "pip")
    with tools.shared.leading([f"download {locked.lockfile.digest}"]):
        groups = split_wheels(wheels, cache=tools.cache, download=lambda: _download(locked, packages, tools))
    runtime, recipe = runtime_digest(), str(environment_recipe(locked.spec.python, platform))
    left_out: Sequence[str] = request.left_out
    if request.slim:
        slimming = Slimming(
            bundle=bundle,
            locked=locked,
            platform=platform,
            environment=environment,
            groups=groups,
            runtime=runtime,
            recipe=recipe,
        )
        left_out = find_left_out(slimming, tools, workdir, lambda: _download(locked, packages, tools))
    groups = keep_groups(groups, left_out)
    template, contexts = request.template, dict[str, str]()
    if template.install_base is not None:
        from kbuild.image.install_context import place_install_base

        template, contexts = place_install_base(template, platform)
    plan = make_plan(
        bundle,
        locked.lockfile,
        base,
        platform=platform,
        runtime=runtime,
        recipe=recipe,
        groups=groups,
        template=template,
        labels=dict(request.labels),
        left_out=left_out,
    )
    owned = bundle.root.is_relative_to(workdir)
    stage = Stage(bundle=bundle, owned=owned, base=base, environment=environment, groups=groups)
    return _Prepared(
        bundle=bundle,
        locked=locked,
        base=base,
        plan=plan,
        platform=platform,
        stage=stage,
        compression=request.compression,
        settings=EngineSettings(builder=request.builder, network=request.network, contexts=contexts),
    )


def _fetch(model: str, tools: Tools, workdir: Path) -> ModelBundle:
    reference = ModelReference.parse(model)
    with tools.phases("fetch") as progress:
        progress.note(f"fetching {reference}")
        return tools.store.fetch(reference, workdir / "model")


def _lock(bundle: ModelBundle, request: LockRequest, tools: Tools, *, force: bool = False) -> Locked:
    made_from = digest_json([bundle.facts.conda_env, bundle.facts.constraints, bundle.facts.python_version])
    with (
        tools.shared.leading([f"lock {made_from}"]) as first,
        # One channel takes the captured interpreters of all.
        tools.shared.alone("resolve") if first else nullcontext(),
        tools.phases("lock") as progress,
    ):
        return lock_bundle(
            bundle, request, store=tools.store, cache=tools.cache, run=tools.run, progress=progress, force=force
        )


def _base(
    request: ImageRequest, bundle: ModelBundle, platform: Platform, tools: Tools, *, record: bool
) -> ResolvedBase:
    """The base asked for; where nobody asks, the one this model was first built on, and at first the default."""
    records = BaseRecords(store=tools.store, cache=tools.cache / "base-records")
    with tools.phases("base") as progress:
        recorded = records.read(bundle, platform, progress)
        name = request.base or recorded.first
        choice = default_base() if name is None else parse_base(name)
        earlier = recorded.bases.get(choice.text)
        base = tools.shared.once(
            f"base {choice.text} {platform} {None if earlier is None else earlier.digest}",
            lambda: resolve_base(
                choice,
                platform,
                recorded=earlier,
                locked=request.lock.locked,
                settings={} if request.debian_mirror is None else {"debian-mirror": request.debian_mirror},
                cache=tools.cache,
                run=tools.run,
                progress=progress,
            ),
        )
        if record:
            records.write(bundle, platform, recorded, base, progress)
    return base


def _download(locked: Locked, packages: Iterable[LockedPackage], tools: Tools) -> dict[LockedPackage, Path]:
    from kbuild.environment.download import fetch_packages

    with tools.phases("download") as progress:
        return fetch_packages(
            packages,
            cache=tools.cache / "downloads",
            channel=locked.channel,
            progress=progress,
            environ=locked.environ,
            indexes=locked.indexes,
        )


def _stage(prepared: _Prepared, tools: Tools, folder: Path, names: Sequence[str]) -> BuildContext:
    """The context with these layers; their directories may lie in the cache."""
    packages = prepared.stage.packages(names)
    downloads = _download(prepared.locked, packages, tools) if packages else {}
    with tools.phases("stage") as progress:
        trees = prepared.stage.lay(names, downloads, into=folder, progress=progress)
        return finish_context(folder, prepared.plan, trees)


def _whole_context(prepared: _Prepared, tools: Tools, folder: Path) -> BuildContext:
    """Everything that the Dockerfile copies, in one folder."""
    plan, stage = prepared.plan, prepared.stage
    if not installs_in_container(plan.dockerfile):
        with tools.shared.leading([f"stage {prepared.locked.lockfile.digest}"]):
            return complete(_stage(prepared, tools, folder, [layer.name for layer in plan.layers]))
    from kbuild.image.install_context import context_sources, write_install_context

    sources = context_sources(plan.dockerfile)
    layers = [layer for layer in plan.layers if layer.source in sources]
    context = _stage(prepared, tools, folder, [layer.name for layer in layers])
    write_install_context(
        prepared.locked, prepared.platform, stage.groups, stage.bundle, owned=stage.owned, into=folder
    )
    return complete(context, layers)


def _build(
    engine: str, prepared: _Prepared, images: LocalImages, tools: Tools, workdir: Path, *, reuse: bool
) -> BuiltImage:
    """Build with the engine of that name; ``auto`` is native, and buildkit for what native cannot execute."""
    if engine in ("auto", "native") and not installs_in_container(prepared.plan.dockerfile):
        try:
            return _build_native(prepared, images, tools, workdir, reuse=reuse)
        except UnsupportedInstruction as error:
            if engine == "native":
                raise
            with tools.phases("build") as progress:
                progress.note(f"{error.message}; building with buildkit instead")
    if engine == "native":
        raise UnsupportedInstruction("the native engine has no stage to install packages in")
    make_engine("buildkit", tools.run, prepared.settings).probe()  # before the work that would be for nothing
    context = _whole_context(prepared, tools, workdir / "whole")
    with tools.phases("build") as progress:
        cache = _layer_cache(prepared, tools)
        return _build_with("buildkit", context, prepared, images, tools, workdir, progress, cache)


def _build_native(prepared: _Prepared, images: LocalImages, tools: Tools, workdir: Path, *, reuse: bool) -> BuiltImage:
    """What earlier builds packed is taken, where the Dockerfile's layers follow from the plan."""
    plan = prepared.plan
    cache = _layer_cache(prepared, tools)
    keys = layer_keys(plan) if copies_plan(plan) else {}
    with tools.shared.leading(f"layer {key} {prepared.compression}" for key in keys.values()):
        found = {source: cache.get(key) for source, key in keys.items()} if reuse else {}
        packed = {source: blob for source, blob in found.items() if blob is not None}
        known = KnownLayers(keys=keys, packed=packed)
        context = _stage(prepared, tools, workdir / "context", needed_layers(plan, known.packed))
        with tools.phases("build") as progress:
            if known.packed:
                progress.note(f"{len(known.packed)} of {len(plan.layers)} layers are there already")
            return _build_with("native", context, prepared, images, tools, workdir, progress, cache, known)


def _build_with(
    name: EngineName,
    context: BuildContext,
    prepared: _Prepared,
    images: LocalImages,
    tools: Tools,
    workdir: Path,
    progress: Progress,
    cache: LayerCache,
    known: KnownLayers = NOTHING_KNOWN,
) -> BuiltImage:
    settings = prepared.settings
    if installs_in_container(context.plan.dockerfile):
        from kbuild.image.install_context import install_secrets

        settings = replace(settings, secrets=install_secrets(prepared.locked, prepared.platform))
    engine = make_engine(name, tools.run, settings)
    progress.note(f"{name} engine: {engine.probe()}")
    scratch = workdir / name
    scratch.mkdir()
    output = engine.build(context, prepared.base, workdir=scratch, progress=progress, known=known)

    def write(layout: Path) -> BuiltImage:
        plan, compression = context.plan, cache.compression
        return pack(output, plan, layout, engine=name, progress=progress, compression=compression, cache=cache)

    return images.add(write)


def _layer_cache(prepared: _Prepared, tools: Tools) -> LayerCache:
    return LayerCache(root=tools.cache / "layers", compression=prepared.compression)


def _check_glibc(base: ResolvedBase, environment: Environment, packages: Sequence[LockedPackage]) -> None:
    """What was made for a newer C library than the base's would fail when it is started: say so now."""
    asked = [Version(text.lstrip(">=")) for p in packages for name, text in p.dependencies if name == "__glibc"]
    if environment.glibc is not None:
        asked.append(Version(".".join(map(str, environment.glibc))))
    if base.glibc is not None and asked and Version(base.glibc) < max(asked):
        raise BaseImageError(
            f"base image {base.name} has glibc {base.glibc}, but a package of the lock needs {max(asked)}",
            hint="choose a newer base with --base",
        )


@contextmanager
def _workdir(tools: Tools) -> Iterator[Path]:
    """A scratch folder in the cache, so that staged files are links and not copies."""
    with using_cache(tools.cache), tempfile.TemporaryDirectory(prefix="work-", dir=tools.cache) as folder:
        yield Path(folder)


def _write_lock(locked: Locked, output: Path) -> None:
    try:
        write_lockfile(locked.lockfile, output)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())
