"""What a slim image leaves out: measured once for a model and its lock, by asking the model with and without it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.linking import link_tree
from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.cache.tree import writing
from kbuild.digest import digest_json
from kbuild.environment.lockfile import LockedPackage
from kbuild.environment.spec import EnvironmentSpec
from kbuild.errors import PlatformError
from kbuild.files import mark_used
from kbuild.image.packages.environment import Environment
from kbuild.image.packages.wheel_facts import read_wheel_facts
from kbuild.image.slim.packages import (
    RULE,
    Rehearsal,
    RehearsalFailed,
    choose_kept,
    find_asked,
    find_sources,
    first_difference,
    keep_groups,
    rehearse,
)
from kbuild.plan.context import stage_runtime
from kbuild.plan.left_out import NOTHING, LeftOut
from kbuild.plan.make import PREFIX, RUNTIME_PATH, Ingredients
from kbuild.plan.split import PackageGroup, WheelFacts
from kbuild.platform import host_platform
from kbuild.progress import Progress, how_many
from kbuild.untrusted import parse_json
from kbuild.verify.before_loading import check_model
from kbuild.workflow.tools import Tools

_Downloads = Mapping[LockedPackage, Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slimming:
    """What slimming starts from: what the image would be made of, and all wheels of its lock as ``groups``."""

    ingredients: Ingredients
    spec: EnvironmentSpec
    environment: Environment
    groups: tuple[PackageGroup, ...]


def find_left_out(slimming: Slimming, tools: Tools, workdir: Path, download: Callable[[], _Downloads]) -> LeftOut:
    """The packages and files that the image can do without; nothing where the model has to have them all.

    Why it has to is told in a note. Raises ModelNotTrusted for a model that would do harm where it is asked,
    PlatformError for an image whose interpreter does not run here, and what laying out the environment raises.
    """
    made_of = slimming.ingredients
    if made_of.platform != host_platform():
        raise PlatformError(
            f"what a model reads is only seen by running it, which {host_platform()} cannot for {made_of.platform}",
            hint="build without --slim, or on a machine of that platform",
        )
    parts = [RULE, str(made_of.lockfile.digest), str(made_of.bundle.digest), str(made_of.platform)]
    record = tools.cache / "slim" / digest_json([*parts, str(made_of.runtime), made_of.recipe]).hex
    known = _read_record(record, {package.name for package in made_of.lockfile.packages})
    if known is not None:
        return known
    downloads = download()
    facts = {
        package: read_wheel_facts(downloads[package], package.filename)
        for group in slimming.groups
        for package in group.packages
    }
    with tools.phases("slim") as progress:
        check_model(made_of.bundle, made_of.lockfile.content, tools.guard, progress)
    with tools.phases("slim") as progress, tempfile.TemporaryDirectory(dir=workdir) as folder:
        try:
            left_out = _measure(slimming, facts, downloads, tools, Path(folder), progress)
        except RehearsalFailed as failure:
            progress.tell(f"{failure}; nothing is left out")
            return NOTHING
        with writing("the cache"):
            write_vouched(record, json.dumps(left_out.to_json()).encode())
    return left_out


def _measure(
    slimming: Slimming,
    facts: Mapping[LockedPackage, WheelFacts],
    downloads: _Downloads,
    tools: Tools,
    folder: Path,
    progress: Progress,
) -> LeftOut:
    from kbuild.image.slim.package_files import choose_files, measure_files  # reads ELF files: not for every build

    runtime = folder / "runtime"
    stage_runtime(runtime)
    spec, bundle = slimming.spec, slimming.ingredients.bundle
    short = ".".join(spec.python.split(".")[:2])

    def ask(name: str, groups: Sequence[PackageGroup]) -> Rehearsal:
        root = folder / name
        trees = slimming.environment.wheels(groups, downloads, into=folder / f"{name}-layers", progress=progress)
        owners: dict[str, str] = {}
        with writing("the environment"):
            link_tree(slimming.environment.interpreter(downloads), root, owners, "interpreter")
            for group, roots in trees.items():
                for tree in roots:
                    link_tree(tree, root, owners, group)
        return rehearse(
            root / PREFIX.lstrip("/"),
            runtime / RUNTIME_PATH.lstrip("/"),
            bundle.root.absolute(),
            short=short,
            scratch=folder,
            run=tools.run,
        )

    progress.note("asking the model with all packages")
    whole = ask("whole", slimming.groups)
    kept = choose_kept(facts, whole.files, spec.pip, short=short)
    others = {package: facts[package] for package in facts if package in kept}
    site = folder / "whole" / PREFIX.lstrip("/") / f"lib/python{short}/site-packages"
    left_out = LeftOut(
        packages=tuple(sorted(package.name for package in facts if package not in kept)),
        files=choose_files(others, find_sources(whole.files, short), find_asked(facts, spec.pip), site),
    )
    files = measure_files(others, left_out, site)
    others_gone = f"{files.count - len(files.named)} files that serve developers"
    progress.note(f"asking it without {', '.join([*left_out.packages, *files.named, others_gone])}")
    slim = ask("slim", keep_groups(slimming.groups, left_out))
    different = first_difference(whole, slim, bundle.facts.tolerance)
    if different is not None:
        progress.tell(f"the model answers otherwise without them: {different}; nothing is left out")
        return NOTHING
    before = sum(each.size for each in facts.values())
    after = sum(each.size for each in others.values()) - files.size
    progress.made(
        f"{len(left_out.packages)} of {how_many(len(facts), 'package')} and {how_many(files.count, 'file')} of the "
        f"others left out, {after / 1e6:.0f} instead of {before / 1e6:.0f} MB; "
        f"first prediction after {slim.seconds:.2f} instead of {whole.seconds:.2f} s of processor time"
    )
    return left_out


def _read_record(record: Path, names: set[str]) -> LeftOut | None:
    """None as well for a record that is damaged; it is then made again."""
    try:
        left_out = LeftOut.from_json(parse_json(read_vouched(record)))
        mark_used(record)
    except (FileNotFoundError, ValueError):
        return None
    return left_out if names.issuperset(left_out.packages) else None
