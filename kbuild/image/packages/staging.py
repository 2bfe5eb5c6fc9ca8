"""The directories of a plan's layers, made when they are needed: packages, runtime, code, model, base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.linking import link_roots
from kbuild.cache.tree import writing
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import OutputError
from kbuild.image.packages.conda_notes import conda_notes
from kbuild.image.packages.environment import PREFIX, Environment
from kbuild.model.bundle import ModelBundle
from kbuild.plan.base import ResolvedBase
from kbuild.plan.build_plan import BuildContext, BuildPlan, LayerPlan
from kbuild.plan.context import stage_files, stage_runtime
from kbuild.plan.make import BASE_LAYER, INTERPRETER_LAYER, RUNTIME_LAYER
from kbuild.plan.split import PROJECT_LAYER, PackageGroup, split_model
from kbuild.progress import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What layers are made of. ``owned``: the bundle's files are a copy that nobody else reads."""

    bundle: ModelBundle
    owned: bool
    base: ResolvedBase
    environment: Environment
    groups: Sequence[PackageGroup]

    def packages(self, names: Sequence[str]) -> list[LockedPackage]:
        """The packages whose files ``lay`` will ask for."""
        return self.environment.missing(names, self.groups) if self._compiled & set(names) else []

    @property
    def _compiled(self) -> set[str]:
        """The layers with Python code."""
        return {INTERPRETER_LAYER, RUNTIME_LAYER, PROJECT_LAYER, *(group.name for group in self.groups)}

    def lay(
        self, names: Sequence[str], downloads: Mapping[LockedPackage, Path], *, into: Path, progress: Progress
    ) -> dict[str, tuple[Path, ...]]:
        """The directories that together are each of these layers, below ``into`` where they are none of the cache's.

        Raises what Environment raises, OutputError, and BytecodeMissing where a Python file has no bytecode.
        """
        trees: dict[str, tuple[Path, ...]] = {}
        groups = [group for group in self.groups if group.name in names]
        if BASE_LAYER in names and self.base.path is not None:
            trees[BASE_LAYER] = (self.base.path,)
        if INTERPRETER_LAYER in names:
            trees[INTERPRETER_LAYER] = (self.environment.interpreter(downloads),)
        if groups:
            trees |= self.environment.wheels(groups, downloads, into=into, progress=progress)
        if INTERPRETER_LAYER in trees:
            for package, wheel in self.environment.replaced.items():
                taken = f"{package.name} {package.version} of conda makes room for {wheel.name} {wheel.version}"
                progress.tell(f"{taken} of the index, as with pip")
            wheels = [tree for group in groups for tree in trees[group.name]]
            for note in conda_notes(trees[INTERPRETER_LAYER][0], PREFIX, wheels):
                progress.tell(note)
        with writing("the build context"):
            if RUNTIME_LAYER in names:
                trees[RUNTIME_LAYER] = (into / RUNTIME_LAYER,)
                stage_runtime(into / RUNTIME_LAYER)
            for name, files in split_model(self.bundle).items():
                if name in names:
                    trees[name] = (into / name,)
                    stage_files(self.bundle, files, into / name, move=self.owned)
        code = [tree for name in (RUNTIME_LAYER, PROJECT_LAYER) for tree in trees.get(name, ())]
        if code:
            self.environment.compile(code, downloads)
        compiled = [tree for name, roots in trees.items() if name in self._compiled for tree in roots]
        if compiled:
            self.environment.check_bytecode(compiled, downloads, progress)
        return trees


def needed_layers(plan: BuildPlan, packed: Mapping[str, object]) -> list[str]:
    """The layers whose directories a build reads when those in ``packed`` are there: the others, and what they meet."""
    wanted: set[str] = set()
    for layer in plan.layers:
        if layer.source not in packed:
            wanted |= {layer.name, *layer.over}
    return [layer.name for layer in plan.layers if layer.name in wanted]


def complete(context: BuildContext, layers: Sequence[LayerPlan] | None = None) -> BuildContext:
    """The same context with the directories of all layers, or of these, in it.

    Files are links into the cache where they can be. Raises OutputError.
    """
    with writing("the build context"):
        for source, roots in context.trees.items():
            link_roots(roots, context.path / source)
    wanted = context.plan.layers if layers is None else layers
    missing = [layer.source for layer in wanted if not (context.path / layer.source).is_dir()]
    if missing:
        raise OutputError(f"the build context has no {', '.join(missing)}")
    return BuildContext(path=context.path, plan=context.plan)
