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
from functools import cache
from html import unescape
from posixpath import basename
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from conda_lock._vendor.poetry.config.config import Config
from conda_lock._vendor.poetry.inspection.info import PackageInfo
from conda_lock._vendor.poetry.repositories.exceptions import PackageNotFoundError, RepositoryError
from conda_lock._vendor.poetry.repositories.legacy_repository import LegacyRepository
from conda_lock._vendor.poetry.repositories.link_sources.base import LinkSource
from conda_lock._vendor.poetry.repositories.link_sources.html import HTMLPage
from conda_lock._vendor.poetry.repositories.repository_pool import RepositoryPool
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_netrc_auth

from kbuild.digest import digest_file
from kbuild.environment.credentials import split_credentials, without_credentials
from kbuild.environment.index.wheel_tags import fits
from kbuild.environment.links import Page, flat_page, folder_page, is_local, local_path
from kbuild.platform import Platform

_SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tar")


def install(pypi_solver: Any, places: Mapping[str, Any]) -> None:
    """Let conda-lock's solver see ``places`` (condalock_source.PLACES) alone."""
    stripped = pypi_solver._get_stripped_url

    def pool(*_: Any, **__: Any) -> Any:
        return RepositoryPool(repositories=[Places(places)])

    def url(link: Any) -> str:
        return str(link.url_without_fragment if is_local(link.url) else stripped(link))

    pypi_solver._prepare_repositories_pool = pool
    pypi_solver._get_stripped_url = url


class Places(LegacyRepository):  # type: ignore[misc]
    """All places as one repository. What is read of a release is kept, for these places and this target."""

    def __init__(self, places: Mapping[str, Any]) -> None:
        key = hashlib.sha256(json.dumps(places, sort_keys=True).encode()).hexdigest()
        config = Config.create()
        super().__init__(f"kbuild-{key[:16]}", "https://places.invalid", config=config)
        target = Platform.parse(places["platform"])
        self._python = places["python"]
        self._fits: Callable[[str], bool] = lambda name: fits(name, self._python, target, places["glibc"])
        # pip's own order: of files that are equally good the first is taken.
        self._sources = [
            *(_flat_source(place, config) for place in places["find_links"]),
            *(_index_source(place, config) for place in places["indexes"]),
        ]
        self._owners: dict[str, Any] = {}

    def _get_page(self, name: str) -> Any:
        found = defaultdict(list)
        there = False
        for read in self._sources:
            for page, owner in read(name):
                there = True
                for link in self._links(page, name):
                    self._owners[link.url] = owner
                    found[link.filename].append(link)
        if not there:
            raise PackageNotFoundError(f"Package [{name}] not found.")
        links = [link for same in found.values() for link in _without_copies(same)]
        return _Pooled(name, links)

    def _links(self, page: Any, name: str) -> Iterator[Any]:
        """The links of a page that are files of the package and that the target can use, as pip judges them."""
        page._parsed = [anchor for anchor in page._parsed if self._is_candidate(anchor)]
        for link in page.links:
            package = LinkSource.link_package_data(link)
            if package is not None and package.name == name:
                yield link

    def _is_candidate(self, anchor: Mapping[str, str | None]) -> bool:
        filename = unquote(basename(urlsplit(anchor.get("href") or "").path))
        if not (self._fits(filename) if filename.endswith(".whl") else filename.endswith(_SDISTS)):
            return False
        wanted = unescape(anchor.get("data-requires-python") or "")
        try:
            return not wanted or SpecifierSet(wanted).contains(self._python, prereleases=True)
        except InvalidSpecifier:
            return True

    def get_release_info(self, name: str, version: Any) -> Any:
        """As ever, but files on this machine may change under their name: what they say is read each time."""
        if any(is_local(link.url) for link in self.get_page(name).links_for_version(name, version)):
            return PackageInfo.load(self._get_release_info(name, version))
        return super().get_release_info(name, version)

    def find_links_for_package(self, package: Any) -> list[Any]:
        """The files to choose from, each with its sha256: not every place tells it."""
        return self._hashed(super().find_links_for_package(package))

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
        return None if is_local(link.url) else self._of(link)._get_info_from_metadata(link)

    def _get_info_from_wheel(self, link: Any) -> Any:
        if is_local(link.url):
            return PackageInfo.from_wheel(local_path(link.url))
        return self._of(link)._get_info_from_wheel(link)

    def _get_info_from_sdist(self, link: Any) -> Any:
        if is_local(link.url):
            return PackageInfo.from_sdist(local_path(link.url))
        return self._of(link)._get_info_from_sdist(link)

    def _of(self, link: Any) -> Any:
        """The server whose credentials a link is fetched with; a folder's page may lead to one, too."""
        owner = self._owners[link.url]
        return super() if owner is None else owner


class _Pooled(LinkSource):  # type: ignore[misc]
    """The links of one package from all places."""

    def __init__(self, name: str, links: Iterable[Any]) -> None:
        super().__init__(name)
        self._link_cache: Any = defaultdict(lambda: defaultdict(list))
        for link in links:
            self._link_cache[name][LinkSource.link_package_data(link).version].append(link)


def _without_copies(links: list[Any]) -> list[Any]:
    """Links of one file name, one a content: that of a server rather than its copy on this machine, else the first."""
    if len(links) == 1:
        return links
    kept: dict[str, Any] = {}
    for link in sorted(links, key=lambda each: is_local(each.url)):
        digest = digest_file(local_path(link.url)).hex if is_local(link.url) else link.hashes.get("sha256", link.url)
        kept.setdefault(digest, link)
    return [link for link in links if link in kept.values()]


def _index_source(url: str, config: Any) -> Callable[[str], Iterator[tuple[Any, Any]]]:
    if is_local(url):

        def read_folder(name: str) -> Iterator[tuple[Any, Any]]:
            page = folder_page(url, name)
            if page is not None:
                yield _html(page), None

        return read_folder
    server = _server(url, config)

    def read_index(name: str) -> Iterator[tuple[Any, Any]]:
        response = server._get_response(f"/{name}/")
        if response:
            yield HTMLPage(response.url, response.text), server

    return read_index


def _flat_source(url: str, config: Any) -> Callable[[str], Iterator[tuple[Any, Any]]]:
    server = None if is_local(url) else _server(url, config)

    @cache
    def page() -> Any:
        if server is None:
            return _html(flat_page(url))
        # What its links are relative to depends on the last slash.
        response = server._get_response("/" if url.endswith("/") else "")
        if not response:
            raise RepositoryError(f"{without_credentials(url)} of pip's find-links is not there, or refuses")
        return HTMLPage(response.url, response.text)

    def read_page(_: str) -> Iterator[tuple[Any, Any]]:
        yield page(), server

    return read_page


def _html(page: Page) -> Any:
    return HTMLPage(page.url, page.html)


def _server(url: str, config: Any) -> Any:
    bare, credentials = split_credentials(url, os.environ)
    server = LegacyRepository(hashlib.sha256(url.encode()).hexdigest(), bare, config=config)
    if credentials is not None:
        make = server.session.create_session

        def create_session() -> requests.Session:
            session: requests.Session = make()
            session.auth = _Credentials(urlsplit(bare).netloc, credentials)
            return session

        server.session.create_session = create_session
    return server


class _Credentials(AuthBase):
    """Those of a url are for its own host, where they stand above those of ~/.netrc, as for pip."""

    def __init__(self, netloc: str, credentials: tuple[str, str]) -> None:
        self._netloc, self._credentials = netloc, credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        url = request.url or ""
        found = self._credentials if urlsplit(url).netloc == self._netloc else get_netrc_auth(url)
        return request if found is None else HTTPBasicAuth(*found)(request)
