"""The package indexes and find-links of the user's own pip configuration, and what they offer.

Formats: pip's docs, "Configuration"; PyPA's "Simple repository API" (PEP 503, PEP 592 and PEP 691).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urljoin, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from kbuild.environment.index.file_choice import BinaryChoice, binary_choice
from kbuild.environment.index.pip_settings import kept_pip_settings, left_to_netrc, network_variables, read_pip_settings
from kbuild.environment.links import Page, flat_page, folder_page, html_page, is_local, links_near, local_path, location
from kbuild.errors import ConfigurationError, IndexUnavailable
from kbuild.process import Runner
from kbuild.progress import Progress
from kbuild.urls.credentials import hide_credentials, is_for, permitted, split_credentials, without_credentials

if TYPE_CHECKING:
    import requests

_ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
# Links of a page are found without reading the rest, which JSON has to be; an index that speaks nothing else may.
_ACCEPT_NEAR = "application/vnd.pypi.simple.v1+html, text/html;q=0.9, */*;q=0.1"
_TIMEOUT = 15.0
_ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexes:
    """``urls`` are simple-API urls, the first the main one, with credentials replaced by variables; ``file:`` urls are
    folders of this machine. ``find_links`` are pages and folders of links to packages, likewise.
    ``environment`` holds the values of those variables and the certificates that pip trusts: for processes that talk
    to the indexes, never to be written down. ``binary`` is what pip makes of source distributions,
    ``constraints`` are the files of its constraints."""

    urls: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    find_links: tuple[str, ...] = ()
    binary: BinaryChoice = BinaryChoice()  # noqa: RUF009  frozen
    constraints: tuple[str, ...] = ()

    def credentials_for(self, url: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
        """User and password for a url on the host of one of the indexes, None where the index has none.

        Of several indexes on that host it is the one whose path begins as the url's does for longest, and of those
        the first with credentials. Raises ConfigurationError for variables that neither ``environ`` nor the indexes
        set.
        """
        wanted = urlsplit(url)
        servers = [url for url in (*self.urls, *self.find_links) if not is_local(url)]
        there = [index for index in servers if is_for(index, url)]
        if not there:
            return None
        nearest = max(
            there, key=lambda index: (_shared(urlsplit(index).path, wanted.path), "@" in urlsplit(index).netloc)
        )
        return split_credentials(nearest, {**environ, **self.environment})[1]


def _shared(one: str, other: str) -> int:
    """How many of their first path segments are equal."""
    pairs = zip(one.strip("/").split("/"), other.strip("/").split("/"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def package_indexes(*, run: Runner, environ: Mapping[str, str], kept: bool = False) -> Indexes:
    """The indexes that this interpreter's pip asks, and its find-links.

    With ``kept`` pip need not be asked where nothing changed since it was. Raises ConfigurationError when there are
    none.
    """
    settings = (kept_pip_settings if kept else read_pip_settings)(run, environ)
    places = settings.get("find-links", "").split()
    listed = [settings.get("index-url") or _default_index() or "", *settings.get("extra-index-url", "").split()]
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        listed = []
        if not places:
            raise ConfigurationError(
                "pip is configured to use no index (no-index), and no find-links",
                hint="set PIP_INDEX_URL, or PIP_FIND_LINKS to a folder of wheels",
            )
    environment: dict[str, str] = {}

    def hidden(urls: Iterable[str]) -> tuple[str, ...]:
        found = []
        for url in filter(None, urls):
            text, secrets = hide_credentials(left_to_netrc(location(url)), "INDEX", taken=environment)
            environment.update({**permitted([text]), **secrets})
            found.append(text)
        return tuple(dict.fromkeys(found))

    # What a page's links are relative to depends on its last slash; to an index's url a name is added.
    urls, find_links = hidden(url.rstrip("/") for url in listed), hidden(places)
    if not urls and not find_links:
        raise ConfigurationError("no package index is configured", hint="set PIP_INDEX_URL")
    if "cert" in settings and "REQUESTS_CA_BUNDLE" not in environ:
        environment["REQUESTS_CA_BUNDLE"] = settings["cert"]
    for name, value in network_variables(settings).items():
        if name not in environ:
            environment[name] = value
    return Indexes(
        urls=urls,
        environment=environment,
        find_links=find_links,
        binary=binary_choice(settings),
        constraints=tuple(settings.get("constraint", "").split()),
    )


def check_folders(indexes: Indexes, progress: Progress) -> None:
    """Tells which folders of find-links are not there, as pip does; raises ConfigurationError for one of an index: what
    it was to have might come from another."""
    for link in indexes.find_links:
        if is_local(link) and not local_path(link).exists():
            progress.tell(f"pip's find-links names {local_path(link)}, which is not there")
    for url in indexes.urls:
        if is_local(url) and not local_path(url).is_dir():
            raise ConfigurationError(
                f"the package index {local_path(url)} is not a folder of this machine",
                hint="take it out of pip's index-url or extra-index-url (pip config list), or put it there",
            )


def _default_index() -> str | None:
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return None
    return str(PyPI.simple_url)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexFile:
    """A file of a package as an index lists it. ``yanked`` is the reason for its withdrawal, often empty, else None.

    ``url`` has neither fragment nor credentials.
    """

    filename: str
    sha256: str | None
    yanked: str | None
    url: str = ""
    requires_python: str | None = None


def find_releases(
    name: str, indexes: Indexes, *, environ: Mapping[str, str], session: requests.Session
) -> dict[Version, list[str]]:
    """The file names of every release of a package over all indexes, empty where none has it.

    Raises IndexUnavailable when an index does not answer.
    """
    return releases_of(find_files(name, indexes, environ=environ, session=session))


def releases_of(files: Iterable[IndexFile]) -> dict[Version, list[str]]:
    """The file names of each release."""
    releases: dict[Version, list[str]] = {}
    for file in files:
        version = version_of(file.filename)
        if version is not None:
            releases.setdefault(version, []).append(file.filename)
    return releases


def find_files(
    name: str, indexes: Indexes, *, environ: Mapping[str, str], session: requests.Session, near: Collection[str] = ()
) -> list[IndexFile]:
    """Every file of a package over all indexes and find-links, empty where none has it.

    With ``near``, the sha256 and names of one, hardly more of a page is read than the links where they stand. Raises
    IndexUnavailable when an index does not answer, or answers with something that is no index page, ConfigurationError
    for a place on this machine that cannot be read.
    """
    wanted = canonicalize_name(name)
    found: list[IndexFile] = []
    for place in indexes.find_links:
        files = page_files(flat_page(place)) if is_local(place) else _ask(place, environ, session, near)
        found += [file for file in files if _name(file.filename) == wanted]
    for index in indexes.urls:
        if is_local(index):
            page = folder_page(index, wanted)
            found += [] if page is None else page_files(page, near)
        else:
            found += _ask(f"{index.rstrip('/')}/{wanted}/", environ, session, near)
    return found


def _ask(place: str, environ: Mapping[str, str], session: requests.Session, near: Collection[str]) -> list[IndexFile]:
    import requests

    url, auth = split_credentials(place, environ)
    try:
        accept = _ACCEPT_NEAR if near else _ACCEPT
        response = session.get(url, auth=auth, headers={"Accept": accept}, timeout=_TIMEOUT)
        if response.status_code == requests.codes.not_found:
            return []
        response.raise_for_status()
        return _files(response, near)
    except (requests.RequestException, AttributeError, KeyError, TypeError) as error:
        raise IndexUnavailable(
            f"the package index {urlsplit(url).hostname} does not answer: {network_reason(error)}"
        ) from error


def network_reason(error: Exception) -> str:
    """Why a request failed, in a few words and without credentials: the system's own where it has any."""
    text = without_credentials(str(error))
    system = _ERRNO.search(text)
    if system is not None:
        return system[1].strip()
    return text.splitlines()[0] if text else type(error).__name__


def _files(response: requests.Response, near: Collection[str]) -> list[IndexFile]:
    if "json" in response.headers.get("Content-Type", ""):
        files = response.json().get("files", [])
        wanted = [file for file in files if not near or not {file["filename"], _sha256(file)}.isdisjoint(near)]
        return [_json_file(file, response.url) for file in wanted]
    return page_files(html_page(response.url, response.text), near)


def page_files(page: Page, near: Collection[str] = ()) -> list[IndexFile]:
    """The files that a page links to."""
    parser = _Links()
    parser.feed(links_near(page.html, near) or page.html)
    return [_html_file(urljoin(page.url, attributes["href"] or ""), attributes) for attributes in parser.links]


def _json_file(file: Mapping[str, Any], page: str) -> IndexFile:
    yanked = file.get("yanked", False)
    return IndexFile(
        filename=str(file["filename"]),
        sha256=_sha256(file),
        yanked=None if yanked is False else "" if yanked is True else str(yanked),
        url=urljoin(page, str(file.get("url", ""))),
        requires_python=file.get("requires-python"),
    )


def _sha256(file: Mapping[str, Any]) -> str | None:
    return (file.get("hashes") or {}).get("sha256")


def _html_file(url: str, attributes: Mapping[str, str | None]) -> IndexFile:
    parts = urlsplit(url)
    algorithm, _, digest = parts.fragment.partition("=")
    return IndexFile(
        filename=unquote(parts.path.rsplit("/", 1)[-1]),
        sha256=digest if algorithm == "sha256" else None,
        yanked=(attributes["data-yanked"] or "") if "data-yanked" in attributes else None,
        url=url.partition("#")[0],
        requires_python=attributes.get("data-requires-python"),
    )


class _Links(HTMLParser):
    """The attributes of each link; ``data-yanked`` is of PEP 592, ``data-requires-python`` of PEP 503."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "a" and found.get("href"):
            self.links.append(found)


def version_of(filename: str) -> Version | None:
    """The release that a wheel or source distribution is of, None for any other file."""
    parsed = _parsed(filename)
    return None if parsed is None else parsed[1]


def _name(filename: str) -> str | None:
    parsed = _parsed(filename)
    return None if parsed is None else parsed[0]


def _parsed(filename: str) -> tuple[str, Version] | None:
    try:
        return parse_wheel_filename(filename)[:2] if filename.endswith(".whl") else parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None  # eggs, installers and misnamed files of old releases
