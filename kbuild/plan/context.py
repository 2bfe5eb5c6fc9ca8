"""BuildContext: the directory an engine gets: the Dockerfile and one directory a layer, laid out as in the image."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kbuild.model.bundle import ModelBundle, ModelFile
from kbuild.plan.make import MODEL_PATH, RUNTIME_PATH
from kbuild.plan.plan import BuildContext, BuildPlan
from kbuild.plan.runtime import runtime_files

_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755


def stage_runtime(root: Path) -> None:
    """Put kbuild's serving part below ``root``."""
    for name, source in runtime_files().items():
        _place(source, root / RUNTIME_PATH.lstrip("/") / name, root, shutil.copyfile)


def stage_files(bundle: ModelBundle, files: Iterable[ModelFile], root: Path, *, move: bool) -> None:
    """Put files of the bundle below ``root``; ``move`` where the bundle is a copy of ours, that nobody else reads."""
    for file in files:
        target = root / MODEL_PATH.lstrip("/") / file.path
        _place(bundle.root / file.path, target, root, _link if move else shutil.copyfile)


def finish_context(context: Path, plan: BuildPlan, trees: Mapping[str, Path] | None = None) -> BuildContext:
    """Write ``Dockerfile`` and ``plan.json``; ``trees`` are layers' directories that lie elsewhere."""
    context.mkdir(parents=True, exist_ok=True)
    (context / "Dockerfile").write_text(plan.dockerfile, encoding="utf-8")
    (context / "plan.json").write_text(json.dumps(plan.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return BuildContext(path=context, plan=plan, trees=trees or {})


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _place(source: Path, target: Path, root: Path, bring: Callable[[Path, Path], object]) -> None:
    """Bring one file; the modes of it and of the directories made for it do not depend on the umask."""
    missing = []
    folder = target.parent
    while folder != root.parent and not folder.exists():
        missing.append(folder)
        folder = folder.parent
    root.parent.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        made.mkdir()
        made.chmod(_DIRECTORY_MODE)
    bring(source, target)
    target.chmod(_FILE_MODE)
