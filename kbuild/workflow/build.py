"""From a model's name to a built image.

What only some builds need is imported where it is needed: most builds find nearly everything made already.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path

from kbuild.cache.notes import reading_all
from kbuild.cache.scratch import work_folder
from kbuild.digest import digest_json
from kbuild.environment.locking.kept import write_lockfile
from kbuild.environment.locking.lock_model import Locked
from kbuild.environment.locking.wanted import LockRequest
from kbuild.errors import InvalidModel, OutputError, PlatformError
from kbuild.image.deliver.naming import name_values
from kbuild.image.oci.compress import check_compressor
from kbuild.image.store.local import LocalImages
from kbuild.model.bundle import ModelBundle, find_credentials
from kbuild.model.model_reference import ModelReference
from kbuild.plan.build_plan import BuildContext
from kbuild.platform import Platform, host_platform
from kbuild.progress import Progress, how_many, telling
from kbuild.verify.before_loading import check_model, note_model_of
from kbuild.workflow.delivery import Built, Delivery, ImageResult, Verified, deliver, verify_built
from kbuild.workflow.engines import build, find_built, give_layers, whole_context
from kbuild.workflow.prepare import (
    ImageRequest,
    Prepared,
    download_packages,
    fetch_model,
    lock_environment,
    prepare,
)
from kbuild.workflow.stopping import stopping_at_signals
from kbuild.workflow.tools import Gates, Open, Tools

_PATIENCE = 10.0  # seconds that a built image waits for a package index that is asked for no more than a warning


def lock_model(
    model: str, request: LockRequest, tools: Tools, *, output: Path | None, base: str | None = None, force: bool = False
) -> Locked:
    """Lock a model's environment, store the lock with its run and, when ``output`` is given, write it there."""
    with stopping_at_signals(tools) as tools, working_folder(tools) as workdir:
        bundle = fetch_model(model, tools, workdir)
        asked = ImageRequest(model=model, lock=request, base=base)
        locked = lock_environment(bundle, asked, tools, force=force)
    if output is not None:
        _write_lock(locked, output)
    return locked


def render_context(request: ImageRequest, tools: Tools, *, output: Path) -> BuildContext:
    """Write the Dockerfile and everything it copies into ``output``, which must not exist or be empty."""
    from kbuild.image.engines.times import stamp_times

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already", hint="remove it or name another folder with --output")
    if len(request.lock.platforms) > 1:
        raise PlatformError("a build context is for one platform", hint="name one with --platform")
    with stopping_at_signals(tools) as tools, working_folder(tools) as workdir:
        bundle = fetch_model(request.model, tools, workdir)
        check_no_credentials(bundle)
        locked = lock_environment(bundle, request, tools)
        prepared = prepare(request, bundle, locked, request.lock.platforms[0], tools, workdir)
        prepared.check_base()
        context = whole_context(prepared, tools, workdir / "context")
        try:
            with tools.phases("write") as progress:
                _copy(context.path, output, progress)
                with telling(progress, "giving the files times made from their content"):
                    stamp_times(output)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(output, ignore_errors=True)
            raise OutputError(f"cannot write {output}: {_reason(error)}") from error
        prepared.record_base(tools)
    return BuildContext(path=output, plan=context.plan)


def _copy(source: Path, output: Path, progress: Progress) -> None:
    """Copies, not links: the user may change them, and their times are set."""
    total = sum(len(names) for _, _, names in os.walk(source))
    copied = count(1)

    def copy(one: str, other: str) -> None:
        shutil.copy2(one, other)
        progress.count(next(copied), total, "files")

    progress.note("copying")
    shutil.copytree(source, output, symlinks=True, dirs_exist_ok=True, copy_function=copy)
    progress.made(how_many(total, "file"))


def build_image(
    request: ImageRequest, delivery: Delivery, tools: Tools, *, reuse: bool = True, gates: Gates | None = None
) -> ImageResult:
    """Build the image of a model and deliver it; for several platforms their images, and the index of them.

    With ``reuse`` an image that this machine already built from the same plan is taken as it is. ``gates`` may stop it.
    Raises whatever the floors raise; a delivery or a verification that fails leaves the built image among the local
    ones.
    """
    _check_asked(request, delivery)
    if not reuse:
        request = replace(request, cache_from=None)
    images = LocalImages(tools.cache / "images")
    platforms = request.lock.platforms
    with stopping_at_signals(tools) as tools, working_folder(tools) as workdir:
        reference, bundle = fetch_pinned(request.model, tools, workdir, reuse=reuse)
        reference = delivery.numbered(reference, bundle, tools)
        delivery.names(name_values(bundle, reference))  # before the work
        locked = lock_environment(bundle, request, tools)
        # What one platform lacks is told before another is built.
        prepared = [prepare(request, bundle, locked, platform, tools, workdir) for platform in platforms]
        gates = gates or Open()
        gates.planned(digest_json(sorted(str(each.plan.digest) for each in prepared)))
        built = {each.platform: find_built(each, images) if reuse else None for each in prepared}
        missing = [each for each in prepared if built[each.platform] is None]
        for each in missing:
            each.check_base()
            if request.template.file is None:  # which may install more
                check_own_modules(each, tools)
        with _asking_of_yanked(locked, [each.platform for each in missing], tools) as yanked:
            done = {each.platform: build(each, images, tools, workdir, reuse=reuse) for each in missing}
        every = {platform: image or done[platform] for platform, image in built.items()}
        for image in done.values():
            note_model_of(image.digest, bundle.digest, tools.cache)
        verified: Verified | None = None
        if delivery.verify:
            verified = verify_built(
                every,
                images,
                tools,
                delivery,
                again=not reuse,
                look=lambda progress: check_model(bundle, locked.lockfile.content, tools.guard, progress),
            )
        gates.built(reference, every)
        for each in prepared if delivery.record else ():
            each.record_base(tools)
        made = Built(
            bundle=bundle,
            reference=reference,
            lockfile=locked.lockfile,
            images=every,
            plans={each.platform: each.plan for each in prepared},
            reused=not missing,
        )
        result = deliver(made, delivery, tools)
        if delivery.cache_to is not None:
            for each in prepared:
                give_layers(delivery.cache_to, each, tools, built=each.platform in done)
        if verified is not None:
            result = replace(result, untagged=result.untagged or verified.untagged)
    return replace(result, yanked=tuple(yanked), verified=verified)


def _check_asked(request: ImageRequest, delivery: Delivery) -> None:
    """Raises CompressorUnfit, or PlatformError for an index of which Docker could load no image."""
    # What is built as a proof, and given to nobody, may be packed otherwise: it is compared by its content too.
    if delivery.record or request.compression == "gzip":
        check_compressor(request.compression)
    here, platforms = host_platform(), request.lock.platforms
    if delivery.load and len(platforms) > 1 and here not in platforms:
        raise PlatformError(
            f"--load takes the image for {here} from an index", hint="add it to --platform, or use --output"
        )


def check_own_modules(prepared: Prepared, tools: Tools) -> None:
    """Raises InvalidModel for a model whose own code is not all there."""
    from kbuild.image.packages.environment import PREFIX
    from kbuild.image.packages.lost_modules import check_modules

    lockfile, environment = prepared.locked.lockfile, prepared.stage.environment

    def wheels() -> list[Path]:
        return list(download_packages(prepared.locked, lockfile.wheels_for(prepared.platform), tools).values())

    def others() -> list[str]:
        missing = environment.missing((), ())
        downloads = download_packages(prepared.locked, missing, tools) if missing else {}
        found = environment.interpreter(downloads).glob(f"{PREFIX.lstrip('/')}/lib/python*/site-packages/*")
        return [path.name.partition(".")[0] for path in found]

    names = [package.name for package in lockfile.for_platform(prepared.platform)]
    check_modules(prepared.bundle, names, wheels, others)


def fetch_pinned(model: str, tools: Tools, workdir: Path, *, reuse: bool) -> tuple[ModelReference, ModelBundle]:
    """Name and files of one version, though somebody may move the alias meanwhile; raises InvalidModel for credentials
    in them."""
    reference = tools.store.pin(ModelReference.parse(model))
    bundle = fetch_model(str(reference), tools, workdir, reuse=reuse)
    check_no_credentials(bundle)
    return reference, bundle


def check_no_credentials(bundle: ModelBundle) -> None:
    """The model goes into the image as it is, and is read by whoever may pull that."""
    found = find_credentials(bundle.root)
    if found:
        name, line = found[0]
        raise InvalidModel(
            f"credentials are written in {name} of the model, and would lie in the image: {line}",
            hint="change them on that server, and log the model again: kbuild writes names of variables in their place",
        )


@contextmanager
def _asking_of_yanked(locked: Locked, platforms: Sequence[Platform], tools: Tools) -> Iterator[list[str]]:
    """Asks the indexes for withdrawn releases of what is built meanwhile; the list has them when the block is over."""
    found: list[str] = []
    if not platforms:
        yield found
        return
    from kbuild.environment.index.withdrawn import find_withdrawn

    packages = {package for platform in platforms for package in locked.lockfile.for_platform(platform)}
    pool, stop = ThreadPoolExecutor(1), threading.Event()
    environ, indexes, cache = locked.environ, locked.indexes, tools.cache
    try:
        asked = pool.submit(find_withdrawn, tuple(packages), indexes, environ=environ, cache=cache, stop=stop)
        yield found
        wait([asked], timeout=_PATIENCE)
        stop.set()
        withdrawn = asked.result()
        found += withdrawn.releases
        if withdrawn.unasked is not None:
            with tools.phases("build") as progress:
                progress.tell(f"whether a release was yanked is not known: {withdrawn.unasked}")
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def working_folder(tools: Tools) -> Iterator[Path]:
    """A scratch folder in the cache, so that staged files are links and not copies."""
    with (
        reading_all() if tools.verify_cache else nullcontext(),
        tools.using_cache(),
        work_folder(tools.cache, "work-", voice=tools.phases) as folder,
    ):
        yield folder


def _write_lock(locked: Locked, output: Path) -> None:
    try:
        write_lockfile(locked.lockfile, output)
    except OSError as error:
        raise OutputError(f"cannot write {output}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())
