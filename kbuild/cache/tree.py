"""Directory trees that become layers: one mode, one time, hard links instead of copies, and a digest over all of it.

A cached tree is read-only by agreement: staged trees are hard links to its files, so whoever writes into one of
them writes into the cache. Modes and times are therefore normalised once, before a tree enters the cache.
"""

# ruff: noqa: PTH101, PTH115
# os on strings takes a third of the time of pathlib, over tens of thousands of files

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kbuild.cache.notes import KEY_VARIABLE, is_reading_all, read_vouched, write_if_allowed, write_vouched
from kbuild.cache.scratch import scratch_folder
from kbuild.cache.signature import tree_signature
from kbuild.digest import Digest, digest_file
from kbuild.errors import CacheDamaged, OutputError
from kbuild.files import BYTES, mark_used, portable
from kbuild.refused import FULL, refused_by_system

SEEN = ".seen"
"""Ends the name of what tells that nobody wrote to a tree since."""
UNPACKED = "unpacked"
"""The folder of the cache with layers as trees, a folder below for each recipe."""
_LOG = logging.getLogger(__name__)
_NOTHING: Mapping[str, str] = {}


@contextmanager
def writing(what: str, cache: Path | None = None) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError naming ``what``, the path and the reason; of a ``cache`` that is
    full also its folder and size."""
    try:
        yield
    except OSError as error:
        if cache is not None and error.errno in FULL:
            told = refused_by_system(error, cache=cache)
            raise OutputError(f"cannot write {what}: {told.message}", hint=told.hint) from error
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in FULL
        hint = (
            "make room: kbuild cache prune, a smaller KBUILD_CACHE_LIMIT, or another KBUILD_CACHE_DIR" if full else None
        )
        raise OutputError(f"cannot write {what}: {error.strerror or error}{where}", hint=hint) from error


def cached_tree(path: Path, make: Callable[[Path], None], *, sealed: bool = True) -> Path:
    """``path`` if it exists, else what ``make`` writes into a new directory beside it, moved there in one step.

    Two processes may make the same tree at once; the first to finish wins and both see a whole one. ``sealed`` writes
    down the digest of what was made. A tree that is there is compared with it, as far as anybody may have written to it
    since (see ``tree_signature``); without one it counts while sizes, times and inodes are those it was made with. One
    that this machine does not vouch for, or that is not what was made (a cache that a job restores may have other
    modes, or lack empty folders), is made again. Raises CacheDamaged where it cannot be removed.
    """
    return cached_trees([path], lambda roots: make(roots[path]), sealed=sealed)[0]


def cached_trees(
    paths: Sequence[Path], make: Callable[[dict[Path, Path]], Mapping[str, str] | None], *, sealed: bool = True
) -> list[Path]:
    """As ``cached_tree`` for several; ``make`` gets those that are not there, and where to write each. What it returns
    is the sha256 of files that it wrote, by their path: these are not read again."""
    missing: list[Path] = []
    for path in paths:
        if path in missing:
            continue
        if is_sound(path, sealed=sealed):
            mark_used(path)
            continue
        if path.is_dir() and sealed and is_sealed(path):
            _LOG.warning("%s of the cache is not what was made, and is made again", path)
        missing.append(path)
        _discard(path)
    with ExitStack() as stack:
        scratches = {path: stack.enter_context(scratch_folder(path.parent, f".{path.name[:16]}-")) for path in missing}
        written = make(dict(scratches)) if scratches else None
        for path, scratch in scratches.items():
            _enter(scratch, path, sealed=sealed, written=written or {})
    return list(paths)


def is_sound(path: Path, *, sealed: bool = True) -> bool:
    """Whether a tree is there and what was made; it is read only where that could be otherwise.

    Under ``reading_all`` one without a seal is not: there is nothing to compare it with, so it is made again.
    """
    if not path.is_dir() or (is_reading_all() and not sealed):
        return False
    seen = _seal(path).with_name(f"{path.name}{SEEN}")
    signature = tree_signature(path, changes=sealed)
    with contextlib.suppress(FileNotFoundError):
        same = read_vouched(seen) == signature.encode()
        if same and not is_reading_all():
            return True
    if not sealed:
        return False
    if is_damaged(path) is not False:
        return False
    write_if_allowed(seen, signature.encode())
    return True


def _discard(path: Path) -> None:
    """Remove a tree, if it is there; others see all of it or nothing."""
    away = path.with_name(f".{path.name[:16]}-{secrets.token_hex(6)}")
    try:
        path.rename(away)
        shutil.rmtree(away)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CacheDamaged(
            f"{path} of the cache is not what this machine made, and cannot be removed: {error.strerror}",
            hint=None
            if is_sealed(path)
            else f"another KBUILD_CACHE_DIR, or the {KEY_VARIABLE} of those who write to this one",
        ) from error


def _enter(scratch: Path, path: Path, *, sealed: bool, written: Mapping[str, str]) -> None:
    signature = tree_signature(scratch, changes=sealed)
    if sealed:
        # Before the tree: one without a seal counts for nothing.
        write_vouched(_seal(path), str(tree_digest(scratch, times=False, written=written)).encode())
    try:
        scratch.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        mark_used(path)  # its times are those of what is in it
        write_if_allowed(_seal(path).with_name(f"{path.name}{SEEN}"), signature.encode())


def is_sealed(path: Path) -> bool:
    """Whether this machine vouches for a digest of a tree."""
    try:
        return bool(read_vouched(_seal(path)))
    except FileNotFoundError:
        return False


def is_foreign(path: Path) -> bool:
    """Whether somebody else wrote down what a tree was made as."""
    return _seal(path).is_file() and not is_sealed(path)


def is_damaged(path: Path) -> bool | None:
    """Whether a tree in the cache is no longer what was made; None where nobody here wrote down what that was."""
    try:
        return read_vouched(_seal(path)) != str(tree_digest(path, times=False)).encode()
    except FileNotFoundError:
        return None


def _seal(path: Path) -> Path:
    folder = path.parent
    if folder.parent.name == UNPACKED:
        return folder.parent.parent / "seals" / f"{UNPACKED}.{folder.name}" / path.name
    return folder.parent / "seals" / folder.name / path.name


def stamp(path: Path) -> list[int]:
    """Size, modification time and inode: while they stay, nobody wrote to the file since it was last hashed."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def normalise_tree(root: Path, *, sticky: frozenset[str] = frozenset()) -> None:
    """Directories 0755, files 0755 or 0644 by their owner's execute bit, every time 0.

    Directories whose path below ``root`` is in ``sticky`` get 1777. Raises OutputError for devices, sockets
    and pipes, which no package has.
    """
    for directory, names, files in os.walk(root, topdown=False):
        for name in [*files, *names]:
            path = f"{directory}/{name}"
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode):
                os.chmod(path, 0o755 if mode & stat.S_IXUSR else 0o644)
            elif not stat.S_ISLNK(mode) and not stat.S_ISDIR(mode):
                raise OutputError(f"neither a file, a directory nor a link: {path}")
            if not stat.S_ISDIR(mode):
                os.utime(path, (0, 0), follow_symlinks=False)
        os.chmod(directory, 0o1777 if os.path.relpath(directory, root) in sticky else 0o755)
        os.utime(directory, (0, 0))


def reset_directory_times(root: Path) -> None:
    """Set every directory's time back to 0 once nothing more is added to the tree."""
    for directory, _, _ in os.walk(root):
        os.utime(directory, (0, 0))


def tree_digest(root: Path, *, times: bool = True, written: Mapping[str, str] = _NOTHING) -> Digest:
    """The digest of a tree's paths, kinds, modes, times, link targets and contents; owners play no part. Files whose
    sha256 ``written`` has are not read."""
    state = hashlib.sha256()
    top = len(f"{root}/")
    for directory, names, files in os.walk(root):
        names.sort(key=os.fsencode)
        for name in sorted([*names, *files, "."], key=os.fsencode):
            path = directory if name == "." else f"{directory}/{name}"
            info = os.lstat(path)
            line: list[str | int] = [portable(path[top:]) or ".", stat.filemode(info.st_mode)]
            if stat.S_ISLNK(info.st_mode):
                line[1:] = ["link", portable(os.readlink(path))]
            elif times:
                line.append(info.st_mtime_ns)
            if stat.S_ISREG(info.st_mode):
                line.append(written.get(path) or digest_file(path).hex)
            state.update(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode(*BYTES) + b"\n")
    return Digest(state.hexdigest())


def make_directory(path: Path) -> None:
    """Make a directory of mode 0755, whatever the umask, and its parents."""
    if not path.is_dir():
        path.mkdir(parents=True)
        path.chmod(0o755)
