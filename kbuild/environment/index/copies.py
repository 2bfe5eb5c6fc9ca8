"""Where else a locked file is, when the place that the lock names no longer gives it.

Formats: PyPA's "Simple repository API"; conda's docs, "Channels and generating an index" (``CHANNEL/SUBDIR/FILE``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from kbuild.environment.index.package_indexes import Indexes, IndexFile, find_files
from kbuild.environment.links import is_local
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import KbuildError, PackageNotFound
from kbuild.urls.credentials import split_credentials

if TYPE_CHECKING:
    import requests

_TIMEOUT = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Copies:
    """``urls`` where the same file may be; ``asked`` names the places that were looked through, ``silent`` those that
    did not answer, and ``changed`` is when a page without the file was changed last, as its server says it."""

    urls: tuple[str, ...]
    asked: tuple[str, ...]
    silent: tuple[str, ...] = ()
    changed: str | None = None

    def gone(self, package: LockedPackage, reason: str) -> PackageNotFound:
        """The error for a package that none of the places has."""
        places = f"{', '.join(self.asked)} has no file" if self.asked else "no other place is configured that has one"
        since = f"; its page there was changed last on {self.changed}" if self.changed else ""
        silent = f"; {', '.join(self.silent)} did not answer" if self.silent else ""
        kind = "channel" if package.manager == "conda" else "package index"
        setting = "--channel URL" if package.manager == "conda" else "PIP_EXTRA_INDEX_URL=URL"
        return PackageNotFound(
            f"{package.name} {package.version} is gone: {reason}, and {places} with its sha256{since}{silent}",
            hint=f"a mirror that keeps what was released gives the same image: name that {kind} ({setting}); "
            "without one, kbuild lock --force locks what there is now",
        )


def find_copies(
    package: LockedPackage,
    url: str,
    *,
    indexes: Indexes | None,
    channels: Callable[[], Iterable[str]],
    environ: Mapping[str, str],
    session: requests.Session,
) -> Copies:
    """Other urls than ``url`` of the file with the package's sha256, those that promise it first.

    A place that does not answer is passed over: another may have it.
    """
    if package.manager == "conda":
        below = f"{urlsplit(url).path.rstrip('/').rsplit('/', 2)[-2]}/{package.filename}"
        places = [place for place in channels() if f"{place}/{below}" != url]
        return Copies(
            urls=tuple(f"{place}/{below}" for place in places), asked=tuple(dict.fromkeys(map(_host, places)))
        )
    promised, named, asked, silent = list[str](), list[str](), list[str](), list[str]()
    changed: str | None = None
    for place, only in _each(indexes):
        try:
            files = find_files(package.name, only, environ={**environ, **only.environment}, session=session)
        except KbuildError:
            silent.append(_host(place))
            continue
        asked.append(_host(place))
        same = [file for file in files if file.url and file.url != url and _is_same(file, package)]
        promised += [file.url for file in same if file.sha256 is not None]
        named += [file.url for file in same if file.sha256 is None]
        if files and not same and place in only.urls and changed is None:
            changed = _changed(place, package.name, {**environ, **only.environment}, session)
    return Copies(
        urls=tuple(dict.fromkeys([*promised, *named])),
        asked=tuple(dict.fromkeys(asked)),
        silent=tuple(dict.fromkeys(silent)),
        changed=changed,
    )


def _each(indexes: Indexes | None) -> Iterable[tuple[str, Indexes]]:
    """Each place by itself: one that does not answer must not hide the others."""
    if indexes is not None:
        yield from ((place, replace(indexes, urls=(place,), find_links=())) for place in indexes.urls)
        yield from ((place, replace(indexes, urls=(), find_links=(place,))) for place in indexes.find_links)


def _is_same(file: IndexFile, package: LockedPackage) -> bool:
    if file.sha256 is not None:
        return file.sha256 == package.sha256
    return file.filename == unquote(package.filename)


def _changed(place: str, name: str, environ: Mapping[str, str], session: requests.Session) -> str | None:
    """When the page of a project was changed last (RFC 9110, 8.8.2), None where its server does not say."""
    import requests

    if is_local(place):
        return None
    base, auth = split_credentials(place, environ)
    try:
        page = f"{base.rstrip('/')}/{canonicalize_name(name)}/"
        with session.get(page, auth=auth, timeout=_TIMEOUT, stream=True) as response:
            return response.headers.get("Last-Modified") if response.ok else None
    except requests.RequestException:
        return None


def _host(place: str) -> str:
    return place if is_local(place) else urlsplit(place).hostname or place
