"""Rootfs: a lockfile's packages as files at their in-image paths, ready to be copied to ``/`` of an image.

The trees depend on the lock alone: not on the staging directory, the user, the umask, the day or the number of
processors. Each wheel, and the interpreter with its conda packages, is laid out and compiled once a cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from kbuild.digest import Digest, digest_json
from kbuild.environment.lockfile import LockedPackage, Lockfile
from kbuild.errors import LockfileInvalid
from kbuild.image.bytecode import Compiler, can_compile, compile_folder, compile_tree, find_compiler, recipe_digest
from kbuild.image.conda_packages import install_conda_packages
from kbuild.image.tree import cached_tree, link_tree, make_directory, normalise_tree, reset_directory_times, writing
from kbuild.image.wheels import WheelTarget, cached_wheel, required_glibc, wheel_filename, wheel_key
from kbuild.platform import Platform
from kbuild.process import Runner
from kbuild.progress import Progress

PREFIX = "/opt/env"
"""Where the environment lies inside the image."""

_RECIPE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedEnvironment:
    """Two trees to be copied to ``/``. Their files are hard links into the cache: read-only.

    ``python`` is the interpreter's version, ``3.11.7``; ``glibc`` the oldest C library that every wheel promises to
    run with (None: no wheel says); ``bytecode`` is False where nothing here could compile for the platform.
    The two contents are digests of everything that decides a tree, cheap because the packages are not read again.
    """

    interpreter: Path
    dependencies: Path
    interpreter_content: Digest
    dependencies_content: Digest
    python: str
    glibc: tuple[int, int] | None
    bytecode: bool


def stage_environment(
    lockfile: Lockfile,
    platform: Platform,
    *,
    downloads: Mapping[LockedPackage, Path],
    into: Path,
    cache: Path,
    prefix: str = PREFIX,
    run: Runner,
    progress: Progress,
) -> StagedEnvironment:
    """Stage the packages of one platform as ``into/interpreter`` and ``into/dependencies``, which must not exist yet.

    ``downloads`` holds a verified local file for each package. ``cache`` should lie on the file system of ``into``:
    then files are hard links, otherwise copies. Raises LockfileInvalid (no interpreter, a wheel for another
    platform, two wheels with different contents for one file), SourceOnlyPackage, BuildFailed and OutputError.
    """
    packages = lockfile.for_platform(platform)
    conda = {package: downloads[package] for package in packages if package.manager == "conda"}
    wheels = {package: downloads[package] for package in packages if package.manager == "pip"}
    python = next((package.version for package in conda if package.name == "python"), None)
    if python is None:
        raise LockfileInvalid(f"the lock has no python for {platform}", hint="make it again with kbuild lock")
    target = WheelTarget(python=python, platform=platform, prefix=prefix)
    glibc = _check_wheels(wheels, target)
    interpreter, dependencies = into / "interpreter", into / "dependencies"
    with writing("the environment"):
        into.mkdir(parents=True, exist_ok=True)
        progress.note(f"installing Python {python}" + (f" and {n} conda packages" if (n := len(conda) - 1) else ""))
        key, tree = _lay_interpreter(conda, target, cache, run)
        link_tree(tree, interpreter, {}, "python")
        compiler = find_compiler(tree, prefix, python, platform)
        if compiler is None:
            progress.note(f"no Python {python} here to compile for {platform}: the image starts without bytecode")
        progress.note(f"installing {len(wheels)} wheels")
        trees = _lay_wheels(wheels, target, compiler, cache, run, progress)
        owners: dict[str, str] = {}
        make_directory(dependencies)
        for package, tree in trees.items():
            link_tree(tree, dependencies, owners, f"{package.name} {package.version}")
        reset_directory_times(interpreter)
        reset_directory_times(dependencies)
    return StagedEnvironment(
        interpreter=interpreter,
        dependencies=dependencies,
        interpreter_content=key,
        dependencies_content=digest_json([str(wheel_key(target, compiler)), sorted(p.sha256 for p in wheels)]),
        python=python,
        glibc=glibc,
        bytecode=compiler is not None,
    )


def environment_recipe(python: str, platform: Platform, *, prefix: str = PREFIX) -> Digest:
    """Everything besides the lock that decides the two trees, known before anything is downloaded.

    It depends on this machine only in that a foreign platform may get no bytecode here.
    """
    target = WheelTarget(python=python, platform=platform, prefix=prefix)
    return digest_json([str(_interpreter_recipe(target)), str(wheel_key(target, None))])


def compile_code(trees: Sequence[Path], environment: StagedEnvironment, platform: Platform, *, run: Runner) -> None:
    """Compile the code of staged trees that are no package, and normalise their modes and times.

    Raises BuildFailed when the staged interpreter does not run here.
    """
    compiler = find_compiler(environment.interpreter, PREFIX, environment.python, platform)
    for tree in trees:
        if tree.is_dir():
            if compiler is not None:
                compile_folder(tree, "", compiler, run=run, jobs=_jobs())
            normalise_tree(tree)


def _interpreter_recipe(target: WheelTarget) -> Digest:
    bytecode = recipe_digest().hex if can_compile(target.python, target.platform) else None
    return digest_json([_RECIPE, version("py-rattler"), target.prefix, str(target.platform), bytecode])


def _check_wheels(wheels: Mapping[LockedPackage, Path], target: WheelTarget) -> tuple[int, int] | None:
    supported = target.supported()
    needs = [required_glibc(wheel_filename(package), supported) for package in wheels]
    return max((need for need in needs if need is not None), default=None)


def _lay_interpreter(
    conda: Mapping[LockedPackage, Path], target: WheelTarget, cache: Path, run: Runner
) -> tuple[Digest, Path]:
    packages = sorted((package.filename, package.url, package.sha256) for package in conda)
    key = digest_json([str(_interpreter_recipe(target)), packages])

    def make(root: Path) -> None:
        scratch = root / "scratch"
        scratch.mkdir()
        install_conda_packages(conda, root=root, prefix=target.prefix, scratch=scratch, run=run)
        compiler = find_compiler(root, target.prefix, target.python, target.platform)
        if compiler is not None:
            compile_tree(root, target.prefix, compiler, run=run, jobs=_jobs())
        normalise_tree(root)

    return key, cached_tree(cache / "interpreters" / key.hex, make)


def _lay_wheels(
    wheels: Mapping[LockedPackage, Path],
    target: WheelTarget,
    compiler: Compiler | None,
    cache: Path,
    run: Runner,
    progress: Progress,
) -> dict[LockedPackage, Path]:
    """The cached tree of each wheel in the order of ``wheels``; the largest are begun first, to end together."""
    trees: dict[LockedPackage, Path] = {}
    with ThreadPoolExecutor(_jobs()) as pool:
        futures = {
            pool.submit(
                cached_wheel, wheels[package], package, target=target, compiler=compiler, cache=cache, run=run
            ): package
            for package in sorted(wheels, key=lambda p: (-wheels[p].stat().st_size, p))
        }
        try:
            for future in as_completed(futures):
                trees[futures[future]] = future.result()
                progress.count(len(trees), len(wheels), "wheels")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {package: trees[package] for package in wheels}


def _jobs() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
