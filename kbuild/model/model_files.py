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
from kbuild.tracking.noted import NOTED

_AGAIN = "put the file back or run the pipeline again; if you changed it, end its last line"
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
    """Raises InvalidModel where what says which packages the model needs is not what was logged and ends within a line:
    a store cut it, what is left still reads well, and the image would have other packages than the run.

    What somebody changed is taken, as ``mlflow.models.update_model_requirements`` does it: that ends with a line.
    Models of before the digests were noted pass.
    """
    noted = record.get("environment")
    for name in NOTED:
        digest, path = noted.get(name) if isinstance(noted, dict) else None, root / name
        if not isinstance(digest, str) or not path.is_file() or str(digest_file(path)) == digest:
            continue
        if not path.read_bytes().endswith(b"\n"):
            raise InvalidModel(
                f"{name} of the model was cut: it has {path.stat().st_size} bytes, ends within a line and is not what"
                " was logged",
                hint=_AGAIN,
            )
