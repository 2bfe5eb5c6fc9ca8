"""The advisories of a package index, through pip-audit's class for it.

Protocol: PyPA's JSON API ("Get a release", ``vulnerabilities``). OSV's is in ``osv_api``.
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
from pip_audit._service import PyPIService, VulnerabilityService
from pip_audit._service.interface import ResolvedDependency, ServiceError, SkippedDependency

from kbuild.environment.index.pip_network import configure
from kbuild.urls.credentials import without_credentials

_TIMEOUT = 20
# pip-audit would look for a cache of its own; its sessions are replaced before they are used.
_NO_CACHE = Path(os.devnull)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vulnerability:
    """One advisory as a package index tells it."""

    id: str
    aliases: tuple[str, ...]
    summary: str
    fixed: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class NotKnown:
    """The service could not say. ``down`` tells that it does not answer at all, so that asking on is useless.

    ``concerns`` tells that it has an advisory of this version, but not what it says: no other's answer makes up for it.
    """

    reason: str
    down: bool = False
    concerns: bool = False


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
            )
            for result in results
        )


def make_pypi_service(
    index: str, *, credentials: Callable[[str], tuple[str, str] | None], environ: Mapping[str, str] | None = None
) -> OnlineService:
    """The advisories of a package index. ``index`` is its url, with or without ``/simple``; ``environ`` has pip's
    settings of how it is reached."""
    base = index.rstrip("/").removesuffix("/simple")
    session = _Session(base=base, credentials=credentials)
    configure(session, environ or {})
    service = PyPIService(cache_dir=_NO_CACHE, timeout=_TIMEOUT)
    # Its address is written into the class, and is not the one of the user's index.
    service.session = session
    return OnlineService(f"the index {without_credentials(urlsplit(base).netloc)}", service, session)


class _Session(requests.Session):
    """Sends the requests that pip-audit makes to the address that is configured.

    ``silent`` tells that the last answer had no word on vulnerabilities at all, which pip-audit takes for none.
    """

    def __init__(self, *, base: str, credentials: Callable[[str], tuple[str, str] | None]) -> None:
        super().__init__()
        self._base = base
        self._credentials = credentials
        self.silent = False

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        url = self._base + urlsplit(url).path
        kwargs.setdefault("auth", self._credentials(url))
        response = super().request(method, url, *args, **kwargs)
        self.silent = False
        if response.ok:
            value = response.json()
            self.silent = value.get("vulnerabilities") is None
        return response


def _words(error: BaseException) -> str:
    return without_credentials(" ".join(str(error).split()))[:200] or type(error).__name__
