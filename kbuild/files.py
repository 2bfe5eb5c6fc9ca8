"""Files on disk, for every floor."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

BYTES = ("utf-8", "surrogateescape")
"""How names are text in what digests are made of: bytes that are no UTF-8 are U+DC80 to U+DCFF (PEP 383), and go back
to the same bytes. No letter is ever composed or decomposed."""
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""What the system says where this user may only read, errno(3)."""
NO_HOME = "this user has no home folder, and HOME is not set"


def portable(name: str) -> str:
    """A name that the file system gave, as ``BYTES`` has it: the same under every locale."""
    return os.fsencode(name).decode(*BYTES)


def native(name: str) -> str:
    """A name that a document in UTF-8 gave, as calls of this process need it: the same bytes under every locale."""
    return os.fsdecode(name.encode(*BYTES))


def expand_home(text: str) -> Path:
    """The path with the home for its ``~``; that of a user who is not there stays as it is, and leads nowhere."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  pathlib's own raises for such a user


def user_folder(kind: Literal["cache", "state"]) -> Path:
    """Where this user keeps kbuild's files of that kind; raises FileNotFoundError for a user without a home."""
    import platformdirs  # not where wheels are installed in a stage of a Dockerfile

    find = platformdirs.user_cache_dir if kind == "cache" else platformdirs.user_state_dir
    try:
        folder = Path(find("kbuild"))
    except RuntimeError:  # of newer ones; older ones leave the ~
        folder = Path()
    if not folder.is_absolute():
        raise FileNotFoundError(errno.ENOENT, NO_HOME)
    return folder


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes at ``target``: a hard link where the file system allows one, else a copy; raises OSError.

    Only for files that are never changed in place, such as blobs, or that nobody else has.
    """
    try:
        os.link(source, target)
    except OSError:
        # Another file system, a file system without links, or a user who may not link: a copy says what is wrong.
        shutil.copyfile(source, target)


def mark_used(path: Path, *, within: int = 0) -> None:
    """Set the access time to now: the cache keeps what was used last. The modification time stays.

    One of the last ``within`` seconds stays too: with it a file's time of change does, by which it is known.
    """
    # A cache on a read-only disk, or of another user, still serves.
    with contextlib.suppress(OSError):
        status, now = path.stat(), time.time_ns()
        if not 0 <= now - status.st_atime_ns < within * 1_000_000_000:
            os.utime(path, ns=(now, status.st_mtime_ns))


def meant_beside(path: Path) -> Path | None:
    """Of the files beside one that is not there that whose name comes nearest."""
    with contextlib.suppress(OSError):
        nearest = get_close_matches(path.name, [each.name for each in path.parent.iterdir() if each.is_file()], n=1)
        return path.with_name(nearest[0]) if nearest else None
    return None
