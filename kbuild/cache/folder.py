"""The cache folder as a whole: who works with it.

Everything in it can be made or fetched again. What any running command has used since it began stays, and what a
running container needs (``in_use``); everything else may go at any time, so whoever takes something marks it as used
first. A cache that a user may only read serves: its lock then tells others to leave all of it alone.
"""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kbuild.cache.limit import CacheKeeper
from kbuild.cache.locks import cache_lock, telling
from kbuild.cache.sessions import CacheSession
from kbuild.errors import OutputError
from kbuild.files import READ_ONLY


@contextmanager
def using_cache(cache: Path, *, limit: int | None = None) -> Iterator[None]:
    """Keep others from removing what is used in the cache meanwhile, and the cache within ``limit`` bytes.

    What this process is about to write is told by ``kbuild.cache.room``. Raises OutputError for what is no folder, and
    for whatever the system refuses the block, with the cache and its size.
    """
    with telling(cache), ExitStack() as stack:
        # What others may write here would go into images.
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        who = _others_who_write(cache.stat())
        if who is not None:
            raise OutputError(
                f"{who} may write to the cache {cache}, and what they write would go into images",
                hint=f"chmod go-w {cache}, or another KBUILD_CACHE_DIR; kbuild cache verify reads what is there",
            )
        keeper = stack.enter_context(_joined(cache))
        if keeper is None:
            stack.enter_context(cache_lock(cache, fcntl.LOCK_SH))
        elif limit is not None:
            stack.enter_context(keeper.limited(limit))
        yield


def own_folder(cache: Path) -> tuple[Path, bool]:
    """The cache, or one of this user's own in it where others may write to it, everybody, a group or another user
    whose it is; and whether that was made just now.

    Mounts of containers often are such, and nobody but root may change them. What others write there would go into
    images. One that may only be read is taken as it is. Raises OutputError for a folder of one's own that others own,
    or may have put something into.
    """
    user = os.geteuid()
    try:
        status = cache.stat()
        if _others_who_write(status) is None and (status.st_uid in (user, 0) or not os.access(cache, os.W_OK)):
            return cache, False
    except OSError:
        return cache, False  # whoever uses it says what is wrong
    own = cache / f"uid-{user}"
    try:
        own.mkdir(mode=0o700)
    except FileExistsError:
        status = own.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != user:
            raise _foreign(own, own) from None
        if stat.S_IMODE(status.st_mode) & 0o077:
            own.chmod(0o700)  # a job that restores a cache may give it any mode
        for path in (*own.glob("*"), *own.glob("*/*")):
            if path.lstat().st_uid != user:
                raise _foreign(path, own) from None
        return own, False
    except OSError as error:
        raise OutputError(f"cannot make {own}: {error.strerror}", hint="another KBUILD_CACHE_DIR") from error
    return own, True


def _others_who_write(status: os.stat_result) -> str | None:
    """Who beside its owner may write to a folder, if anybody may; a user's own group is the user."""
    if status.st_mode & stat.S_IWOTH:
        return "everybody"
    if not status.st_mode & stat.S_IWGRP:
        return None
    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"the group {status.st_gid}"
    return None if group.gr_name == user and not set(group.gr_mem) - {user} else f"the group {group.gr_name}"


def _foreign(path: Path, own: Path) -> OutputError:
    return OutputError(
        f"{path} is not a folder of this user's, and what others write to a cache would go into images",
        hint=f"rm -r {own}, or another KBUILD_CACHE_DIR",
    )


def begin_again(cache: Path, *needed: Path) -> None:
    """Of what this process has used in the cache so far it needs nothing more but ``needed``.

    Nothing happens where several parts of this process work with it.
    """
    with _GUARD:
        keeper, users = _JOINED.get(str(cache), (None, 0))
        if keeper is not None and users == 1:
            keeper.begin_again(needed)


_JOINED: dict[str, tuple[CacheKeeper, int]] = {}
_GUARD = threading.Lock()


@contextmanager
def _joined(cache: Path) -> Iterator[CacheKeeper | None]:
    """This process's keeper of the cache, one for all its parts; None for a cache that may only be read."""
    name = str(cache)
    with _GUARD:
        keeper, users = _JOINED.get(name, (None, 0))
        if keeper is None:
            try:
                keeper = CacheKeeper(cache, CacheSession(cache))
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise
        if keeper is not None:
            _JOINED[name] = (keeper, users + 1)
    if keeper is None:
        yield None
        return
    try:
        yield keeper
    finally:
        with _GUARD:
            users = _JOINED[name][1] - 1
            if users:
                _JOINED[name] = (keeper, users)
            else:
                del _JOINED[name]
                keeper.session.close()
