"""The advisories of a package index.

Protocol: PyPA's JSON API ("Get a release", ``vulnerabilities``). It is asked here and
not by pip-audit's class, which writes another address into each request, starts pip when it is imported, and takes an
answer without a word on vulnerabilities for one that there are none. OSV's is in ``osv_api``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import requests
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kbuild.environment.index.package_indexes import network_reason
from kbuild.environment.index.pip_network import configure
from kbuild.http import ThreadSessions, bounded_session
from kbuild.urls.credentials import without_credentials

_TIMEOUT = 20


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
    """Answers for one Python distribution at a time; several threads may ask."""

    name: str

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...] | NotKnown:
        """The known vulnerabilities of a version."""


class IndexService:
    """A ``Service``: the index that packages come from. ``base`` is its url without ``/simple``."""

    def __init__(
        self, base: str, *, make: Callable[[], requests.Session], credentials: Callable[[str], tuple[str, str] | None]
    ) -> None:
        """``make`` makes a thread's session."""
        self.name = f"the index {without_credentials(urlsplit(base).netloc)}"
        self._base, self._sessions, self._credentials = base, ThreadSessions(make), credentials

    def query(self, name: str, version: str) -> tuple[Vulnerability, ...] | NotKnown:
        """See Service."""
        try:
            url = f"{self._base}/pypi/{quote(canonicalize_name(name), safe='')}/{Version(version)}/json"
        except InvalidVersion:
            return NotKnown(reason=f"{version!r} is not a version of Python packages (PEP 440)")
        try:
            answer = self._sessions.mine().get(url, timeout=_TIMEOUT, auth=self._credentials(url))
            if answer.status_code == requests.codes.not_found:
                return NotKnown(reason=f"{self.name} does not know this release")
            answer.raise_for_status()
            told = answer.json().get("vulnerabilities")
            if told is None:
                return NotKnown(reason=f"{self.name} has {name}, but keeps no advisories")
            if not isinstance(told, list):
                raise TypeError("vulnerabilities is not a list")
            return tuple(_read(each) for each in told if each.get("withdrawn") is None)
        except (requests.ConnectionError, requests.Timeout) as error:
            return NotKnown(reason=f"{self.name} does not answer: {_words(error)}", down=True)
        except requests.JSONDecodeError as error:
            return NotKnown(reason=f"{self.name} gives no answer of its protocol: {_words(error)}")
        except requests.RequestException as error:
            return NotKnown(reason=f"{self.name} refused: {_words(error)}")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return NotKnown(reason=f"{self.name} gives no answer of its protocol: {error!r}")


def make_pypi_service(
    index: str, *, credentials: Callable[[str], tuple[str, str] | None], environ: Mapping[str, str] | None = None
) -> IndexService:
    """The advisories of a package index. ``index`` is its url, with or without ``/simple``; ``environ`` has pip's
    settings of how it is reached."""

    def make() -> requests.Session:
        session = bounded_session()
        configure(session, environ or {})
        return session

    return IndexService(index.rstrip("/").removesuffix("/simple"), make=make, credentials=credentials)


def _read(stated: Mapping[str, Any]) -> Vulnerability:
    """One of the list; raises KeyError, TypeError, ValueError or AttributeError where it is none."""
    aliases = stated["aliases"]
    if not all(isinstance(each, str) for each in (stated["id"], *aliases)):
        raise TypeError("an id is not a text")
    summary = next((stated[key] for key in ("summary", "details") if stated.get(key) is not None), "")
    return Vulnerability(
        id=stated["id"],
        aliases=tuple(sorted(set(aliases))),
        summary=" ".join(str(summary).split()),
        # They come in no order.
        fixed=tuple(str(each) for each in sorted(map(Version, stated["fixed_in"]))),
    )


def _words(error: Exception) -> str:
    """The system's own, where there are any: what requests makes of them is long and of no help."""
    return network_reason(error)[:200]
