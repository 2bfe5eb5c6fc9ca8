"""CondaLockResolver: conda-lock, run as a process, turns an environment spec into a lockfile."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

from kbuild.cache.room import room_for
from kbuild.digest import Digest, digest_file, digest_json
from kbuild.environment.conda_settings import hidden_places
from kbuild.environment.condalock.failures import source_only_hint
from kbuild.environment.index.file_choice import BinaryChoice
from kbuild.environment.links import is_local, is_local_channel, local_path
from kbuild.environment.lock_digests import CONTENT_DIGEST_KEY, content_digest
from kbuild.environment.lockfile import (
    CHANNEL_VARIABLE,
    LockedPackage,
    Lockfile,
    conda_build,
    parse_lockfile,
)
from kbuild.environment.match_spec import other_python
from kbuild.environment.spec import EnvironmentSpec
from kbuild.environment.target import Target
from kbuild.errors import (
    EnvironmentSpecError,
    ExtraNotInstalled,
    HashMismatch,
    LockfileInvalid,
    OutputError,
    ResolverFailed,
    SourceOnlyPackage,
)
from kbuild.platform import Platform, host_platform
from kbuild.process import Runner
from kbuild.progress import Progress

if TYPE_CHECKING:
    from kbuild.environment.built.built_wheels import WheelBuilds
    from kbuild.environment.built.sdists import BuiltWheel
    from kbuild.environment.condalock.one_platform import PlatformSolve

# Raised when the same spec would be locked differently by this module.
_RECIPE = 2
_HEADER = """\
# Made by kbuild with conda-lock (unified format, version 1): every package by url and sha256. Do not edit.
# $KBUILD_CHANNEL, where it stands, is the url of the local channel that holds the captured interpreter.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CondaLockResolver:
    """A ``Resolver``.

    ``channel`` is the local conda channel that a captured interpreter is put into. ``environ`` is the environment of
    conda-lock: the caller's, with what ``Indexes.environment`` adds. ``solver`` is a program with conda's command
    line, None for an installed or the built-in one. ``target`` is the base that images stand on. ``builds`` makes
    wheels of source distributions; without it they are refused. ``downloads`` is the cache of packages. ``binary`` is
    what pip's configuration says of source distributions, ``bounds`` are its constraints: neither makes a lock stale.
    """

    run: Runner
    channel: Path
    environ: Mapping[str, str] = field(repr=False)
    solver: Path | None = None
    target: Target = Target()  # noqa: RUF009  frozen
    builds: WheelBuilds | None = None
    downloads: Path | None = None
    binary: BinaryChoice = BinaryChoice()  # noqa: RUF009  frozen
    bounds: Sequence[str] = ()

    def input_digest(self, spec: EnvironmentSpec) -> Digest:
        """Digest of the spec, conda-lock's version, this module's recipe and the target's C library.

        Not of the solver: any of them answers within the same constraints, and which one a machine has installed must
        not make the locks of a team stale.
        """
        return self.input_digests(spec, [self.target.glibc])[0]

    def input_digests(self, spec: EnvironmentSpec, glibcs: Sequence[str]) -> list[Digest]:
        """What ``input_digest`` is for each of these C libraries."""
        try:
            version = metadata.version("conda-lock")
        except metadata.PackageNotFoundError as error:
            raise ExtraNotInstalled("conda-lock is not installed") from error
        inputs = {"spec": str(spec.digest), "conda-lock": version, "recipe": _RECIPE}
        return [digest_json({**inputs, "glibc": glibc}) for glibc in glibcs]

    def resolve(self, spec: EnvironmentSpec, *, progress: Progress) -> Lockfile:
        """Solve for every platform of the spec; captures the interpreter first when the spec wants it.

        The bytes of the answer depend on the spec and on what channels and indexes offer. Raises PackageNotFound,
        VersionConflict, SourceOnlyPackage, IndexUnavailable, InterpreterCaptureFailed or ResolverFailed; PlatformError
        naming everything that a platform other than this machine's lacks.
        """
        from kbuild.environment.condalock.one_platform import PlatformSolve  # not needed where a lock is fresh

        digest = self.input_digest(spec)
        documents = {}
        ready: dict[str, BuiltWheel] = {}
        # This machine's own platform first: what stops it stops all, and is told as the simpler case that it is.
        for platform in sorted(spec.platforms, key=lambda each: (each != host_platform(), each)):
            glibc, channels = self._interpreter(spec, platform, progress)
            solve = PlatformSolve(
                spec=spec,
                indexes=spec.indexes,
                platform=platform,
                channels=channels,
                glibc=glibc,
                target=self.target,
                input_digest=digest,
                run=self.run,
                environ={**self.environ, CHANNEL_VARIABLE: self.channel.resolve().as_uri()},
                solver=self.solver,
                progress=progress,
                downloads=self.downloads,
                binary=self.binary,
                bounds=self.bounds,
            )
            documents[platform] = self._document(solve, ready)
        if self.builds is not None and ready:
            from kbuild.environment.built.in_locks import name_built

            name_built(documents.values(), ready, self.builds)
        places = hidden_places(spec.channels, self.environ) if spec.interpreter == "conda" or spec.conda else None
        for document in documents.values():
            for package in document["package"]:
                if places is not None and package["manager"] == "conda":
                    package["url"] = places.hide(str(package["url"]))
            self._adopt(document["package"])
            self._adopt_wheels(document["package"])
        lockfile = self._lockfile(spec, documents)
        sdists = [p for p in lockfile.packages if p.manager == "pip" and not p.filename.endswith(".whl")]
        if sdists:
            self._replace_sdists(spec, sdists, documents, progress)
            lockfile = self._lockfile(spec, documents)
        return lockfile

    def _document(self, solve: PlatformSolve, ready: dict[str, BuiltWheel]) -> dict[str, Any]:
        """The answer for one platform; wheels that are built to know what they depend on are added to ``ready``."""
        from kbuild.environment.condalock.one_platform import UnreadSdists

        while True:
            try:
                return replace(solve, wheels=tuple(ready)).document()
            except UnreadSdists as error:
                if self.builds is None:
                    raise
                from kbuild.environment.built.in_locks import build_ahead

                ready |= build_ahead(self.builds, solve.spec.python, error.sdists, ready, solve.progress)
            except SourceOnlyPackage as error:
                if self.builds is None:
                    raise
                raise SourceOnlyPackage(
                    f"{error.message}, of which none can be built here",
                    hint="build its wheel by hand (pip wheel) and offer it on your package index",
                ) from error

    def _lockfile(self, spec: EnvironmentSpec, documents: Mapping[Platform, Mapping[str, Any]]) -> Lockfile:
        try:
            lockfile = parse_lockfile(_join([documents[each] for each in spec.platforms]), source="conda-lock's answer")
        except LockfileInvalid as error:
            raise ResolverFailed(error.message, hint="every package needs a url and a sha256") from error
        _check_interpreter(lockfile)
        return lockfile

    def _replace_sdists(
        self,
        spec: EnvironmentSpec,
        sdists: Sequence[LockedPackage],
        documents: Mapping[Platform, Mapping[str, Any]],
        progress: Progress,
    ) -> None:
        """conda-lock falls back to a source distribution where no wheel fits; an image is made of wheels alone."""
        if self.builds is None:
            names = sorted({f"{package.name} {package.version} for {package.platform}" for package in sdists})
            refused = [package.name for package in sdists if not self._takes_wheel(spec, package.name)]
            raise SourceOnlyPackage(
                f"--no-binary refuses the wheels of {refused[0]}, which leaves only sources: {', '.join(names)}"
                if refused
                else f"no wheel for Python {spec.python}, only a source distribution: {', '.join(names)}",
                hint=source_only_hint((refused or [sdists[0].name])[0], refused=bool(refused)),
            )
        from kbuild.environment.built.in_locks import replace_sdists  # brings what reads ELF files

        replace_sdists(self.builds, spec.python, sdists, documents, progress)

    def _takes_wheel(self, spec: EnvironmentSpec, name: str) -> bool:
        return self.binary.told(spec.choices).allows_wheel(canonicalize_name(name))

    def _adopt_wheels(self, packages: Sequence[dict[str, Any]]) -> None:
        """The same for wheels of folders that pip's configuration names: find-links, and indexes that are folders."""
        for package in packages:
            if package["manager"] == "pip" and is_local(str(package["url"])) and str(package["url"]).endswith(".whl"):
                source, sha256 = local_path(package["url"]), package["hash"]["sha256"]
                place = f"wheels/{sha256}/{source.name}"
                self._bring(source, self.channel / place, sha256, f"{source} has changed while it was locked")
                package["url"] = f"${CHANNEL_VARIABLE}/{place}"

    def _adopt(self, packages: Sequence[dict[str, Any]]) -> None:
        """Bring packages of channels that are folders of this machine into the local channel, and name them there.

        They travel with the lock from then on, as the captured interpreter of this machine's own platform does.
        Raises HashMismatch and OutputError.
        """
        for package in packages:
            if package["manager"] != "conda" or not str(package["url"]).startswith("file:"):
                continue
            source = local_path(package["url"])
            target = self.channel / package["platform"] / source.name
            wrong = f"{source} is not the file that its channel's repodata.json describes"
            self._bring(source, target, package["hash"]["sha256"], wrong)
            package["url"] = f"${CHANNEL_VARIABLE}/{package['platform']}/{source.name}"

    @staticmethod
    def _bring(source: Path, target: Path, sha256: str, wrong: str) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file() or digest_file(target).hex != sha256:
                with room_for(target, source.stat().st_size):
                    shutil.copyfile(source, target)
            if digest_file(target).hex != sha256:
                raise HashMismatch(wrong)
        except OSError as error:
            raise OutputError(f"cannot bring {source} to {target.parent}: {error.strerror}") from error

    def _interpreter(
        self, spec: EnvironmentSpec, platform: Platform, progress: Progress
    ) -> tuple[str, tuple[str, ...]]:
        """The C library and the channels to solve a platform with.

        Only this machine's own interpreter can be captured: for other platforms one of the same version comes from a
        channel.
        """
        if spec.interpreter == "conda" or platform != host_platform():
            return self.target.glibc, spec.channels
        from kbuild.environment.captured.capture import capture_interpreter
        from kbuild.environment.captured.interpreters import find_interpreter

        layout = find_interpreter(spec.python, run=self.run, environ=self.environ)
        captured = capture_interpreter(self.channel, run=self.run, progress=progress, layout=layout)
        # The image must have the C library that the interpreter needs; its package says so in the lock.
        glibc = str(max(Version(self.target.glibc), Version(captured.glibc)))
        # No channel is asked unless a package other than the interpreter must come from one.
        return glibc, (f"${CHANNEL_VARIABLE}", *(spec.channels if spec.conda else ()))


def _check_interpreter(lockfile: Lockfile) -> None:
    """Raises EnvironmentSpecError where conda's packages bring a python that the locked wheels are not made for."""
    for package in lockfile.packages:
        if package.manager == "conda" and package.name == "python":
            build = conda_build(package)
            kind = other_python(build)
            if kind is not None:
                raise EnvironmentSpecError(
                    f"the conda packages bring python {package.version} {build}, {kind}, which takes other wheels than"
                    " models are served with",
                    hint="take out of conda.yaml what asks for it (python-freethreading, python_abi, pypy), train with"
                    " CPython, and log the model again",
                )


def _join(documents: Sequence[Mapping[str, Any]]) -> bytes:
    """One lockfile of the lockfiles of several platforms, without conda-lock's own comments and file names."""
    first = documents[0]["metadata"]
    packages = [package for each in documents for package in each["package"]]
    metadata = {
        "content_hash": {key: value for each in documents for key, value in each["metadata"]["content_hash"].items()},
        "channels": _channels(documents),
        "platforms": [name for each in documents for name in each["metadata"]["platforms"]],
        "sources": first["sources"],
        "custom_metadata": first["custom_metadata"],
    }
    sealed = {**first["custom_metadata"], CONTENT_DIGEST_KEY: str(content_digest(metadata, packages))}
    joined = {"version": 1, "metadata": {**metadata, "custom_metadata": sealed}, "package": packages}
    return (_HEADER + str(yaml.safe_dump(joined, sort_keys=False))).encode()


def _channels(documents: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Each channel of any platform once: platforms differ in theirs where one has the captured interpreter.

    A folder of this machine is nobody else's: its packages are in the local channel, and that is what is named.
    """
    found: list[Any] = []
    for document in documents:
        for channel in document["metadata"]["channels"]:
            url = str(channel["url"] if isinstance(channel, Mapping) else channel)
            told = {"url": f"${CHANNEL_VARIABLE}", "used_env_vars": []} if is_local_channel(url) else channel
            if told not in found:
                found.append(told)
    return found
