"""What lock is wanted of a model: by what it is asked for, and which locks that are there already count as it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from kbuild.digest import Digest
from kbuild.environment.condalock.conda_lock import CondaLockResolver
from kbuild.environment.index.package_indexes import Indexes
from kbuild.environment.resolver import Resolver
from kbuild.environment.spec import EnvironmentSpec, Interpreter, ModelEnvironment, make_spec
from kbuild.environment.target import Target
from kbuild.managers.conda_names import Names
from kbuild.model.bundle import ModelBundle, read_model_text
from kbuild.platform import Platform, known_platforms
from kbuild.process import Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class LockRequest:
    """What lock is wanted, and for which base. ``lockfile`` is one to use as it is; ``locked`` forbids to resolve.

    ``allow_sdist`` lets source distributions be built where there is no wheel. ``digest`` names a lock that counts as
    fresh whatever it was made from: the one that an image was built with (``Lockfile.is_named``). ``names`` says which
    distributions conda packages bring, beside what is known. The packages of a lock come from ``allowed_indexes`` and
    ``allowed_channels``, by default from those that the spec names.
    """

    platforms: tuple[Platform, ...]
    interpreter: str = "auto"
    channels: tuple[str, ...] = ()
    lockfile: Path | None = None
    locked: bool = False
    digest: str | None = None
    allow_sdist: bool = False
    names: Names = ()
    allowed_indexes: tuple[str, ...] = ()
    allowed_channels: tuple[str, ...] = ()
    target: Target = Target()  # noqa: RUF009  frozen


def fresh_inputs(
    bundle: ModelBundle, request: LockRequest, indexes: Indexes, *, cache: Path, run: Runner, environ: Mapping[str, str]
) -> frozenset[Digest]:
    """The input digests by which a lock of this model counts as fresh here. Raises what reading the spec does."""
    resolver = CondaLockResolver(run=run, channel=cache / "channel", environ=environ, target=request.target)
    return frozenset(candidates(spec_of(bundle, request, indexes), request, resolver))


def named_indexes(bundle: ModelBundle, request: LockRequest, indexes: Indexes) -> Indexes:
    """The indexes and find-links that a lock of this model is made from. Raises what reading the spec does."""
    spec = spec_of(bundle, request, indexes)
    return replace(indexes, urls=spec.indexes, find_links=spec.find_links)


def environment_of(bundle: ModelBundle) -> ModelEnvironment:
    """What the model says of its environment, by its own files. Raises InvalidModel."""
    names = ("requirements.txt", "constraints.txt")
    files = {name: text for name in names if (text := read_model_text(bundle.root, name)) is not None}
    return ModelEnvironment(conda_env=bundle.facts.conda_env, files=files, python=bundle.facts.python_version)


def spec_of(bundle: ModelBundle, request: LockRequest, indexes: Indexes) -> EnvironmentSpec:
    """The model's environment spec, from its own files, the request and the user's indexes."""
    return make_spec(
        environment_of(bundle),
        platforms=request.platforms,
        indexes=indexes.urls,
        find_links=indexes.find_links,
        interpreter="captured" if request.interpreter == "captured" else "conda",
        channels=request.channels,
        names=request.names,
    )


def candidates(spec: EnvironmentSpec, request: LockRequest, resolver: Resolver) -> dict[Digest, EnvironmentSpec]:
    """Specs whose lock is fresh.

    ``auto`` takes either interpreter: a lock that is there decides, not this machine. A lock of further platforms is as
    good as one of those asked for: the image of one platform is then the one that is in the index of all. One for an
    older C library is as good as one for the base's, and whether a lock's wheels run on it is looked at by and by.
    """
    kinds: tuple[Interpreter, ...] = ("conda", "captured") if request.interpreter == "auto" else (spec.interpreter,)
    others = [platform for platform in known_platforms() if platform not in spec.platforms]
    wider = [more for count in range(len(others) + 1) for more in combinations(others, count)]
    specs = [
        replace(spec, interpreter=kind, platforms=tuple(sorted((*spec.platforms, *more))))
        for more in wider
        for kind in kinds
    ]
    digests = [resolver.input_digests(each, request.target.accepted()) for each in specs]
    # Those for the target's own C library first.
    return {
        digest: each for of_glibc in zip(*digests, strict=True) for digest, each in zip(of_glibc, specs, strict=True)
    }
