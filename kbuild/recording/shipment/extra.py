"""Files of the project that no package holds, which the model is to have where its code looks for them.

A file lies in the model as it lies in the project, seen from the code: what ``Path(__file__).parents[2] / "assets"``
is in ``src/PACKAGE/nodes.py`` is that in the model, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from kbuild.errors import RecordingError
from kbuild.recording.preflight.fault import Fault, did_you_mean
from kbuild.recording.shipment.shipping import copy_code
from kbuild.recording.shipment.tracing import find_source

_CODE = "code"  # MLflow's folder for code_paths
# What MLflow writes into the folder of a model, beside its code.
_OF_MLFLOW = ("MLmodel", "artifacts", "conda.yaml", "python_env.yaml", "python_model.pkl", "requirements.txt")
_PROJECT_FILE = "pyproject.toml"


def check_extra(files: Iterable[Path], package_name: str | None) -> Iterator[Fault]:
    """Files of ``training.ship`` that are not there, or that the model has no place for."""
    for each in files:
        try:
            if not each.exists():
                near = [path.name for path in each.parent.glob("*")] if each.parent.is_dir() else []
                raise RecordingError(
                    f"training.ship in kbuild.yml names {each}, which is not there",
                    hint=did_you_mean(each.name, near, "paths are seen from the project's folder"),
                )
            place = _place(each, package_name)
            if place.parts[0] in _OF_MLFLOW or place == Path(_CODE):
                raise _taken(each, place)
            _check_links(each)
        except RecordingError as error:
            yield Fault(about="configuration", error=error)


def _check_links(shipped: Path) -> None:
    """Raise RecordingError for a link that leads out of the project, whose other files nobody asked to ship."""
    project = _find_project(shipped) or shipped.parent
    root = project.resolve()
    below = [Path(folder, name) for folder, *names in os.walk(shipped) for each in names for name in each]
    for path in (shipped, *sorted(below)):
        target = path.resolve()
        if not path.is_symlink() and path != shipped:
            continue
        named = f"training.ship in kbuild.yml names {shipped}"
        if path != shipped:
            named += f", in which {path.relative_to(shipped)} is a link"
        if not path.exists():
            raise RecordingError(f"{named} to nothing", hint="remove the link, or name the files beside it")
        if not target.is_relative_to(root):
            raise RecordingError(f"{named} to {target}, outside the project", hint="copy it into the project")
        if target.is_dir() and path.parent.resolve().is_relative_to(target):
            raise RecordingError(f"{named} to a folder that it lies in itself", hint="remove the link")


def place_extra(files: Iterable[Path], package_name: str | None, model: Path) -> None:
    """Copy them into a saved model; raises RecordingError for what would take the place of a file of the model."""
    for each in files:
        target = model / _place(each, package_name)
        if target.exists():
            raise _taken(each, target.relative_to(model))
        try:
            copy_code(each, target)
        except (OSError, shutil.Error) as error:
            raise RecordingError(f"training.ship in kbuild.yml: {each} cannot be copied: {error}") from error


def _taken(file: Path, place: Path) -> RecordingError:
    return RecordingError(
        f"training.ship in kbuild.yml names {file}, and the model has a {place} already",
        hint="name what the model lacks, the files in that folder say, or give it another name",
    )


def name_shippable(asked: str | None, model: Path, package_name: str | None) -> str | None:
    """What ``training.ship`` has to name for the file that was looked for in the model; None for no file of here."""
    code = _find_code(package_name)
    if code is None or asked is None:
        return None
    there = Path(os.path.normpath(asked))
    if not there.is_relative_to(model.resolve()) and not there.is_relative_to(model):
        return None
    base = model if there.is_relative_to(model) else model.resolve()
    source = Path(os.path.normpath(code / os.path.relpath(there, base / _CODE)))
    if not source.exists():
        return None
    project = _find_project(source)
    return str(source if project is None else source.relative_to(project))


def _find_project(path: Path) -> Path | None:
    return next((each for each in path.parents if (each / _PROJECT_FILE).is_file()), None)


def _place(file: Path, package_name: str | None) -> Path:
    """Where a file lies in a model, relative to it; raises RecordingError for one above the project."""
    code = _find_code(package_name) or file.parent
    place = Path(os.path.normpath(Path(_CODE, os.path.relpath(file.parent.resolve() / file.name, code))))
    if place.parts[:1] in ((), ("..",)):
        raise RecordingError(
            f"training.ship in kbuild.yml names {file}, for which the model has no place: it is not below "
            f"{code.parent}, which is the model's folder to its code",
            hint="copy it into the project",
        )
    return place


def _find_code(package_name: str | None) -> Path | None:
    """The folder that the project's package lies in, which is ``code`` in the model."""
    source = None if package_name is None else find_source(package_name)
    return None if source is None else source.resolve().parents[1 if source.name == "__init__.py" else 0]
