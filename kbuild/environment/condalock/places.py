"""Where conda-lock finds packages: all of pip's indexes and find-links as one, as pip itself pools them.

Imported in conda-lock's process alone. Its vendored poetry would take a release from the first index that has it, with
no look at the files that another one has of it, knows no place that is not an index on a server, and chooses a release
before it asks whether a file of it fits. pip pools the files of all places, leaves out what does not fit, and takes the
best of the rest; so does this repository, which is the only one that the solver sees.
Format: pip's docs, "Finding packages"; PEP 503, PEP 592, PEP 658.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, cached_property
from html import unescape
from pathlib import Path
from posixpath import basename
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from conda_lock._vendor.poetry.config.config import Config
from conda_lock._vendor.poetry.inspection.info import PackageInfo
from conda_lock._vendor.poetry.repositories.exceptions import PackageNotFoundError, RepositoryError
from conda_lock._vendor.poetry.repositories.legacy_repository import LegacyRepository
from conda_lock._vendor.poetry.repositories.link_sources.base import LinkSource
from conda_lock._vendor.poetry.repositories.repository_pool import RepositoryPool

from kbuild.bounded.answers import bound_session
from kbuild.digest import digest_file
from kbuild.environment.condalock import pages as paged
from kbuild.environment.condalock.ahead import Ahead
from kbuild.environment.condalock.pages import Narrowed, Together, html_of, info_of_copy, reads_as_known
from kbuild.environment.index.file_choice import FileChoice
from kbuild.environment.index.json_page import page_of
from kbuild.environment.index.pip_network import configure
from kbuild.environment.index.session import THREADS, HostCredentials
from kbuild.environment.links import Page, flat_page, folder_page, html_page, is_local, local_path
from kbuild.environment.requirements import ArbitraryEquality, marker_environment
from kbuild.urls.credentials import split_credentials, without_credentials


def install(
    pypi_solver: Any,
    places: Mapping[str, Any],
    packages: Mapping[str, str | None] | None = None,
    ahead: Ahead | None = None,
) -> Together:
    """Let conda-lock's solver see ``places`` (ahead.PLACES) alone, and begin to ask them for ``packages``
    (ahead.PACKAGES), whose pages ``ahead`` brings; without, pages are asked for when they are needed, and whole."""
    stripped = pypi_solver._get_stripped_url
    narrow = packages is not None and reads_as_known()
    together = Together((packages or {}) if narrow else {})
    repository = Places(places, together if narrow else None, ahead if narrow else None)

    def pool(*_: Any, **__: Any) -> Any:
        return RepositoryPool(repositories=[repository])

    def url(link: Any) -> str:
        if (package := LinkSource.link_package_data(link)) is not None:
            repository.exact.take(package.name, str(package.version))  # only what is chosen is asked for its url
        return str(link.url_without_fragment if is_local(link.url) else stripped(link))

    paged.build_nothing()
    paged.refuse_urls()
    paged.admit_prereleases(every=repository.choice.binary.pre)
    pypi_solver._prepare_repositories_pool = pool
    pypi_solver._get_stripped_url = url
    together.start(repository, THREADS)
    return together


class Places(LegacyRepository):  # type: ignore[misc]
    """All places as one repository. What is read of a release is kept, for these places and this target."""

    def __init__(self, places: Mapping[str, Any], together: Together | None = None, ahead: Ahead | None = None) -> None:
        known = {name: value for name, value in places.items() if name != "downloads"}  # copies say the same
        key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        config = Config.create()
        super().__init__(f"kbuild-{key[:16]}", "https://places.invalid", config=config)
        self.choice = FileChoice.of_places(places)
        # pip's own order: of files that are equally good the first is taken.
        self._sources = [
            *(_flat_source(place, config) for place in places["find_links"]),
            *(_index_source(place, config, ahead) for place in places["indexes"]),
        ]
        self._owners: dict[str, Any] = {}
        self.exact = ArbitraryEquality(marker_environment(self.choice.python, self.choice.platform))
        self._together = together
        downloads = places.get("downloads")
        self._downloads = None if together is None or downloads is None else Path(downloads)

    def _get_page(self, name: str) -> Any:
        def ask() -> _Pooled:
            pages = [found for read in self._sources for found in read(name)]
            if not pages:
                raise PackageNotFoundError(f"Package [{name}] not found.")
            return _Pooled(name, lambda version: self._pooled(name, pages, version), narrow=self._together is not None)

        return ask() if self._together is None else self._together.once(("page", name), ask)

    def _pooled(self, name: str, pages: Iterable[tuple[Any, Any]], version: Any) -> Iterator[Any]:
        """The links of all pages; with ``version`` those of this release, and maybe more."""
        found: dict[str, list[Any]] = defaultdict(list)
        for page, owner in pages:
            for link in self._links(html_of(page, version), name):
                self._owners[link.url] = owner
                found[link.filename].append(link)
        links = [link for same in found.values() for link in _without_copies(same)]
        yield from self.choice.preferred(links) if version is None else links

    def _links(self, page: Any, name: str) -> Iterator[Any]:
        """The links of a page that are files of the package and that the target can use, as pip judges them."""
        page._parsed = [anchor for anchor in page._parsed if self._is_candidate(name, anchor)]
        for link in page.links:
            package = LinkSource.link_package_data(link)
            if package is not None and package.name == name:
                yield link

    def _is_candidate(self, name: str, anchor: Mapping[str, str | None]) -> bool:
        url = unescape(anchor.get("href") or "")
        filename, python = unquote(basename(urlsplit(url).path)), unescape(anchor.get("data-requires-python") or "")
        return self.choice.is_candidate(name, filename, python, url)

    def get_release_info(self, name: str, version: Any) -> Any:
        """As ever, but files on this machine may change under their name: what they say is read each time."""
        if self._together is None:
            return self._read_info(name, version)
        return self._together.once(("info", name, version), lambda: self._read_info(name, version))

    def _read_info(self, name: str, version: Any) -> Any:
        if any(is_local(link.url) for link in self.get_page(name).links_for_version(name, version)):
            info = PackageInfo.load(self._get_release_info(name, version))
        else:
            info = super().get_release_info(name, version)
        # poetry does not know arbitrary equality (PEP 440), and would leave out what is asked for so.
        self.exact.asks(name, str(version), info.requires_dist or ())
        info.requires_dist = [each.replace("===", "==") for each in info.requires_dist or []] or info.requires_dist
        return info

    def find_links_for_package(self, package: Any) -> list[Any]:
        """The files to choose from, each with its sha256: not every place tells it."""
        return self.choice.named(package.name, self._hashed(super().find_links_for_package(package)))

    def _links_to_data(self, links: list[Any], data: Any) -> Any:
        return super()._links_to_data(self._hashed(links), data)

    def _hashed(self, links: Iterable[Any]) -> list[Any]:
        hashed = list(links)
        for link in hashed:
            if "sha256" not in link.hashes:
                link.hashes = {"sha256": str(self.calculate_sha256(link)).removeprefix("sha256:")}
        return hashed

    def calculate_sha256(self, link: Any) -> str | None:
        """``sha256:…`` of the file."""
        if is_local(link.url):
            return f"sha256:{digest_file(local_path(link.url)).hex}"
        calculated: str | None = self._of(link).calculate_sha256(link)
        return calculated

    def _get_info_from_metadata(self, link: Any) -> Any:
        if is_local(link.url):
            return None
        known = None if self._downloads is None else info_of_copy(link, self._downloads)
        return known or self._of(link)._get_info_from_metadata(link)

    def _get_info_from_wheel(self, link: Any) -> Any:
        if is_local(link.url):
            return PackageInfo.from_wheel(local_path(link.url))
        return self._of(link)._get_info_from_wheel(link)

    def _get_info_from_sdist(self, link: Any) -> Any:
        """What a source distribution says of itself; what would have to be built to know is noted in ``UNREAD``."""
        try:
            if is_local(link.url):
                return PackageInfo.from_sdist(local_path(link.url))
            return self._of(link)._get_info_from_sdist(link)
        except paged.NotBuilt as error:
            paged.note_unread(*self._hashed([link]))
            raise RepositoryError(f"{link.filename} does not say what it depends on") from error

    def _of(self, link: Any) -> Any:
        """The server whose credentials a link is fetched with; a folder's page may lead to one, too."""
        owner = self._owners[link.url]
        return super() if owner is None else owner


class _Pooled(LinkSource):  # type: ignore[misc]
    """The links of one package from all places: ``read`` gives all, or at least those of a release.

    With ``narrow`` no others are read while releases are all that is asked for.
    """

    def __init__(self, name: str, read: Callable[[Any], Iterable[Any]], *, narrow: bool) -> None:
        super().__init__(name)
        self._read, self._narrow = read, narrow
        self._releases: dict[Any, Any] = {}

    @cached_property
    def _link_cache(self) -> Any:
        found = self._by_release(None)
        for version in list(self._releases):
            found[self._url][version]  # a release that was asked for is known from then on, with links or without
        return found

    def links_for_version(self, name: str, version: Any) -> Iterator[Any]:
        """As ever."""
        if not self._narrow or "_link_cache" in self.__dict__:
            yield from super().links_for_version(name, version)
            return
        if version not in self._releases:
            self._releases[version] = self._by_release(version)
        yield from self._releases[version][name][version]

    def _by_release(self, version: Any) -> Any:
        links: Any = defaultdict(lambda: defaultdict(list))
        for link in self._read(version):
            links[self._url][LinkSource.link_package_data(link).version].append(link)
        return links


def _without_copies(links: list[Any]) -> list[Any]:
    """Links of one file name, one a content: that of a server rather than its copy on this machine, else the first."""
    if len(links) == 1:
        return links
    kept: dict[str, Any] = {}
    for link in sorted(links, key=lambda each: is_local(each.url)):
        digest = digest_file(local_path(link.url)).hex if is_local(link.url) else link.hashes.get("sha256", link.url)
        kept.setdefault(digest, link)
    return [link for link in links if link in kept.values()]


def _index_source(url: str, config: Any, ahead: Ahead | None) -> Callable[[str], Iterator[tuple[Any, Any]]]:
    if is_local(url):

        def read_folder(name: str) -> Iterator[tuple[Any, Any]]:
            page = folder_page(url, name)
            if page is not None:
                yield page, None

        return read_folder
    server = _server(url, config)

    def ask(name: str) -> Page | None:
        response = server._get_response(f"/{name}/")
        try:
            return page_of(response) if response else None
        except ValueError as error:
            raise RepositoryError(str(error)) from error

    def read_index(name: str) -> Iterator[tuple[Any, Any]]:
        told = None if ahead is None else ahead.page(url, name)
        page = ask(name) if told is None else Narrowed(told, lambda: ask(name))
        if page is not None and (told is None or told.html is not None):
            yield page, server

    return read_index


def _flat_source(url: str, config: Any) -> Callable[[str], Iterator[tuple[Any, Any]]]:
    server = None if is_local(url) else _server(url, config)

    @cache
    def page() -> Any:
        if server is None:
            return html_of(flat_page(url))
        # What its links are relative to depends on the last slash.
        response = server._get_response("/" if url.endswith("/") else "")
        if not response:
            raise RepositoryError(f"{without_credentials(url)} of pip's find-links is not there, or refuses")
        return html_of(html_page(response.url, response.text))

    def read_page(_: str) -> Iterator[tuple[Any, Any]]:
        yield page(), server

    return read_page


def _server(url: str, config: Any) -> Any:
    bare, credentials = split_credentials(url, os.environ)
    server = LegacyRepository(hashlib.sha256(url.encode()).hexdigest(), bare, config=config, pool_size=THREADS)
    make = server.session.create_session

    def create_session() -> requests.Session:
        session = bound_session(make())  # poetry's reads an answer whole, however long it is
        if credentials is not None:
            session.auth = HostCredentials(bare, credentials)
        configure(session, os.environ, pool_maxsize=THREADS)
        paged.end_at_cuts(session)
        return session

    server.session.create_session = create_session
    server.session.get_session(bare)  # or each thread would make one of its own
    return server
