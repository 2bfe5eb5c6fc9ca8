"""BuildContext: the directory an engine gets: the Dockerfile and one directory a layer, laid out as in the image."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from kbuild.cache.room import room_for
from kbuild.errors import InvalidModel
from kbuild.files import link_or_copy, native
from kbuild.model.bundle import ModelBundle, ModelFile
from kbuild.plan.build_plan import BuildContext, BuildPlan
from kbuild.plan.make import MODEL_PATH, RUNTIME_PATH
from kbuild.shipped import image_files

_FILE_MODE = 0o644
_DIRECTORY_MODE = 0o755
_CHUNK = 1 << 20


def stage_runtime(root: Path) -> None:
    """Put kbuild's serving part below ``root``."""
    for name, source in image_files().items():
        _place(source, root / RUNTIME_PATH.lstrip("/") / name, root, shutil.copyfile)


def stage_files(
    bundle: ModelBundle, files: Iterable[ModelFile], root: Path, *, move: bool, path: str = MODEL_PATH
) -> None:
    """Put files of the bundle at ``path`` below ``root``; ``move`` where the bundle is a copy of ours alone.

    Else the folder is the user's: raises InvalidModel where a file is no longer the one that the bundle names.
    """
    for file in files:
        target = root / path.lstrip("/") / native(file.path)
        _place(
            bundle.root / native(file.path), target, root, link_or_copy if move else partial(_copy_checked, file=file)
        )


def finish_context(context: Path, plan: BuildPlan, trees: Mapping[str, tuple[Path, ...]] | None = None) -> BuildContext:
    """Write ``Dockerfile`` and ``plan.json``; ``trees`` are layers' directories that lie elsewhere."""
    context.mkdir(parents=True, exist_ok=True)
    (context / "Dockerfile").write_text(plan.dockerfile, encoding="utf-8")
    (context / "plan.json").write_text(json.dumps(plan.to_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return BuildContext(path=context, plan=plan, trees=trees or {})


def _copy_checked(source: Path, target: Path, *, file: ModelFile) -> None:
    state = hashlib.sha256()
    try:
        with source.open("rb") as reader, target.open("wb") as writer, room_for(target, file.size):
            while chunk := reader.read(_CHUNK):
                state.update(chunk)
                writer.write(chunk)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise _changed(file) from error
    if state.hexdigest() != file.digest.hex:
        raise _changed(file)


def _changed(file: ModelFile) -> InvalidModel:
    return InvalidModel(
        f"{file.path} of the model folder changed during the build", hint="build again when nothing writes to it"
    )


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
