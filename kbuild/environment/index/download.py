"""Downloading locked packages into a cache that is addressed by content."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from urllib3.exceptions import HTTPError

from kbuild.bounded.in_time import steady
from kbuild.cache.room import room_for
from kbuild.digest import digest_file
from kbuild.environment.conda_settings import conda_settings
from kbuild.environment.index.channel_network import reach_as_conda
from kbuild.environment.index.copies import find_copies
from kbuild.environment.index.downloads import cache_path, cached_package
from kbuild.environment.index.package_indexes import Indexes, network_reason
from kbuild.environment.index.pip_network import configure
from kbuild.environment.index.pip_settings import PROXY
from kbuild.environment.lockfile import CHANNEL_VARIABLE, LOCAL_URLS, LockedPackage
from kbuild.errors import HashMismatch, IndexUnavailable, InterpreterCaptureFailed, OutputError
from kbuild.http import ThreadSessions, Tries, bounded_session
from kbuild.progress import Progress, how_many
from kbuild.refused import refused_by_system
from kbuild.urls.credentials import expand_variables, split_credentials

_THREADS = 8
_CHUNK = 1 << 18
_TIMEOUT = (15.0, 60.0)
# Not Found, Gone, Unavailable For Legal Reasons (RFC 9110 and 7725).
_GONE = (404, 410, 451)
_RETRY = Tries(total=4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False)


def make_session(environ: Mapping[str, str]) -> requests.Session:
    """A session that tries again what may pass, with backoff.

    It trusts the certificates that ``REQUESTS_CA_BUNDLE`` of ``environ`` names: pip's own, where pip is told of any;
    pip's proxy, client certificate and trusted hosts count too.
    """
    session = bounded_session(_RETRY)
    session.verify = environ.get("REQUESTS_CA_BUNDLE") or True
    configure(session, environ, max_retries=_RETRY)
    return session


def channel_session(environ: Mapping[str, str]) -> requests.Session:
    """The same for the channels of conda, whose own settings count for more than pip's; raises ConfigurationError."""
    settings = conda_settings(environ)
    pips = {name: value for name, value in environ.items() if not (settings.proxies and name == PROXY)}
    session = make_session(pips)
    reach_as_conda(session, settings, environ)
    return session


def fetch_packages(
    packages: Iterable[LockedPackage],
    *,
    cache: Path,
    channel: Path | None,
    progress: Progress,
    environ: Mapping[str, str],
    indexes: Indexes | None = None,
    channels: Callable[[], Iterable[str]] = tuple,
) -> dict[LockedPackage, Path]:
    """A local file, its sha256 checked, for every package: ``cache/<sha256>/<filename>``.

    ``channel`` is the local channel of captured packages; ``environ`` fills variables in urls; credentials come from
    there, from ``indexes`` or from ~/.netrc, when a request is made. What is in the cache is not asked for again. What
    its place does not give is taken from another of the ``indexes`` or ``channels`` (urls) that has it by its sha256.
    Raises HashMismatch, PackageNotFound where a file is gone from all of them, IndexUnavailable,
    InterpreterCaptureFailed (a captured package that is not here), ConfigurationError (a variable that is not set) and
    OutputError.
    """
    wanted = list(dict.fromkeys(packages))
    found = {package: path for package in wanted if (path := cached_package(package, cache)) is not None}
    missing = [package for package in wanted if package not in found]
    if not missing:
        return {package: found[package] for package in wanted}
    progress.note(f"Fetching {len(missing)} of {how_many(len(wanted), 'package')}")
    with (
        ThreadSessions(lambda: make_session(environ)) as sessions,
        ThreadSessions(lambda: channel_session(environ)) as of_channels,
    ):
        fetcher = _Fetcher(cache, channel, environ, indexes, channels, (sessions, of_channels), progress)
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                futures = {pool.submit(fetcher.fetch, package): package for package in missing}
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                fetcher.stop()
                pool.shutdown(cancel_futures=True)
            failed = [error for future in futures if not future.cancelled() and (error := future.exception())]
    if failed:
        raise next((error for error in failed if not isinstance(error, _Stopped)), failed[0])
    found |= {package: future.result() for future, package in futures.items()}
    return {package: found[package] for package in wanted}


def resolve_url(package: LockedPackage, *, channel: Path | None, environ: Mapping[str, str]) -> str:
    """The package's url with variables filled in; ``$KBUILD_CHANNEL`` is the url of ``channel``.

    Raises ConfigurationError for a variable that is not set, InterpreterCaptureFailed for a captured package where
    there is no local channel.
    """
    if channel is None:
        if package.url.startswith(LOCAL_URLS) and CHANNEL_VARIABLE not in environ:
            raise _not_here(package)
        return expand_variables(package.url, environ)
    return expand_variables(package.url, {**environ, CHANNEL_VARIABLE: channel.resolve().as_uri()})


def find_captured(package: LockedPackage, channel: Path) -> Path:
    """The file of a captured package or built wheel anywhere below ``channel``, by its sha256: the name may have
    changed on the way.

    Raises InterpreterCaptureFailed when none has that sha256.
    """
    # Conda's two formats, of which a file keeps the one it has: what a name ends in decides how it is read.
    endings = (".conda", ".tar.bz2") if package.manager == "conda" else (".whl",)
    for path in sorted(channel.rglob("*")):
        if path.name.endswith(endings) and path.is_file() and digest_file(path).hex == package.sha256:
            return path
    raise _not_here(package)


def _not_here(package: LockedPackage) -> InterpreterCaptureFailed:
    return InterpreterCaptureFailed(
        f"the lock names a captured {package.name} {package.version} that is not on this machine"
        f" (sha256 {package.sha256})",
        hint=f"fetch {package.filename} from where the lock comes from, or lock again",
    )


class _Stopped(Exception):
    """Another download failed first."""


class _NotGiven(IndexUnavailable):
    """The place of a file does not give it; ``gone`` where it answers that it has none."""

    def __init__(self, message: str, *, hint: str | None = None, gone: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.gone = gone


class _Fetcher:
    """Downloads in threads; ``stop`` ends them all."""

    def __init__(
        self,
        cache: Path,
        channel: Path | None,
        environ: Mapping[str, str],
        indexes: Indexes | None,
        channels: Callable[[], Iterable[str]],
        sessions: tuple[ThreadSessions, ThreadSessions],
        progress: Progress,
    ) -> None:
        self._cache, self._channel, self._environ = cache, channel, environ
        self._indexes, self._channels, self._sessions, self._progress = indexes, channels, sessions, progress
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._done = 0

    def stop(self) -> None:
        self._stopped.set()

    def _session(self, package: LockedPackage) -> requests.Session:
        of_indexes, of_channels = self._sessions
        return (of_channels if package.manager == "conda" else of_indexes).mine()

    def fetch(self, package: LockedPackage) -> Path:
        auth = None
        is_captured = package.is_captured and self._channel is not None
        if is_captured and self._channel is not None:
            url = find_captured(package, self._channel).resolve().as_uri()
        elif package.manager == "pip" and "@" in urlsplit(package.url).netloc:
            url, auth = split_credentials(package.url, self._environ)
        else:
            url = resolve_url(package, channel=self._channel, environ=self._environ)
        try:
            return self._fetch(package, url, auth)
        except _NotGiven as error:
            if is_captured:
                raise
            return self._fetch_elsewhere(package, url, error)

    def _fetch_elsewhere(self, package: LockedPackage, url: str, error: _NotGiven) -> Path:
        """The same file from another place: its sha256 says that it is the same, wherever it lies."""
        copies = find_copies(
            package,
            url,
            indexes=self._indexes,
            channels=self._channels,
            environ=self._environ,
            session=self._session(package),
        )
        for copy in copies.urls:
            try:
                found = self._fetch(package, copy, None)
            except (_NotGiven, HashMismatch):
                continue  # the next one may have it
            self._progress.tell(f"{error.message}; taken from {urlsplit(copy).hostname or copy}, by its sha256")
            return found
        if error.gone:
            raise copies.gone(package, error.message)
        raise IndexUnavailable(error.message, hint=error.hint)

    def _fetch(self, package: LockedPackage, url: str, auth: tuple[str, str] | None) -> Path:
        target = cache_path(package, self._cache)
        partial = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        state = hashlib.sha256()
        with _writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _writing(target), room_for(target) as room, partial.open("wb") as file:
                room.add_file(1)  # its folder
                room.add_file(1)  # what it does not fill of its last block
                for chunk in self._chunks(package, url, auth):
                    state.update(chunk)
                    room.add(len(chunk))
                    file.write(chunk)
            if state.hexdigest() != package.sha256:
                raise HashMismatch(
                    f"{package.filename}: expected sha256 {package.sha256}, got {state.hexdigest()}",
                    hint="somebody changed the file on its server, or on the way; if you trust it, lock again",
                )
            with _writing(target):
                partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _chunks(self, package: LockedPackage, url: str, auth: tuple[str, str] | None) -> Iterator[bytes]:
        chunks = _local_chunks(package, url) if url.startswith("file:") else self._remote_chunks(package, url, auth)
        for chunk in chunks:
            if self._stopped.is_set():
                raise _Stopped
            with self._lock:
                self._done += len(chunk)
                self._progress.count(self._done, None)
            yield chunk

    def _remote_chunks(self, package: LockedPackage, url: str, auth: tuple[str, str] | None) -> Iterator[bytes]:
        if auth is None and self._indexes is not None:
            auth = self._indexes.credentials_for(url, self._environ)
        try:
            # The bytes as they are: a server that compresses a wheel on the way would change its digest.
            headers = {"Accept-Encoding": "identity"}
            session = self._session(package)
            with session.get(url, stream=True, timeout=_TIMEOUT, auth=auth, headers=headers) as response:
                response.raise_for_status()
                yield from steady(response, response.raw.stream(_CHUNK, decode_content=False))
        except requests.HTTPError as error:
            raise _NotGiven(
                f"{urlsplit(url).hostname} does not give {package.filename}: {error.response.status_code}"
                f" {error.response.reason}",
                gone=error.response.status_code in _GONE,
            ) from error
        except (requests.RequestException, HTTPError) as error:
            raise _NotGiven(
                f"{urlsplit(url).hostname} does not give {package.filename}: {network_reason(error)}",
                hint="check the network and the proxy, then run it again: what was fetched is kept",
            ) from error


def _local_chunks(package: LockedPackage, url: str) -> Iterator[bytes]:
    path = Path(unquote(urlsplit(url).path))
    try:
        file = path.open("rb")
    except OSError as error:
        gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise _NotGiven(f"cannot read {path} for {package.name}: {error.strerror}", gone=gone) from error
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        told = refused_by_system(error, cache=target.parents[2])
        raise OutputError(f"cannot write {target.name}: {told.message}", hint=told.hint) from error
