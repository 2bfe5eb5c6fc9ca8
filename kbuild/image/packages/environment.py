"""Rootfs: a lockfile's packages as files at their in-image paths, ready to be copied to ``/`` of an image.

The trees depend on the lock alone: not on the staging directory, the user, the umask, the day or the number of
processors. Each wheel, and the interpreter with its conda packages, is laid out and compiled once a cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from importlib.metadata import version
from pathlib import Path

from packaging.utils import canonicalize_name

from kbuild.cache.room import room_for
from kbuild.cache.tree import cached_tree, is_sound, normalise_tree, writing
from kbuild.digest import Digest, digest_json
from kbuild.environment.index.downloads import check_download
from kbuild.environment.lockfile import LockedPackage, Lockfile
from kbuild.environment.replaced import find_replaced
from kbuild.errors import LockfileInvalid, SourceOnlyPackage
from kbuild.files import mark_used
from kbuild.image.packages.bytecode import Compiler, bytecode_recipe, compile_trees, find_compiler
from kbuild.image.packages.bytecode_check import check_bytecode
from kbuild.image.packages.conda import install_conda_packages
from kbuild.image.packages.replaced import take_out
from kbuild.image.packages.trimming import join_group
from kbuild.image.packages.wheels import (
    WheelTarget,
    cached_wheels,
    promised_glibc,
    python_files,
    wheel_filename,
    wheel_key,
)
from kbuild.plan.split import PackageGroup
from kbuild.platform import Platform
from kbuild.process import Runner
from kbuild.progress import Progress

PREFIX = "/opt/env"
"""Where the environment lies inside the image."""

_RECIPE = 2
# How many times its archive's bytes a conda package may need while it is laid out: twice unpacked, then compiled.
_UNPACKED = 6
# Bytes of wheels that are laid out together.
_BATCH = 1_000_000
# Files that take as long to compile as a process to start.
_SHARED = 20
# Where code lies that is no package: what serves, and what the model carries.
_CODE = ("/opt/kbuild", "/opt/model")


class Environment:
    """The trees of a lock's packages on one platform, each laid out when it is first asked for.

    A tree's files are in the cache, or hard links into it: read-only. ``cache`` should lie on the file system of
    ``into``: then files are links, otherwise copies. Not for several threads.
    """

    def __init__(self, lockfile: Lockfile, platform: Platform, *, cache: Path, run: Runner) -> None:
        """Raises LockfileInvalid (no interpreter, a wheel for another platform) and SourceOnlyPackage."""
        packages = lockfile.for_platform(platform)
        self._conda = [package for package in packages if package.manager == "conda"]
        self.replaced = find_replaced(packages)
        python = next((package.version for package in self._conda if package.name == "python"), None)
        if python is None:
            raise LockfileInvalid(f"the lock has no python for {platform}", hint="make it again with kbuild lock")
        self._target = WheelTarget(python=python, platform=platform, prefix=PREFIX)
        self.wheels_glibc = _check_wheels(lockfile.wheels_for(platform), self._target)
        self._cache, self._run = cache, run

    def missing(self, names: Iterable[str], groups: Sequence[PackageGroup]) -> list[LockedPackage]:
        """The packages whose files are needed to lay these layers out; the interpreter compiles all of them."""
        wanted = set(names)
        mark_used(self._place)  # it is taken later, without its packages
        found = [] if is_sound(self._place) else list(self._conda)
        return found + [package for group in groups if group.name in wanted for package in group.packages]

    def interpreter(self, downloads: Mapping[LockedPackage, Path]) -> Path:
        """The interpreter and the other conda packages; raises BuildFailed and OutputError."""

        def make(root: Path) -> None:
            for package in self._conda:
                check_download(downloads[package], package)
            scratch = root / "scratch"
            scratch.mkdir()
            archives = {package: downloads[package] for package in self._conda}
            packed = sum(archive.stat().st_size for archive in archives.values())
            with room_for(root, _UNPACKED * packed):
                self._install(archives, root, scratch)
            normalise_tree(root)

        with writing("the environment", self._cache):
            return cached_tree(self._place, make)

    def _install(self, archives: Mapping[LockedPackage, Path], root: Path, scratch: Path) -> None:
        target, prefix = self._target, self._target.prefix.lstrip("/")
        install_conda_packages(archives, root=root, prefix=target.prefix, scratch=scratch, run=self._run)
        take_out(root / prefix, target.site_packages.removeprefix(f"/{prefix}/"), self._replaced)
        compiler = find_compiler(root, target.prefix, target.python, target.platform)
        if compiler is not None:
            compile_trees([root], f"{target.prefix}/lib", compiler, run=self._run, jobs=_jobs())

    @property
    def _place(self) -> Path:
        """Where the interpreter's tree is or will be."""
        parts = [str(_interpreter_recipe(self._target)), sorted(package.sha256 for package in self._conda)]
        name = digest_json([*parts, self._replaced] if self._replaced else parts)
        return self._cache / "interpreters" / name.hex

    @property
    def _replaced(self) -> tuple[str, ...]:
        return tuple(sorted(canonicalize_name(wheel.name) for wheel in self.replaced.values()))

    def wheels(
        self, groups: Sequence[PackageGroup], downloads: Mapping[LockedPackage, Path], *, into: Path, progress: Progress
    ) -> dict[str, tuple[Path, ...]]:
        """The trees that together are each group's, below ``into`` where files are left out of them; ``downloads`` has
        a file a package.

        Raises LockfileInvalid (two wheels with different contents for one file, a damaged wheel), BuildFailed and
        OutputError.
        """
        compiler = self.compiler(downloads)
        if compiler is None:
            progress.tell(f"no Python {self._target.short} here to compile: the image starts slower, without bytecode")
        wanted = [package for group in groups for package in group.packages]
        progress.note("installing")
        with writing("the environment", self._cache):
            trees = self._lay_wheels(wanted, downloads, compiler, progress)
            return {group.name: join_group(group, trees, self._target, into, progress) for group in groups}

    def _lay_wheels(
        self,
        wheels: Sequence[LockedPackage],
        downloads: Mapping[LockedPackage, Path],
        compiler: Compiler | None,
        progress: Progress,
    ) -> dict[LockedPackage, Path]:
        """The cached tree of each wheel; the largest are begun first, to end together."""
        trees: dict[LockedPackage, Path] = {}
        sizes = {package: downloads[package].stat().st_size for package in wheels}
        lay = partial(cached_wheels, target=self._target, compiler=compiler, cache=self._cache, run=self._run)
        # One more than processors: a thread that waits for its compiler leaves its processor to another one's files.
        with ThreadPoolExecutor(_jobs() + 1) as pool:
            batches = _batches(sizes, downloads)
            futures = [pool.submit(lay, {package: downloads[package] for package in batch}) for batch in batches]
            try:
                for future in as_completed(futures):
                    trees |= future.result()
                    progress.count(len(trees), len(wheels), "wheels")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return trees

    def compiler(self, downloads: Mapping[LockedPackage, Path]) -> Compiler | None:
        """What compiles for the image, None where nothing here can."""
        target = self._target
        return find_compiler(self.interpreter(downloads), target.prefix, target.python, target.platform)

    def compile(self, trees: Sequence[Path], downloads: Mapping[LockedPackage, Path]) -> None:
        """Compile the code of trees that are no package, and normalise their modes and times.

        Raises BuildFailed when the image's interpreter does not run here.
        """
        compiler = self.compiler(downloads)
        for tree in trees:
            if compiler is not None:
                compile_trees([tree], "", compiler, run=self._run, jobs=_jobs())
            normalise_tree(tree)

    def check_bytecode(
        self, trees: Iterable[Path], downloads: Mapping[LockedPackage, Path], progress: Progress
    ) -> None:
        """Raises BytecodeMissing when Python files of these trees lack bytecode; notes those that are not valid."""
        compiler = self.compiler(downloads)
        if compiler is None:
            return  # said when the wheels were laid out
        folders = (f"{self._target.prefix}/lib", *_CODE)
        tag = f"cpython-{self._target.short.replace('.', '')}"
        invalid = check_bytecode(trees, folders, tag, compiler, run=self._run)
        if invalid:
            # Templates that packages bring are none of the user's matter.
            progress.note(f"no bytecode of {len(invalid)}, which Python cannot compile: {', '.join(invalid)}")


def environment_recipe(python: str, platform: Platform) -> Digest:
    """Everything besides the lock that decides the two trees, known before anything is downloaded.

    It depends on this machine only in that a foreign platform may get no bytecode here.
    """
    target = WheelTarget(python=python, platform=platform, prefix=PREFIX)
    return digest_json([str(_interpreter_recipe(target)), str(wheel_key(target, None))])


def _interpreter_recipe(target: WheelTarget) -> Digest:
    bytecode = bytecode_recipe(target.python, target.platform)
    return digest_json([_RECIPE, version("py-rattler"), target.prefix, str(target.platform), bytecode])


def _check_wheels(wheels: Sequence[LockedPackage], target: WheelTarget) -> dict[LockedPackage, tuple[int, int]]:
    """The C library that each wheel wants which wants any."""
    sdists = sorted(f"{p.name} {p.version}" for p in wheels if not p.filename.endswith(".whl"))
    if sdists:
        raise SourceOnlyPackage(
            f"the lock has only source distributions of {', '.join(sdists)} for {target.platform}",
            hint="lock again with --allow-sdist to build their wheels, or pin versions that have wheels",
        )
    supported = target.supported()
    needs = {package: promised_glibc(wheel_filename(package), supported) for package in wheels}
    return {package: need for package, need in needs.items() if need is not None}


def _batches(
    sizes: Mapping[LockedPackage, int], downloads: Mapping[LockedPackage, Path]
) -> Iterator[list[LockedPackage]]:
    """The packages by falling size in bytes: large ones alone, small ones together, and those that share code."""
    batch: list[LockedPackage] = []
    groups = _sharing(sorted(sizes), downloads)
    for group in sorted(groups, key=lambda group: (-sum(sizes[package] for package in group), group)):
        batch += group
        if sum(sizes[each] for each in batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _sharing(wheels: Sequence[LockedPackage], downloads: Mapping[LockedPackage, Path]) -> list[list[LockedPackage]]:
    """The packages, those together that bring many of the same Python files: laid out together, each is compiled once.

    mlflow's files are in mlflow-skinny too, and some in mlflow-tracing: a fifth of what a model with MLflow brings.
    """
    groups: list[tuple[list[LockedPackage], set[str]]] = []
    for package in wheels:
        together, names = [package], python_files(downloads[package])
        apart = []
        for group in groups:
            if len(names & group[1]) >= _SHARED:
                together, names = [*group[0], *together], names | group[1]
            else:
                apart.append(group)
        groups = [*apart, (together, names)]
    return [group for group, _ in groups]


def _jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
