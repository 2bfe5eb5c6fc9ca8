"""Files on disk, for every floor."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def expand_home(text: str) -> Path:
    """The path with the home for its ``~``; that of a user who is not there stays as it is, and leads nowhere."""
    return Path(os.path.expanduser(text))  # noqa: PTH111  pathlib's own raises for such a user


def link_or_copy(source: Path, target: Path) -> None:
    """The same bytes at ``target``: a hard link where the file system allows one, else a copy; raises OSError.

    Only for files that are never changed in place, such as blobs, or that nobody else has.
    """
    try:
        os.link(source, target)
    except OSError:
        # Another file system, a file system without links, or a user who may not link: a copy says what is wrong.
        shutil.copyfile(source, target)
