"""Folders of one command, which go when it ends; what a killed one left is known by the lock that nobody holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from kbuild.progress import Voice, saying

OWN_FILES = "removing the files of this command alone"
"""What is removed at the end of a command that had many."""


@contextmanager
def scratch_folder(parent: Path, prefix: str, *, voice: Voice | None = None) -> Iterator[Path]:
    """A new folder below ``parent``, removed after the block; raises OSError.

    ``voice`` says so where that takes long, as of the tens of thousands of files of an environment.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder, held = _locked(parent, prefix)
    try:
        yield folder
    finally:
        with nullcontext() if voice is None else saying(voice, "tidy", OWN_FILES):
            remove_tree(folder)
        os.close(held)


@contextmanager
def work_folder(cache: Path, prefix: str, *, voice: Voice | None = None) -> Iterator[Path]:
    """A scratch folder in the cache, where links to what it holds can be made; where this user may only read the cache
    it lies where temporary files do."""
    readable = cache.is_dir() and not os.access(cache, os.W_OK | os.X_OK)
    parent, name = (Path(tempfile.gettempdir()), f"kbuild-{prefix}") if readable else (cache, prefix)
    with scratch_folder(parent, name, voice=voice) as folder:
        yield folder


def _locked(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX)
        if folder.exists():
            return folder, held
        os.close(held)  # taken for left over in the moment before it was locked


def is_left_over(folder: Path) -> bool:
    """Whether whoever made a scratch folder has ended without removing it."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True


def remove_tree(folder: Path) -> None:
    """Remove a tree, also where an image's directories are not writable; what cannot be removed stays, to be pruned."""
    with contextlib.suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except RecursionError:  # before Python 3.13 it goes one call deeper for each folder
            _flatten(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _flatten(folder: Path) -> None:
    """Bring every folder of a tree to its top."""
    pending, number = [folder], 0
    while pending:
        with os.scandir(pending.pop()) as found:
            inner = [entry.path for entry in found if entry.is_dir(follow_symlinks=False)]
        for path in inner:
            number += 1
            pending.append(folder / f".flat-{number}")
            Path(path).rename(pending[-1])
