"""What OSV, or a service of its protocol, knows of many packages at once.

Protocol: https://google.github.io/osv.dev/api/ (``POST /v1/querybatch`` with its pages, ``GET /v1/vulns/ID``). A
package is asked by ecosystem, name and version, so the service decides which records are of that version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from kbuild.audit.sources.osv import PackageVersion
from kbuild.audit.sources.records import record_fault
from kbuild.audit.sources.services import NotKnown
from kbuild.environment.index.package_indexes import network_reason
from kbuild.http import ThreadSessions, Tries, bounded_session
from kbuild.process.asking import asking_pool
from kbuild.urls.credentials import without_credentials

OSV_URL = "https://api.osv.dev"
_TIMEOUT = 20
_AT_ONCE = 8
_BATCH = 1000
"""The most queries that OSV takes in one request."""
_MOST_PAGES = 50
# A service that is overloaded or starts again is asked a few times more; a refused connection only once more.
_RETRY = Tries(
    total=4,
    connect=1,
    read=1,
    backoff_factor=0.2,
    status_forcelist=(429, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)
Record = Mapping[str, Any]
Answer = tuple[Record, ...] | NotKnown


class OsvApi:
    """Asks for all packages in one request, and for each record they name once."""

    def __init__(self, url: str | None = None) -> None:
        """``url`` is the service's address, with or without ``/v1/query``; None: OSV's own."""
        self._base = (url or OSV_URL).rstrip("/").removesuffix("/query").removesuffix("/v1")
        self.name = f"the service {without_credentials(urlsplit(self._base).netloc)}"
        self._sessions = ThreadSessions(_session)

    def query(self, packages: Sequence[PackageVersion]) -> dict[PackageVersion, Answer]:
        """The records of each package's version without those withdrawn, or why they are not known."""
        named: dict[PackageVersion, list[str] | NotKnown] = {}
        unique = list(dict.fromkeys(packages))
        for start in range(0, len(unique), _BATCH):
            named |= self._batch(unique[start : start + _BATCH])
        ids = sorted({id for names in named.values() if not isinstance(names, NotKnown) for id in names})
        with asking_pool(_AT_ONCE) as pool:
            records = dict(zip(ids, pool.map(self._record, ids), strict=True))
        return {package: _collect(names, records) for package, names in named.items()}

    def advisory(self, id: str) -> list[Record] | NotKnown:
        """The records of one vulnerability: of this id, and of the aliases that it has in other databases."""
        first = self._record(id)
        if isinstance(first, NotKnown):
            return first
        found = [first]
        for alias in map(str, first.get("aliases") or ()):
            record = self._record(alias)
            if not isinstance(record, NotKnown):
                found.append(record)
            elif "status 404" not in record.reason:  # else it has none of that database
                return record
        return found

    def _batch(self, packages: Sequence[PackageVersion]) -> dict[PackageVersion, list[str] | NotKnown]:
        """The ids of each package's records, or why they are not known.

        One query that the service calls invalid, of an ecosystem that is new to it, makes it refuse all of a request:
        then each ecosystem is asked by itself.
        """
        try:
            return self._names(packages)
        except _Failed as error:
            ecosystems = list(dict.fromkeys(package.ecosystem for package in packages))
            if not error.invalid or len(ecosystems) == 1:
                return dict.fromkeys(packages, NotKnown(reason=str(error), down=True))
        found: dict[PackageVersion, list[str] | NotKnown] = {}
        for ecosystem in ecosystems:
            found |= self._batch([package for package in packages if package.ecosystem == ecosystem])
        return found

    def _names(self, packages: Sequence[PackageVersion]) -> dict[PackageVersion, list[str] | NotKnown]:
        """The ids of each package's records, through all pages."""
        found: dict[PackageVersion, list[str] | NotKnown] = {}
        ids: dict[PackageVersion, list[str]] = {package: [] for package in packages}
        left: list[tuple[PackageVersion, str | None]] = [(package, None) for package in packages]
        for _ in range(_MOST_PAGES):
            answer = self._ask("POST", "/v1/querybatch", {"queries": [_query(*each) for each in left]})
            results = answer.get("results")
            if not isinstance(results, list) or len(results) != len(left):
                raise self._garbage("its results are not one for each query")
            following: list[tuple[PackageVersion, str | None]] = []
            for (package, _), result in zip(left, results, strict=True):
                ids[package] += self._ids(result)
                token = (result or {}).get("next_page_token")
                if token is not None and not isinstance(token, str):
                    raise self._garbage("a next_page_token is not text")
                if token:
                    following.append((package, token))
            left = following
            if not left:
                break
        found |= ids
        unfinished = NotKnown(reason=f"{self.name} does not end its answer after {_MOST_PAGES} pages")
        return found | {package: unfinished for package, _ in left}

    def _ids(self, result: Any) -> Iterator[str]:
        """The ids of one result; a package without records has an empty object."""
        if result is not None and not isinstance(result, Mapping):
            raise self._garbage("a result is not an object")
        listed = (result or {}).get("vulns")
        if listed is not None and not isinstance(listed, list):
            raise self._garbage("vulns is not a list")
        for each in listed or ():
            if not isinstance(each, Mapping) or not isinstance(each.get("id"), str) or not each["id"]:
                raise self._garbage("a record has no id")
            yield each["id"]

    def _record(self, id: str) -> Record | NotKnown:
        try:
            record = self._ask("GET", f"/v1/vulns/{quote(id, safe='')}")
            fault = _fault(record, id)
            if fault is not None:
                raise self._garbage(f"{id}: {fault}")
        except _Failed as error:
            return NotKnown(reason=f"{id} concerns this version, but cannot be read: {error}", concerns=True)
        return record

    def _ask(self, method: str, path: str, body: Any = None) -> Record:
        """Raises _Failed when the service does not answer, refuses, or answers something else than an object."""
        try:
            response = self._sessions.mine().request(method, self._base + path, json=body, timeout=_TIMEOUT)
            if not response.ok:
                status = response.status_code
                raise _Failed(f"{self.name} refused: status {status} for {path}", invalid=status == 400)
            value = response.json()
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Failed(f"{self.name} does not answer: {_words(error)}") from error
        except requests.JSONDecodeError as error:
            raise self._garbage(f"what {path} answers is not JSON") from error
        except (requests.RequestException, ValueError, RecursionError) as error:
            raise _Failed(f"{self.name} cannot be asked: {_words(error)}") from error
        if not isinstance(value, Mapping):
            raise self._garbage(f"what {path} answers is not an object")
        return value

    def _garbage(self, what: str) -> _Failed:
        return _Failed(f"{self.name} gives no answer of OSV's protocol: {what}")


def _session() -> requests.Session:
    return bounded_session(_RETRY)


class _Failed(Exception):
    """The service could not say; the text says why. ``invalid`` tells that it takes the request for none."""

    def __init__(self, text: str, *, invalid: bool = False) -> None:
        super().__init__(text)
        self.invalid = invalid


def _query(package: PackageVersion, page: str | None) -> dict[str, Any]:
    query = {"package": {"ecosystem": package.ecosystem, "name": package.name}, "version": package.version}
    return query if page is None else {**query, "page_token": page}


def _fault(record: Record, id: str) -> str | None:
    """What makes it no record of this id."""
    return "another record is answered" if record.get("id") != id else record_fault(record)


def _collect(names: list[str] | NotKnown, records: Mapping[str, Record | NotKnown]) -> Answer:
    if isinstance(names, NotKnown):
        return names
    found: list[Record] = []
    for name in dict.fromkeys(names):
        record = records[name]
        if isinstance(record, NotKnown):
            return record
        if not record.get("withdrawn"):
            found.append(record)
    return tuple(found)


def _words(error: Exception) -> str:
    """The system's own, where there are any: what requests makes of them is long and of no help."""
    return network_reason(error)[:200]
