"""The files of a model folder that somebody else made: which there are, and which nobody may follow or copy."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kbuild.digest import digest_file
from kbuild.errors import InvalidModel
from kbuild.files import portable

_AGAIN = "see whether its artifact store cut or changed it, and put the file back or run the pipeline again"
_DEEPEST = 100  # folders; who copies and removes them goes one call deeper for each


def walk(root: Path) -> Iterator[Path]:
    """All that is below a folder, no links followed. Not recursive, and neither is what comes after it endless."""
    pending = [(root, 0)]
    while pending:
        folder, depth = pending.pop()
        if depth > _DEEPEST:
            raise InvalidModel(f"a folder of the model lies in more than {_DEEPEST} others: {_shown(root, folder)}")
        with os.scandir(folder) as found:
            for entry in found:
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append((Path(entry.path), depth + 1))


def _shown(root: Path, folder: Path) -> str:
    return f"{os.fsencode(folder.relative_to(root))!r:.60}…"


def check_kind(root: Path, path: Path, relative: str) -> None:
    """Raises InvalidModel for what nobody could copy, or what leads out of the model."""
    # realpath, unlike Path.resolve, has an answer for a link that leads to itself.
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise InvalidModel(f"{relative} is a symbolic link that leaves the model folder")
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  the error of a loop is OSError's in every Python
    except OSError as error:
        raise InvalidModel(f"{relative} of the model cannot be read: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidModel(f"{relative} of the model is not a file or folder but a pipe, a socket or a device")


def name_in(root: Path, path: Path) -> str:
    """The file's name in the model: names are bytes of UTF-8, whatever the locale reads them as.

    Raises InvalidModel for other bytes, which neither MLflow's uris nor a Dockerfile can say.
    """
    name = portable(path.relative_to(root).as_posix())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidModel(
            f"the name of a file of the model is not UTF-8: {os.fsencode(path.relative_to(root))!r}",
            hint="rename the file and log the model again",
        ) from None
    return name


def check_environment(root: Path, record: Mapping[str, Any]) -> None:
    """Raises InvalidModel where a file that says what the model needs is not the one that was logged: cut short, it
    still reads well, and the image would have other packages than the run. Models of before this was noted pass."""
    noted = record.get("environment")
    for name, digest in noted.items() if isinstance(noted, dict) else ():
        path = root / str(name)
        if os.sep in str(name) or not path.is_file():
            raise InvalidModel(f"the model has no file {name!s:.100}, which was logged with it", hint=_AGAIN)
        if str(digest_file(path)) != digest:
            raise InvalidModel(
                f"{name} of the model is not what was logged: it has {path.stat().st_size} bytes and another sha256",
                hint=f"{_AGAIN}; if you meant it, take metadata.kbuild.environment out of its MLmodel, too",
            )
