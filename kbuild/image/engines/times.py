"""The times of what BuildKit is sent."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def stamp_times(folder: Path) -> None:
    """Give every file and link below ``folder`` a time made from its content. Raises OSError.

    BuildKit sends only what changed since its last look at a folder, and judges by size and time: with one time for
    all, a changed file of the same size would stay behind, silently. And a file that an earlier COPY brought is left
    out of a layer only when the times agree. So equal content gets equal times, other content others, whoever made the
    folder; in the image all of them become 0.
    """
    for parent, folders, names in os.walk(folder):
        for name in [*names, *(name for name in folders if Path(parent, name).is_symlink())]:
            path = Path(parent, name)
            wanted = _content_time(path)
            if path.lstat().st_mtime_ns != wanted:
                os.utime(path, ns=(wanted, wanted), follow_symlinks=False)


def _content_time(path: Path) -> int:
    """Nanoseconds since 1970, from 31 bits of seconds (what every file system can hold) and nanoseconds below 10^9."""
    if stat.S_ISLNK(path.lstat().st_mode):
        content = hashlib.sha256(os.fsencode(path.readlink()))
    elif path.is_file():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
    else:
        content = hashlib.sha256()
    number = int.from_bytes(content.digest()[:12], "big")
    return (1 + number % (2**31 - 2)) * 10**9 + number // 2**31 % 10**9
