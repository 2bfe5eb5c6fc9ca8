"""Small files that say what was found out once: written whole, and vouched for by a key that lies outside of the cache.

Whoever may write to a cache, or made the one that a job restores, can write trees, layers and whatever the cache says
of them, all fitting. So what decides a build is believed only where it carries the mark (HMAC, RFC 2104) of a key of
this user's: ``KBUILD_CACHE_KEY``, else one that is made once and kept with the user's state, apart from the cache.
What carries no such mark counts as not there. What has a digest that others state (downloads, in the lock) needs none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import logging
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from kbuild.digest import digest_file
from kbuild.errors import ConfigurationError
from kbuild.files import NO_HOME, READ_ONLY, user_folder

KEY_VARIABLE = "KBUILD_CACHE_KEY"
_LOG = logging.getLogger(__name__)
_MARK = 64  # hexadecimal figures of a SHA-256
_SHORTEST = 16
"""Characters of a key that is stated: 64 bits of hexadecimal figures."""
_ONE_KEY = threading.Lock()
_READING_ALL: list[None] = []
_TOLD: list[Path] = []


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all: whoever reads meanwhile sees the old one or the new one.

    Others may read it as far as the umask lets them, as what it tells of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:16]}-{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_vouched(path: Path, data: bytes) -> None:
    """As ``write_whole``, with a mark after it."""
    write_whole(path, vouched(path, data))


def vouched(path: Path, data: bytes) -> bytes:
    """The data with a mark that vouches for it in the file ``path``, by its folder's name and its own."""
    return data + b"\n" + _mark(path, data)


def write_if_allowed(path: Path, data: bytes) -> None:
    """As ``write_vouched``, for what is found out again where a cache may only be read."""
    with if_allowed():
        write_vouched(path, data)


@contextmanager
def if_allowed() -> Iterator[None]:
    """Pass over that a cache may only be read."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise


def read_vouched(path: Path) -> bytes:
    """What ``write_vouched`` wrote; raises FileNotFoundError also for what somebody else did."""
    whole = path.read_bytes()
    data, mark = whole[: -_MARK - 1], whole[-_MARK:]
    if whole[-_MARK - 1 : -_MARK] != b"\n" or not hmac.compare_digest(_mark(path, data), mark):
        _tell_of_strangers(path)
        raise FileNotFoundError(errno.ENOENT, "nobody here vouches for it", str(path))
    return data


def vouch_for(path: Path) -> None:
    """Vouch for a file that others read as it is, in a hidden one beside it; raises OSError."""
    write_vouched(_beside(path), digest_file(path).hex.encode())


def is_vouched_for(path: Path) -> bool:
    """Whether a file is what somebody of this key wrote."""
    try:
        return read_vouched(_beside(path)) == digest_file(path).hex.encode()
    except FileNotFoundError:
        return False


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.vouched")


def derive_key(purpose: str) -> str:
    """A key that is made of this one and tells nothing of it, for a cache of another place."""
    return hmac.new(_key(), purpose.encode(), hashlib.sha256).hexdigest()


def has_stated_key() -> bool:
    """Whether the key is one that other machines can have too, and not this user's own."""
    return bool(os.environ.get(KEY_VARIABLE))


def check_stated_key() -> None:
    """Raises ConfigurationError for a stated key that others can guess."""
    stated = os.environ.get(KEY_VARIABLE)
    if stated and len(stated) < _SHORTEST:
        raise ConfigurationError(
            f"{KEY_VARIABLE} has {len(stated)} characters: who can guess it can vouch for a cache of theirs",
            hint=f"set it to a random text of {_SHORTEST} or more, as openssl rand -hex 32 prints one, or unset it",
        )


@contextmanager
def reading_all() -> Iterator[None]:
    """Within it what the cache holds is read whole and compared with its digest, though nobody touched it."""
    _READING_ALL.append(None)
    try:
        yield
    finally:
        _READING_ALL.pop()


def is_reading_all() -> bool:
    """Whether ``reading_all`` holds."""
    return bool(_READING_ALL)


def _mark(path: Path, data: bytes) -> bytes:
    name = os.fsencode(f"{path.parent.name}/{path.name}")
    return hmac.new(_key(), name + b"\0" + data, hashlib.sha256).hexdigest().encode()


def _key() -> bytes:
    check_stated_key()
    stated = os.environ.get(KEY_VARIABLE)
    if stated:
        return os.fsencode(stated)
    with _ONE_KEY:  # functools.cache lets several threads in at once, each of which may draw one of its own
        try:
            folder = user_folder("state")
        except FileNotFoundError:
            return _own_key(None)
        return _own_key(folder / "cache-key")


@cache
def _own_key(path: Path | None) -> bytes:
    """The key in a file that is this user's alone; one for this process where no such file can be."""
    try:
        if path is None:
            raise FileNotFoundError(errno.ENOENT, NO_HOME)
        if not os.path.lexists(path):
            _make_key(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status, key = os.fstat(file.fileno()), file.read()
        if status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077 and len(key) == _MARK:
            return key
        reason = "it is not this user's alone (mode 0600)"
    except OSError as error:
        reason = error.strerror or str(error)
    _LOG.warning(
        "no key of the cache in %s: %s; what earlier commands made counts for nothing. Set %s to a secret of yours",
        path or "a file",
        reason,
        KEY_VARIABLE,
    )
    return secrets.token_bytes(_MARK)


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(_MARK // 2).encode())
        # Two processes may make one at once: the first is everybody's.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _tell_of_strangers(path: Path) -> None:
    """Once: a cache of another machine has thousands of such files."""
    if not _TOLD:
        _TOLD.append(path)
        _LOG.warning(
            "%s of the cache was written elsewhere, by an earlier kbuild or with another %s: what such files say "
            "counts for nothing, and is found out again",
            path,
            KEY_VARIABLE,
        )
