"""Folders of artifacts on this machine."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kbuild.model.tracking import Folder, Unfamiliar

# MLflow's own name for a file that is still being written, which its listings leave out.
_UNFINISHED = ".artifact.uploading."
_PLAIN = re.compile(r"[\w.+@=-]+(?:/[\w.+@=-]+)*", re.ASCII)


def open_local(location: str) -> Folder:
    """The folder at a ``file:///`` uri or an absolute path; raises Unfamiliar for any other location."""
    if location.startswith("file:///"):
        parts = urlsplit(location)
        if parts.query or parts.fragment:
            raise Unfamiliar("a location of another form")
        return LocalFolder(root=Path(unquote(parts.path)))
    if location.startswith("/") and not any(sign in location for sign in "%?#"):
        return LocalFolder(root=Path(location))
    raise Unfamiliar("artifacts of another kind")


def is_local(location: str) -> bool:
    """Whether the artifacts lie on this machine."""
    return location.startswith(("file:", "/"))


def plain(path: str) -> str:
    """The path itself where nobody could read it as another one; raises Unfamiliar."""
    if not _PLAIN.fullmatch(path) or ".." in path.split("/") or "." in path.split("/"):
        raise Unfamiliar(f"a path with unusual letters: {path!r}")
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalFolder:
    """A ``Folder`` that is a folder; raises OSError."""

    root: Path

    def has_model(self) -> bool:
        return any(path.is_file() for path in self.root.glob("*/MLmodel"))

    def place(self, into: Path) -> Path:
        """Where it lies; nothing is copied."""
        if not self.root.is_dir():
            raise Unfamiliar("no such folder")
        for folder, folders, files in os.walk(self.root, onerror=_refuse):
            if any(Path(folder, name).is_symlink() for name in (*folders, *files)):
                raise Unfamiliar("a symbolic link among the artifacts")
        return self.root

    def fetch(self, path: str, into: Path) -> Path | None:
        source = self.root / plain(path)
        if not os.path.lexists(source):
            return None
        if source.is_symlink() or not source.is_file():
            raise Unfamiliar("no plain file")
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return target

    def put(self, file: Path, path: str) -> None:
        folder = self.root / plain(path)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            with unfinished.open("xb") as target, file.open("rb") as source:
                shutil.copyfileobj(source, target)
            unfinished.replace(folder / plain(file.name))
        finally:
            unfinished.unlink(missing_ok=True)


def _refuse(error: OSError) -> None:
    """Without it, a folder that may not be read would be left out of the model in silence."""
    raise error
