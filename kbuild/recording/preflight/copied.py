"""What is copied once training has ended: code that the user names, and datasets among the run's artifacts.

MLflow copies each of ``code_paths`` into one folder by its last name (its docs, "Saving extra code"), as
shutil.copytree does; a run's artifacts are files and folders (its docs, "Artifact stores").
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kbuild.errors import KbuildError, RecordingError
from kbuild.recording.preflight.fault import Fault

_OWN = "kbuild"


def check_copies(paths: Any, code: Mapping[str, Path]) -> Iterator[KbuildError]:
    """Of ``code_paths`` those that are there and cannot be copied, or not beside each other; ``code`` travels."""
    if not isinstance(paths, list | tuple):
        return  # told where the other arguments are
    seen = {place.name: str(place) for place in code.values()} | {_OWN: "kbuild's own part"}
    for path in paths:
        place = Path(os.path.abspath(path))  # noqa: PTH100 - as MLflow names it, behind no link
        if not place.exists():
            continue
        other = seen.get(place.name)
        if other is not None and not (place.is_file() and other == str(place)):  # a file may be copied twice
            hint = "leave it out: it travels already" if other == str(place) else "give one of them another name"
            yield RecordingError(
                f"code_paths names {str(path)!r}, and the model has a code/{place.name} of {other}", hint=hint
            )
        seen.setdefault(place.name, str(place))
        wrong = next(_find_uncopiable(place), None)
        if wrong is not None:
            yield RecordingError(
                f"code_paths names {str(path)!r}, which cannot be copied: {wrong}",
                hint="take that away, or name the files and folders beside it",
            )


def _find_uncopiable(place: Path) -> Iterator[str]:
    if not place.name:
        yield "it is the root of the disk"
        return
    if not place.is_dir():
        yield from filter(None, [_why(place)])
        return
    for folder, folders, files in os.walk(place, onerror=None):
        if not os.access(folder, os.R_OK | os.X_OK):
            yield f"{folder} cannot be read"
        for each in sorted((*folders, *files)):
            if each != "__pycache__" and (why := _why(Path(folder, each))):
                yield why


def _why(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError:
        return f"{path} is a link to nothing" if path.is_symlink() else f"{path} cannot be read"
    if stat.S_ISDIR(mode):
        leads_up = path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
        return f"{path} is a link to a folder that it lies in itself" if leads_up else None
    if not stat.S_ISREG(mode):
        return f"{path} is no file with content (a pipe, a socket or a device)"
    return None if os.access(path, os.R_OK) else f"{path} cannot be read"


def check_places(datasets: Mapping[str, Any], own: Iterable[str]) -> Iterator[Fault]:
    """Datasets that are kept among a run's artifacts: those whose place is none, or is another's file.

    ``datasets`` are those that nodes save; ``own`` are files that are written there anyhow.
    """
    files = {PurePosixPath(each): "what kbuild writes there" for each in own}
    places = {}
    for name in sorted(datasets):
        found = getattr(datasets[name], "artifact_place", None)
        if not isinstance(found, tuple):
            continue  # it is kept elsewhere
        folder, file = found
        wrong = _wrong(folder)
        if wrong is not None:
            yield _fault(
                name, f"has the artifact_path {folder!r}, which {wrong}", "write a folder below the run's, as plots/roc"
            )
            continue
        place = PurePosixPath(folder or "") / file
        if place in files:
            yield _fault(name, f"is kept as {place}, which is {files[place]}", "give one of them another artifact_path")
        files.setdefault(place, f"the dataset {name!r}")
        places[name] = place
    for name, place in places.items():
        for above in place.parents:
            if above in files and above != place:
                yield _fault(
                    name,
                    f"is to be kept in the folder {place.parent}, and {above} is the file of {files[above]}",
                    "give one of them another artifact_path",
                )


def _wrong(folder: str | None) -> str | None:
    if folder is None:
        return None
    if "\\" in folder or "\0" in folder or folder.startswith("/") or ":" in folder.split("/", 1)[0]:
        return "is no relative path with slashes"
    return "leads out of the run's artifacts" if {"..", "."} & set(folder.split("/")) else None


def _fault(name: str, text: str, hint: str) -> Fault:
    return Fault(about="catalog", error=RecordingError(f"the dataset {name!r} {text}", hint=hint))
