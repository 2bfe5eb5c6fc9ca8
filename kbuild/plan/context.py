"""BuildContext: the directory an engine gets: the Dockerfile and one directory a layer, laid out as in the image."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from kbuild.errors import OutputError
from kbuild.model.bundle import ModelBundle
from kbuild.plan.make import MODEL_PATH, RUNTIME_PATH, is_project_code
from kbuild.plan.plan import BuildContext, BuildPlan
from kbuild.plan.runtime import runtime_files

_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755


def stage_runtime(context: Path) -> Path:
    """Put kbuild's serving part below ``runtime/``; returns that directory."""
    root = context / "runtime"
    for name, source in runtime_files().items():
        _place(source, root / RUNTIME_PATH.lstrip("/") / name, root)
    return root


def stage_model(bundle: ModelBundle, context: Path) -> tuple[Path, Path]:
    """Put the bundle's code below ``project/`` and its other files below ``model/``; returns both directories."""
    project, model = context / "project", context / "model"
    for file in bundle.files:
        root = project if is_project_code(file.path) else model
        _place(bundle.root / file.path, root / MODEL_PATH.lstrip("/") / file.path, root)
    return project, model


def stage_base(tree: Path, context: Path) -> Path:
    """Link an assembled base below ``base/``; links, modes and empty directories are kept."""
    root = context / "base"
    shutil.copytree(tree, root, symlinks=True, copy_function=link_or_copy)
    return root


def finish_context(context: Path, plan: BuildPlan) -> BuildContext:
    """Write ``Dockerfile`` and ``plan.json``; raises OutputError when a layer of the plan is not there."""
    missing = [layer.source for layer in plan.layers if not (context / layer.source).is_dir()]
    if missing:
        raise OutputError(f"the build context has no {', '.join(missing)}")
    (context / "Dockerfile").write_text(plan.dockerfile, encoding="utf-8")
    (context / "plan.json").write_text(json.dumps(plan.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return BuildContext(path=context, plan=plan)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link where the file system allows one, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _place(source: Path, target: Path, root: Path) -> None:
    """Copy one file; the modes of it and of the directories made for it do not depend on the umask."""
    missing = []
    folder = target.parent
    while folder != root.parent and not folder.exists():
        missing.append(folder)
        folder = folder.parent
    root.parent.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        made.mkdir()
        made.chmod(_DIRECTORY_MODE)
    shutil.copyfile(source, target)
    target.chmod(_FILE_MODE)
