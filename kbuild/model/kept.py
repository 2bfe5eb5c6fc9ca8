"""What never changes on a tracking server, kept on this machine: the files of logged models, and where copies lead.

A logged model gets its id once its files are to be written, and they are only read from when it is ready on. A version
of the registry, told by its time of creation too, never gets another source. Runs' artifacts, tags, aliases and
which models there are do change, and are never kept.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kbuild.cache.notes import read_vouched, vouched
from kbuild.cache.scratch import scratch_folder
from kbuild.digest import digest_json
from kbuild.errors import InvalidModel
from kbuild.files import READ_ONLY, link_or_copy, mark_used, native
from kbuild.model.bundle import ModelBundle, read_bundle

_FILES, _DIGEST = "files", "digest"


def is_damaged_model(folder: Path) -> bool:
    """Whether the files of an entry of ``models`` are not those that were kept."""
    try:
        return str(read_bundle(folder / _FILES).digest) != read_vouched(folder / _DIGEST).decode()
    except (OSError, InvalidModel):
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Two folders of the cache: ``models`` and ``versions``. Names in them are digests of what they are known by."""

    cache: Path

    def take(self, key: Sequence[str], into: Path) -> ModelBundle | None:
        """The files of a model, linked into a new folder ``into``; None where there are none, or damaged ones.

        Damaged: the digest over all files is not the one they were kept with.
        """
        folder = self._folder("models", key)
        try:
            stated = read_vouched(folder / _DIGEST).decode()
            _link(folder / _FILES, into)
            bundle = read_bundle(into)
        except (OSError, InvalidModel):
            return None
        if str(bundle.digest) != stated:
            return None
        mark_used(folder)
        return bundle

    def put(self, key: Sequence[str], bundle: ModelBundle) -> None:
        """Keep a model's files, in the place of those that were found damaged; raises OSError."""
        folder = self._folder("models", key)
        with _new_beside(folder) as scratch:
            new, old = scratch / "new", scratch / "old"
            for file in bundle.files:
                target = new / _FILES / native(file.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(bundle.root / native(file.path), target)
            (new / _DIGEST).write_bytes(vouched(folder / _DIGEST, str(bundle.digest).encode()))
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)

    def location(self, key: Sequence[str]) -> str | None:
        """Where the files of a registered version are."""
        path = self._folder("versions", key)
        try:
            found = read_vouched(path).decode()
        except OSError:
            return None
        mark_used(path)
        return found

    def put_location(self, key: Sequence[str], location: str) -> None:
        """Keep where they are; raises OSError."""
        path = self._folder("versions", key)
        with _new_beside(path) as scratch:
            (scratch / "new").write_bytes(vouched(path, location.encode()))
            (scratch / "new").replace(path)

    def _folder(self, kind: str, key: Sequence[str]) -> Path:
        return self.cache / kind / digest_json(list(key)).hex


@contextmanager
def _new_beside(path: Path) -> Iterator[Path]:
    """A folder to make something in that is then moved to ``path``: nobody ever sees half of it.

    Where another process was first, or this user may not write to the cache, it is not kept, and that is all.
    """
    try:
        with scratch_folder(path.parent, ".new-") as scratch:
            yield scratch
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, *READ_ONLY):
            raise


def _link(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=lambda one, other: link_or_copy(Path(one), Path(other)))
