"""Locking a model: take the fresh lock that is already there, else resolve one; and store it with the run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kbuild.cache.notes import is_vouched_for, vouch_for
from kbuild.digest import Digest
from kbuild.environment.bounds import is_within, read_bounds
from kbuild.environment.conda_settings import hidden_places
from kbuild.environment.condalock.conda_lock import CondaLockResolver
from kbuild.environment.hashes import check_hashes
from kbuild.environment.index.downloads import cached_package
from kbuild.environment.index.package_indexes import Indexes, check_folders, package_indexes
from kbuild.environment.lockfile import Lockfile, read_lockfile
from kbuild.environment.locking.checked import check_channels, check_lock, check_python, check_versions
from kbuild.environment.locking.kept import cached_lock, side_file, write_file, write_lockfile
from kbuild.environment.locking.offered import has_other_wheel, not_offered
from kbuild.environment.locking.stored import (
    CapturedOtherwise,
    LockPlace,
    bring_packages,
    mend,
    stored_lock,
    write_back,
)
from kbuild.environment.locking.wanted import LockRequest, candidates, spec_of
from kbuild.environment.resolver import Resolver
from kbuild.environment.spec import EnvironmentSpec
from kbuild.environment.uv_settings import other_indexes
from kbuild.errors import ConfigurationError, LockfileStale
from kbuild.managers.conda_variables import unset_variables
from kbuild.model.bundle import ModelBundle
from kbuild.model.fetch import ModelStore
from kbuild.offered.shown import html_table
from kbuild.process import Runner
from kbuild.progress import Progress
from kbuild.urls.credentials import hide_credentials, permitted

if TYPE_CHECKING:
    from kbuild.environment.built.built_wheels import WheelBuilds

Origin = Literal["given", "stored with the run", "cached", "resolved"]
_Found = tuple[Lockfile, EnvironmentSpec, Origin]


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """A fresh lockfile and where it came from; ``channel`` is the local channel that its ``$KBUILD_CHANNEL`` means.

    ``indexes`` and ``environ`` are what downloads need besides; they hold credentials.
    """

    lockfile: Lockfile
    spec: EnvironmentSpec
    origin: Origin
    channel: Path
    indexes: Indexes = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    def _repr_html_(self) -> str:
        platforms = ", ".join(f"{each}: {len(self.lockfile.for_platform(each))}" for each in self.lockfile.platforms)
        return html_table({"lock": self.lockfile.digest, "packages": platforms, "origin": self.origin})


def lock_bundle(
    bundle: ModelBundle,
    request: LockRequest,
    *,
    store: ModelStore,
    cache: Path,
    run: Runner,
    progress: Progress,
    environ: Mapping[str, str] = os.environ,
    force: bool = False,
    ask_pip: Callable[[], Indexes] | None = None,
) -> Locked:
    """The lock of a model's environment, stored with its run when it is new.

    Looked for in this order: ``request.lockfile``, the run's own, the cache; each counts only while its input digest
    is the model's, and the folders named as channels here offer its packages. Else it is resolved. Raises
    LockfileStale where nothing fresh is there and resolving is forbidden, or where the given file is stale;
    HashMismatch for a package that is another file than the requirements name by hash; else what reading the spec and
    resolving raise.
    """
    if unset := unset_variables(bundle.facts.conda_env):
        progress.tell(unset)
    indexes = _ask(ask_pip or partial(package_indexes, run=run, environ=environ), resolving=force)
    check_folders(indexes, progress)
    if indexes.binary.every:
        raise ConfigurationError(
            "pip's no-binary refuses the wheels of :all: packages here, and images are made of wheels",
            hint="name the packages that are to be built of their sources: export PIP_NO_BINARY=NAME,NAME, or pip"
            " config set global.no-binary NAME,NAME (pip config list shows where :all: stands)",
        )
    hidden = [hide_credentials(channel, "CHANNEL") for channel in request.channels]
    secrets = {name: value for _, found in hidden for name, value in found.items()}
    environ = {**environ, **indexes.environment, **secrets, **permitted([text for text, _ in hidden])}
    spec = spec_of(bundle, request, indexes)
    with suppress(ConfigurationError):  # whoever needs conda's settings says what is wrong with them
        environ = {**environ, **hidden_places(spec.channels, environ).environment}
    bounds = read_bounds(indexes.constraints, progress)
    channel = cache / "channel"
    place = LockPlace(bundle=bundle, store=store, channel=channel, run=run, environ=environ, progress=progress)
    with tempfile.TemporaryDirectory(prefix="kbuild-lock-") as scratch:
        builds = _find_builds(place, request, indexes, cache, again=force)
        resolver = CondaLockResolver(
            run=run,
            channel=channel,
            environ=environ,
            target=request.target,
            builds=builds,
            downloads=cache / "downloads",
            binary=indexes.binary,
            bounds=bounds,
        )
        found: _Found | None = None
        if not force or request.lockfile is not None:
            found = _find_fresh(place, candidates(spec, request, resolver), request, cache)
        own, wanted = frozenset(spec.indexes[1:]).difference(indexes.urls), spec.indexes
        resolve = partial(_resolve, place, spec, own, request, resolver, cache)
        if found is not None and found[2] != "given" and not found[0].is_named(request.digest):
            found = found if is_within(*found[:2], bounds, progress) else None
        if found is None and (others := other_indexes((*indexes.urls, *spec.indexes), environ)):
            progress.tell(others)
        lockfile, spec, origin = found or resolve()
        check_hashes(lockfile, spec)
        if origin != "resolved":
            _check_found(lockfile, spec, request, place, cache)
        try:
            bring_packages(lockfile, place, Path(scratch), channels=spec.channels)
        except CapturedOtherwise as error:
            if origin == "given" or lockfile.is_named(request.digest):
                raise
            if request.locked:
                raise LockfileStale(f"{error.message}, and --locked forbids a new lock", hint=mend(bundle)) from error
            progress.tell(f"{error.message}: the lock {origin} is stale, and made anew")
            lockfile, spec, origin = resolve()  # which captures into the local channel
        if builds is not None and builds.made:
            write_file(builds.side_file(), side_file(cache, lockfile, spec))
            vouch_for(side_file(cache, lockfile, spec))
        if origin in ("resolved", "cached") and spec.indexes == wanted:
            side = side_file(cache, lockfile, spec)
            write_back(lockfile, side, place, Path(scratch))
    return Locked(lockfile=lockfile, spec=spec, origin=origin, channel=channel, indexes=indexes, environ=environ)


def _find_builds(
    place: LockPlace, request: LockRequest, indexes: Indexes, cache: Path, *, again: bool
) -> WheelBuilds | None:
    """What makes wheels of sdists, where they may be built; ``again`` also those that were made before."""
    if not request.allow_sdist:
        return None
    from kbuild.environment.built.built_wheels import find_builds  # brings what reads ELF files

    return find_builds(
        place.bundle,
        indexes,
        store=place.store,
        cache=cache,
        run=place.run,
        environ=place.environ,
        progress=place.progress,
        again=again,
    )


def _ask(pip: Callable[[], Indexes], *, resolving: bool) -> Indexes:
    """The indexes that pip is told of; what resolves is imported meanwhile, which takes as long."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(pip)
        if resolving:
            for name in ("condalock.channels", "condalock.one_platform", "captured.capture", "captured.interpreters"):
                import_module(f"kbuild.environment.{name}")
        return asked.result()


def _check_found(
    lockfile: Lockfile, spec: EnvironmentSpec, request: LockRequest, place: LockPlace, cache: Path
) -> None:
    """Look at a lock that was not made just now; the one that an image was built with may come from anywhere."""
    check_python(lockfile, mend(place.bundle))
    if not lockfile.is_named(request.digest):
        check_lock(
            lockfile,
            spec,
            request,
            is_here=lambda package: cached_package(package, cache / "downloads") is not None,
            environ=place.environ,
            remedy=mend(place.bundle),
        )


def _resolve(
    place: LockPlace,
    spec: EnvironmentSpec,
    own: frozenset[str],
    request: LockRequest,
    resolver: Resolver,
    cache: Path,
) -> _Found:
    if request.locked:
        raise LockfileStale("the model has no fresh lock, and --locked forbids making one", hint=mend(place.bundle))
    from kbuild.environment.condalock.channels import (
        choose_interpreter,  # solvers take long to import; most builds need none
    )

    spec = replace(spec, interpreter=choose_interpreter(request.interpreter, spec.channels, environ=place.environ))
    place.progress.note(f"resolving with conda-lock, interpreter {spec.interpreter}")
    asked = spec
    if own:
        from kbuild.environment.condalock.reachable import answering

        # Its lock says what it was made from, so it is not fresh for the model.
        asked = replace(spec, indexes=answering(spec.indexes, own, place.environ, place.progress))
    lockfile = resolver.resolve(asked, progress=place.progress)
    check_channels(lockfile, asked, allowed_channels=request.allowed_channels, environ=place.environ)
    check_versions(lockfile, asked)
    check_hashes(lockfile, asked)
    if asked == spec:
        write_lockfile(lockfile, kept := cached_lock(cache, resolver.input_digest(spec), spec))
        vouch_for(kept)
    return lockfile, asked, "resolved"


def _find_fresh(
    place: LockPlace, candidates: Mapping[Digest, EnvironmentSpec], request: LockRequest, cache: Path
) -> _Found | None:
    if request.lockfile is not None:
        given = read_lockfile(request.lockfile)
        if given.is_named(request.digest):
            return given, next(iter(candidates.values())), "given"
        if given.input_digest is None or given.input_digest not in candidates:
            raise LockfileStale(
                f"{request.lockfile} was made from other inputs than this model's", hint=mend(place.bundle)
            )
        if (wrong := not_offered(given, candidates[given.input_digest])) is not None:
            raise LockfileStale(f"{request.lockfile} was made from another channel: {wrong}", hint=mend(place.bundle))
        return given, candidates[given.input_digest], "given"
    stored = stored_lock(place)
    if stored is not None and stored.is_named(request.digest):
        return stored, next(iter(candidates.values())), "stored with the run"
    if stored is not None and stored.input_digest is not None and stored.input_digest in candidates:
        wrong = not_offered(stored, candidates[stored.input_digest])
        if wrong is None:
            return stored, candidates[stored.input_digest], "stored with the run"
        place.progress.tell(f"the lock stored with the run was made from another channel: {wrong}")
    elif stored is not None:
        place.progress.tell("the lock stored with the run was made from other inputs")
    for digest, spec in candidates.items():
        if is_vouched_for(cached_lock(cache, digest, spec)):
            cached = read_lockfile(cached_lock(cache, digest, spec))
            if not_offered(cached, spec) is None and not has_other_wheel(cached, spec):
                return cached, spec, "cached"
    return None
