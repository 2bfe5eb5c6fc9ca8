"""A slim image: without the packages that only MLflow asked for and that serving this model never reads.

Which files of the other packages it is without is said in ``kbuild.image.slim.package_files``.

Nothing is resolved anew: the lock stays, and the plan says which of its packages are left out. What a model reads is
seen by asking it every kind of request with all packages there (``kbuild.serving.http.rehearsal``), and what is left
out is only left out where the same requests get the same answers without it.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kbuild.answers import DEFAULT, Tolerance, compare_texts
from kbuild.environment.lockfile import LockedPackage
from kbuild.plan.left_out import LeftOut
from kbuild.plan.split import PackageGroup, WheelFacts
from kbuild.process import Runner

RULE = 3
"""Changes whenever the same rehearsal would leave out something else."""

# The full package asks for what its tracking server, its user interface and its flavors need.
_MLFLOW = frozenset({"mlflow", "mlflow-skinny", "mlflow-tracing"})
_SECONDS = 600.0


class RehearsalFailed(Exception):
    """The model cannot be asked here, so nobody knows what it needs; says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """What ``kbuild.serving.http.rehearsal`` tells; ``files`` are relative to the prefix."""

    files: frozenset[str]
    answers: tuple[Any, ...]
    seconds: float


def rehearse(prefix: Path, runtime: Path, model: Path, *, short: str, scratch: Path, run: Runner) -> Rehearsal:
    """Ask the model every kind of request, by the interpreter and with the packages at ``prefix``.

    ``runtime`` is the folder with kbuild's serving part, ``short`` the interpreter's version (3.11). Raises
    RehearsalFailed when that does not end well.
    """
    answer = scratch / "rehearsal.json"
    answer.unlink(missing_ok=True)
    environment = {
        "PATH": f"{prefix}/bin:/usr/bin:/bin",
        "HOME": str(scratch),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(runtime),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # MLflow tells names out of sets.
        "PYTHONHASHSEED": "0",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "KBUILD_MODEL": str(model),
    }
    argv = [f"{prefix}/bin/python{short}", "-m", "kbuild.serving.http.rehearsal", str(answer)]
    try:
        done = run(argv, env=environment, cwd=scratch, timeout=_SECONDS)
    except TimeoutError as error:
        raise RehearsalFailed(f"the model did not answer its requests within {_SECONDS:g} s") from error
    if done.returncode != 0 or not answer.is_file():
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RehearsalFailed(f"the model cannot be asked here: {last}")
    try:
        said = json.loads(answer.read_bytes())
        return Rehearsal(files=frozenset(said["files"]), answers=tuple(said["answers"]), seconds=float(said["seconds"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RehearsalFailed(f"the rehearsal's answer cannot be read: {error}") from error


def choose_kept(
    facts: Mapping[LockedPackage, WheelFacts], files: Iterable[str], requirements: Iterable[str], *, short: str
) -> frozenset[LockedPackage]:
    """The packages that stay: those of which a file was read, those that the model asks for, and what both ask for.

    ``requirements`` are the model's own, PEP 508; what MLflow asks for stays only where it was read. Where several
    packages bring a file that was read, the smallest of them is enough.
    """
    owners: dict[str, list[LockedPackage]] = {}
    for package in sorted(facts, key=lambda package: (facts[package].size, package)):
        for path in facts[package].paths:
            owners.setdefault(path, []).append(package)
    read: set[LockedPackage] = set()
    for path in sorted(find_sources(files, short)):
        bringing = owners.get(path)
        if bringing and not read & {*bringing}:
            read.add(bringing[0])
    return _with_dependencies(facts, read) | find_asked(facts, requirements)


def find_asked(packages: Iterable[LockedPackage], requirements: Iterable[str]) -> frozenset[LockedPackage]:
    """Those of the packages that the model's requirements (PEP 508) ask for, directly or not, MLflow's left out."""
    packages = tuple(packages)
    names = {canonicalize_name(Requirement(text).name) for text in requirements} - _MLFLOW
    return _with_dependencies(packages, [each for each in packages if canonicalize_name(each.name) in names])


def _with_dependencies(packages: Iterable[LockedPackage], start: Iterable[LockedPackage]) -> frozenset[LockedPackage]:
    by_name = {canonicalize_name(package.name): package for package in packages}
    kept: set[LockedPackage] = set()
    pending = [*start]
    while pending:
        package = pending.pop()
        if package in kept:
            continue
        kept.add(package)
        if canonicalize_name(package.name) not in _MLFLOW:
            names = {canonicalize_name(name) for name, _ in package.dependencies}
            pending += [by_name[name] for name in names & by_name.keys()]
    return frozenset(kept)


def keep_groups(groups: Sequence[PackageGroup], left_out: LeftOut) -> tuple[PackageGroup, ...]:
    """The groups without these packages and files, and without groups that are then empty."""
    names = {canonicalize_name(name) for name in left_out.packages}
    kept = []
    for group in groups:
        packages = tuple(package for package in group.packages if canonicalize_name(package.name) not in names)
        patterns = {package.name: left_out.patterns(package.name) for package in packages}
        files = {name: each for name, each in patterns.items() if each}
        kept.append(replace(group, packages=packages, left_out=files))
    return tuple(group for group in kept if group.packages)


def first_difference(one: Rehearsal, other: Rehearsal, tolerance: Tolerance = DEFAULT) -> str | None:
    """Which request is answered otherwise; None where all are answered alike."""
    for number, (before, after) in enumerate(zip(one.answers, other.answers, strict=False)):
        if not _is_alike(before, after, tolerance):
            return _told(number, before, after)
    return None if len(one.answers) == len(other.answers) else "not every request is answered"


def _told(number: int, before: Any, after: Any) -> str:
    """Of long bodies the part in which they differ."""
    lists = isinstance(before, list) and isinstance(after, list)
    if lists and before[:-1] == after[:-1] and (fault := compare_texts(str(before[-1]), str(after[-1])).fault):
        return f"of request {number}, {fault}"
    return f"request {number} is answered {str(after)[:200]} instead of {str(before)[:200]}"


def _is_alike(one: Any, other: Any, tolerance: Tolerance) -> bool:
    """Whether two replies say the same: status and type exactly, bodies as answers are compared everywhere."""
    if one == other:
        return True
    lists = isinstance(one, list) and isinstance(other, list)
    return lists and one[:-1] == other[:-1] and compare_texts(str(one[-1]), str(other[-1]), tolerance).same


def find_sources(files: Iterable[str], short: str) -> frozenset[str]:
    """The paths as ``WheelFacts`` has them of what was read, the sources for bytecode, metadata left out."""
    return frozenset(place for file in files if (place := _source(file, short)) is not None)


def _source(file: str, short: str) -> str | None:
    """The path as ``WheelFacts`` has it, of the source for bytecode; None for what tells nothing of what is needed."""
    site = f"lib/python{short}/site-packages/"
    place = f"site/{file.removeprefix(site)}" if file.startswith(site) else file
    folder, name = posixpath.split(place)
    # Every distribution's metadata is read by whoever looks for entry points.
    if folder.endswith((".dist-info", ".egg-info")) or not name:
        return None
    if posixpath.basename(folder) == "__pycache__":
        return f"{posixpath.dirname(folder)}/{name.partition('.')[0]}.py"
    return place
