"""Errors that are not of kbuild's own making, as one of its own: what the system refused, and what nobody foresaw."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from kbuild.errors import ExtraNotInstalled, KbuildError, OutputError, UnexpectedError
from kbuild.files import expand_home, user_folder

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where a disk, or this user's part of it, is full, errno(3)."""
_REMEDIES = {
    errno.ENOSPC: "make room there: kbuild cache prune, or a smaller {limit}; or set {variable} to a folder on a "
    "larger disk",
    errno.EDQUOT: "make room there: kbuild cache prune, or a smaller {limit}; or set {variable} to a folder without a "
    "quota",
    errno.EACCES: "set {variable} to a folder of your own, or let this user write there",
    errno.EPERM: "set {variable} to a folder of your own, or let this user write there",
    errno.EROFS: "set {variable} to a folder that can be written",
    errno.EEXIST: "move what is in the way, or set {variable} to another folder",
    errno.ENOTDIR: "move the file that is in the way, or set {variable} to another folder",
    errno.ENAMETOOLONG: "set {variable} to a folder with a shorter path",
    errno.EMFILE: "allow more open files: ulimit -n 4096",
    errno.ENFILE: "close other programs, or raise the system's limit: sysctl fs.file-max",
    errno.ESTALE: "mount the file system again, or set {variable} to a folder on a local disk",
    errno.EIO: "the disk fails: look at dmesg, or set {variable} to a folder on another disk",
}
"""What to do about an errno(3) of a folder that a variable names."""
_NETWORK = {
    errno.ECONNREFUSED: "nothing listens there: start the server, or check its address and port",
    errno.ECONNRESET: "try again; if it stays, look at the server's log",
    errno.EPIPE: "try again; if it stays, look at the server's log",
    errno.EHOSTUNREACH: "check the address, the network and the proxy settings (HTTPS_PROXY, NO_PROXY)",
    errno.ENETUNREACH: "check the address, the network and the proxy settings (HTTPS_PROXY, NO_PROXY)",
    errno.ETIMEDOUT: "check the address, the network and the proxy settings (HTTPS_PROXY, NO_PROXY)",
    errno.EADDRINUSE: "choose another port, or stop the program that has it",
}
"""What to do about an errno(3) of a connection: no folder has to do with it."""
_LONGEST = 200
_LITTLE = 64 << 20  # bytes of room with which a disk counts as full


def refused_by_system(error: OSError, *, cache: Path | None = None) -> OutputError:
    """What the kernel refused, as one line: which file, why, the variable that names its folder, and the remedy.

    ``cache`` is the cache in use; a path below it is KBUILD_CACHE_DIR's, one below the temporary folder TMPDIR's.
    """
    reason = (error.strerror or os.strerror(error.errno or 0)).rstrip(".")
    name = error.filename2 if error.filename2 is not None and error.errno != errno.ENOENT else error.filename
    path = "" if name is None or isinstance(name, int) else os.fsdecode(name)
    if error.errno in _NETWORK:
        return OutputError(reason + (f": {_short(path)}" if path else ""), hint=_NETWORK[error.errno])
    variable, where = None, ""
    temporary = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # noqa: PTH100, S108  where tempfile looks first
    # Work folders lie in the cache; a full disk is mostly told by a write, which names no file.
    scratch = not path and error.errno == errno.ENOSPC and cache is not None and _is_full(temporary, str(cache))
    if cache is not None and (not path or _is_of(path, str(cache))) and not scratch:
        variable, where = "KBUILD_CACHE_DIR", f"the cache {cache}"
    elif _is_below(path, temporary) or scratch:
        variable, where = "TMPDIR", f"the temporary folder {temporary}"
    size = ""
    if variable == "KBUILD_CACHE_DIR" and error.errno in FULL:
        size = f" (it holds {_bytes_in(str(cache)) / 1e9:.2f} GB)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        where, size = "", ""
    file = "" if not path or path == str(cache) else f": {_short(path)}"
    message = f"{where}{size}: {reason}{file}" if where else f"{reason}{file}"
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None:
        return OutputError(message, hint="check free disk space and permissions")
    if variable is None and "{variable}" in remedy:
        full = error.errno in FULL
        remedy = (
            "make room there: kbuild cache prune frees the cache's" if full else "choose another place, or mend this"
        )
    return OutputError(message, hint=remedy.format(variable=variable, limit="KBUILD_CACHE_LIMIT"))


def _cache_of(name: object) -> Path | None:
    """The cache that this user's commands have, where a path is in it, or on the way to it."""
    try:
        stated = os.environ.get("KBUILD_CACHE_DIR")
        cache = os.path.abspath(expand_home(stated) if stated else user_folder("cache"))  # noqa: PTH100
        path = os.fsdecode(name) if isinstance(name, str | bytes) else ""
    except OSError:
        return None
    return Path(cache) if path and _is_of(path, cache) else None


def _is_of(path: str, cache: str) -> bool:
    """Whether it lies in the cache, or is a folder above it that could not be made."""
    return _is_below(path, cache) or (_is_below(cache, path) and not os.path.lexists(path))


def _is_full(one: str, other: str) -> bool:
    """Whether the disk of the first folder is full, and that of the second not."""
    with contextlib.suppress(OSError):
        return _room(one) < _LITTLE <= _room(other)
    return False


def _room(folder: str) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _bytes_in(folder: str) -> int:
    """Bytes on disk below a folder, what is linked twice counted once; what cannot be looked at counts nothing."""
    seen: dict[tuple[int, int], int] = {}
    for here, _, names in os.walk(folder):
        for each in names:
            with contextlib.suppress(OSError):
                status = os.lstat(f"{here}/{each}")
                seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def _short(path: str) -> str:
    return path if len(path) <= _LONGEST else f"{path[:80]}…{path[-80:]}"


def known_error(error: Exception) -> KbuildError:
    """Any error as one of these: a missing package and what the system refused have a name, the rest is a defect."""
    if isinstance(error, KbuildError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("kbuild"):
        return ExtraNotInstalled(f"the Python package {error.name} is not installed")
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return refused_by_system(error, cache=_cache_of(error.filename))
    return UnexpectedError(f"{type(error).__name__}: {text}")
