"""Pages of package indexes for conda-lock: fetched together, and read as far as the lock needs them.

Imported in conda-lock's process alone. Its vendored poetry asks for one page after the other, and reads each whole.
"""

from __future__ import annotations

import json
import re
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import requests
from conda_lock._vendor.poetry.core.constraints.version import Version
from conda_lock._vendor.poetry.core.packages.dependency import Dependency
from conda_lock._vendor.poetry.inspection import info
from conda_lock._vendor.poetry.inspection.info import PackageInfo
from conda_lock._vendor.poetry.puzzle.provider import Provider
from conda_lock._vendor.poetry.repositories.link_sources.base import LinkSource
from conda_lock._vendor.poetry.repositories.link_sources.html import HTMLPage
from conda_lock._vendor.poetry.utils import patterns
from packaging.metadata import parse_email
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from kbuild.bounded.in_time import NoEnd
from kbuild.digest import digest_file
from kbuild.environment.condalock.ahead import UNREAD, CutOff, Told
from kbuild.environment.condalock.narrowing import SDIST, WHEEL, only_release
from kbuild.environment.links import Page
from kbuild.urls.credentials import without_credentials

_SHA256 = re.compile(r"[0-9a-f]{64}")
_METADATA = re.compile(r"[^/]+\.dist-info/METADATA")


def reads_as_known() -> bool:
    """Whether this conda-lock takes for a file of a release what narrowing.py takes for one."""
    return (patterns.wheel_file_re.pattern, patterns.sdist_file_re.pattern) == (WHEEL, SDIST)


class NotBuilt(Exception):
    """A source distribution that would have to be built to know what it depends on."""


class NotOfAnIndex(Exception):
    """What another package requires by a url, of an archive or of version control (PEP 508)."""


def build_nothing() -> None:
    """poetry would try to build a source distribution, whether that is allowed or not, and apart from nothing."""

    def refuse(path: Path) -> Any:
        raise NotBuilt(path)

    info.get_pep517_metadata = refuse


def refuse_urls() -> None:
    """A model's own requirements by a url are refused, and those of its packages could not be locked either: poetry
    fetched them, from a host that it told as an index where it was away, and conda-lock noted no hash of them."""

    def refuse(_: Any, dependency: Any) -> Any:
        raise NotOfAnIndex(without_credentials(dependency.to_pep_508(with_extras=False)))

    Provider.search_for_direct_origin_dependency = refuse


def admit_prereleases(*, every: bool) -> None:
    """Take pre-releases as pip does: where a specifier names one (PEP 440, "Handling of pre-releases"), and ``every``
    where they are asked for. poetry takes none while there is another release that fits."""
    own = Dependency.allows_prereleases

    def allows(dependency: Any) -> bool | None:
        return True if every or _names_prerelease(str(dependency.constraint)) else own(dependency)

    Dependency.allows_prereleases = allows


@cache
def _names_prerelease(constraint: str) -> bool:
    with suppress(InvalidSpecifier):  # a bare version is exact: what it names is all that fits
        return any(SpecifierSet(part).prereleases for part in constraint.split("||"))
    return False


def end_at_cuts(session: requests.Session) -> None:
    """Have a session raise ``CutOff`` for what is too large or too slow."""
    send = session.send

    def once(request: requests.PreparedRequest, **options: Any) -> requests.Response:
        try:
            return send(request, **options)
        except NoEnd as error:
            raise CutOff(f"{error} ({without_credentials(str(request.url))})") from error

    session.send = once  # type: ignore[method-assign]


def note_unread(link: Any) -> None:
    """Write down a source distribution that was refused, of whose link the sha256 is known."""
    package = LinkSource.link_package_data(link)
    told = [package.name, str(package.version), link.url_without_fragment, link.hashes["sha256"]]
    with Path(UNREAD).open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")


class Narrowed:
    """A page of which the links of one release were brought; ``ask`` gets the whole, where another one is wanted."""

    def __init__(self, told: Told, ask: Callable[[], Page | None]) -> None:
        self._told = Page(url=told.url, html=told.html or "")
        self._release = None if told.release is None else Version.parse(told.release)
        self._ask = ask

    def page(self, version: Any) -> Page:
        """The page, or as much of it as tells of ``version``."""
        return self._told if self._release is None or version == self._release else self._whole

    @cached_property
    def _whole(self) -> Page:
        # Gone meanwhile: then there is nothing to choose from.
        return self._ask() or Page(url=self._told.url, html="")


def html_of(page: Any, version: Any = None) -> Any:
    """poetry's reading of a page; with ``version``, of as much as tells of this release."""
    if isinstance(page, Narrowed):
        page = page.page(version)
    if not isinstance(page, Page):
        return page  # has been read
    rest = None if version is None else only_release(page.html, version.text)
    return HTMLPage(page.url, page.html if rest is None else rest)


def info_of_copy(link: Any, downloads: Path) -> Any:
    """What a wheel says of itself, from a copy in ``downloads`` that has the sha256 of its link; None without one.

    poetry reads the same from the server, by several requests a wheel.
    """
    sha256 = str(link.hashes.get("sha256", ""))
    copy = downloads / sha256 / str(link.filename)
    if not _SHA256.fullmatch(sha256) or not link.is_wheel or not copy.is_file() or digest_file(copy).hex != sha256:
        return None
    try:
        with zipfile.ZipFile(copy) as archive:
            names = [name for name in archive.namelist() if _METADATA.fullmatch(name)]
            if len(names) == 1:
                return PackageInfo.from_metadata(parse_email(archive.read(names[0]))[0])
    except (zipfile.BadZipFile, ValueError):
        pass  # poetry finds its own words for it
    return None


class Together:
    """Asks once for each page and each release's metadata, whoever wants it first: conda-lock, or threads ahead of it.

    ``packages`` are those that will be wanted, with the version where it is known.
    """

    def __init__(self, packages: Mapping[str, str | None]) -> None:
        self._waiting = deque(packages.items())
        self._lock = threading.Lock()
        self._answers: dict[Hashable, Future[Any]] = {}

    def start(self, repository: Any, threads: int) -> None:
        """Begin to ask ``repository``, in threads that end with the process."""
        for _ in range(min(threads, len(self._waiting))):
            threading.Thread(target=self._work, args=[repository], daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._waiting.clear()

    def once(self, key: Hashable, ask: Callable[[], Any]) -> Any:
        """What ``ask`` returned or raised when it was asked for ``key``: waits where another thread is asking."""
        with self._lock:
            answer = self._answers.get(key)
            mine = answer is None
            answer = self._answers.setdefault(key, Future())
        if mine:
            try:
                answer.set_result(ask())
            except Exception as error:  # noqa: BLE001  # raised below, and to whoever asks again
                answer.set_exception(error)
        return answer.result()

    def _work(self, repository: Any) -> None:
        # An error is kept with its answer, for the one who needs it: conda-lock may not.
        with suppress(IndexError):
            while True:
                name, spelled = self._waiting.popleft()
                with suppress(Exception):
                    self._fetch(repository, name, None if spelled is None else Version.parse(spelled))

    @staticmethod
    def _fetch(repository: Any, name: str, version: Any) -> None:
        page = repository.get_page(name)
        if version is not None:
            links = list(page.links_for_version(name, version))
            # A release of no wheel would be built to be read, and a file without a hash be fetched.
            if any(link.is_wheel for link in links) and all("sha256" in link.hashes for link in links):
                repository.get_release_info(name, version)
