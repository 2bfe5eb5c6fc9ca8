"""The online advisory services, through pip-audit's classes for them.

Protocols: PyPA's JSON API ("Get a release", ``vulnerabilities``) and OSV's ``POST /v1/query``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from packaging.version import InvalidVersion, Version
from pip_audit._service import OsvService, PyPIService, VulnerabilityService
from pip_audit._service.interface import ResolvedDependency, ServiceError, SkippedDependency

from kbuild.environment.credentials import without_credentials

_TIMEOUT = 20
# pip-audit would look for a cache of its own; its sessions are replaced before they are used.
_NO_CACHE = Path(os.devnull)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vulnerability:
    """One advisory as a service tells it; ``record`` is its OSV record where the service gives one."""

    id: str
    aliases: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]
    record: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NotKnown:
    """The service could not say. ``down`` tells that it does not answer at all, so that asking on is useless."""

    reason: str
    down: bool = False


class Service(Protocol):
    """Answers for one Python distribution at a time."""

    name: str

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...] | NotKnown:
        """The known vulnerabilities of a version."""


class OnlineService:
    """A ``Service`` over one of pip-audit's."""

    def __init__(self, name: str, service: VulnerabilityService, session: _Session) -> None:
        self.name = name
        self._service = service
        self._session = session

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...] | NotKnown:
        """See Service."""
        try:
            asked = ResolvedDependency(name, Version(version))
        except InvalidVersion:
            return NotKnown(reason=f"{version!r} is no version of Python packages (PEP 440)")
        self._session.records.clear()
        try:
            answered, results = self._service.query(asked)
        except (requests.ConnectionError, requests.Timeout) as error:
            return NotKnown(reason=f"{self.name} does not answer: {_words(error)}", down=True)
        except (ServiceError, requests.RequestException) as error:
            return NotKnown(reason=f"{self.name} refused: {_words(error.__cause__ or error)}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # pip-audit reads the answer without looking whether it is one.
            return NotKnown(reason=f"{self.name} gives no answer of its protocol: {error!r}")
        if isinstance(answered, SkippedDependency):
            return NotKnown(reason=f"{self.name} does not know this release")
        if self._session.silent:
            return NotKnown(reason=f"{self.name} has {name}, but keeps no advisories")
        return tuple(
            Vulnerability(
                id=str(result.id),
                aliases=tuple(sorted(map(str, result.aliases))),
                summary=result.description,
                fixed=tuple(str(fix) for fix in result.fix_versions),
                record=self._session.find_record({str(result.id), *map(str, result.aliases)}),
            )
            for result in results
        )


def make_pypi_service(index: str, *, credentials: Callable[[str], tuple[str, str] | None]) -> OnlineService:
    """The advisories of a package index. ``index`` is its url, with or without ``/simple``."""
    base = index.rstrip("/").removesuffix("/simple")
    session = _Session(base=base, credentials=credentials)
    service = PyPIService(cache_dir=_NO_CACHE, timeout=_TIMEOUT)
    # Its address is written into the class, and is not the one of the user's index.
    service.session = session
    return OnlineService(f"the index {without_credentials(urlsplit(base).netloc)}", service, session)


def make_osv_service(url: str | None = None) -> OnlineService:
    """OSV's own service, or one of the same protocol at ``url`` (the whole url of its query)."""
    session = _Session(base=None, credentials=lambda _: None)
    service = OsvService(cache_dir=_NO_CACHE, timeout=_TIMEOUT, osv_url=url or OsvService.DEFAULT_OSV_URL)
    service.session = session
    return OnlineService(f"the service {without_credentials(urlsplit(service.osv_url).netloc)}", service, session)


class _Session(requests.Session):
    """Sends the requests that pip-audit makes to the address that is configured, and keeps what was answered.

    ``silent`` tells that the last answer had no word on vulnerabilities at all, which pip-audit takes for none.
    """

    def __init__(self, *, base: str | None, credentials: Callable[[str], tuple[str, str] | None]) -> None:
        super().__init__()
        self._base = base
        self._credentials = credentials
        self.records: dict[str, Mapping[str, Any]] = {}
        self.silent = False

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        if self._base is not None:
            url = self._base + urlsplit(url).path
            kwargs.setdefault("auth", self._credentials(url))
        response = super().request(method, url, *args, **kwargs)
        self.silent = False
        if response.ok:
            value = response.json()
            self.silent = self._base is not None and value.get("vulnerabilities") is None
            self.records = {str(record.get("id")): record for record in value.get("vulns") or ()}
        return response

    def find_record(self, ids: set[str]) -> Mapping[str, Any] | None:
        """The OSV record of the last answer with one of these ids."""
        return next((record for name, record in self.records.items() if name in ids), None)


def _words(error: BaseException) -> str:
    return without_credentials(" ".join(str(error).split()))[:200] or type(error).__name__
