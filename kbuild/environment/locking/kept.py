"""Locks on this machine's disk: those in the cache, and the file that a user asked for."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from kbuild.digest import Digest, digest_json
from kbuild.environment.links import is_local
from kbuild.environment.lockfile import SIDE_FILE, Lockfile
from kbuild.environment.spec import EnvironmentSpec

LOCKFILE_NAME = "conda-lock.yml"
_PATIENCE = 10.0  # seconds for which a reader of a pipe is waited for


def cached_locks(cache: Path) -> list[Path]:
    """Every lockfile that this machine has made and still keeps."""
    return sorted((cache / "locks").glob(f"*/{LOCKFILE_NAME}"))


def side_file(cache: Path, lockfile: Lockfile, spec: EnvironmentSpec) -> Path:
    """The side file of a lock that was made here."""
    key = lockfile.digest if lockfile.input_digest is None else lockfile.input_digest
    return cached_lock(cache, key, spec).with_name(SIDE_FILE)


def cached_lock(cache: Path, digest: Digest, spec: EnvironmentSpec) -> Path:
    """Where a lock is kept. Folders of this machine count here: two of them may have other files of one name."""
    folders = [url for url in (*spec.find_links, *spec.indexes) if is_local(url)]
    key = digest_json([str(digest), folders]) if folders else digest
    return cache / "locks" / key.hex / LOCKFILE_NAME


def write_lockfile(lockfile: Lockfile, path: Path) -> None:
    """Write the lockfile's bytes whole or not at all; raises OSError.

    A device or pipe (``/dev/null``, ``/dev/stdout``) is written to: a rename would put a file in its place, and for
    root that is the whole machine's.
    """
    if path.exists() and not path.is_file():
        with os.fdopen(_opened(path), "wb") as file:
            os.set_blocking(file.fileno(), True)
            file.write(lockfile.content)
        return
    write_file(lockfile.content, path)


def _opened(path: Path) -> int:
    """A device, or a pipe once somebody reads it; raises OSError (ENXIO) where nobody does for a while."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > until:
                raise
        time.sleep(0.05)


def write_file(content: bytes, path: Path) -> None:
    """Write a file whole or not at all; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
