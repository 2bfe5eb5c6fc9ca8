"""Advisories as services give them: OSV's API and the JSON of a package index, over one list of OSV records.

Protocols: https://google.github.io/osv.dev/api/ (``POST /v1/querybatch`` with its pages, ``GET /v1/vulns/ID``) and
PyPA's JSON API (``GET /pypi/NAME/VERSION/json``, "vulnerabilities"). Which records are of a version is decided here, by
other means than kbuild's: packaging's versions, and ``dpkg --compare-versions`` for Debian's.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from listening import listening
from packaging.utils import canonicalize_name
from packaging.version import Version

Record = Mapping[str, Any]


@dataclass
class AdvisoryServer:
    """``url`` is OSV's address and the index's. ``seen`` are method and path of each request, ``asked`` OSV's queries.

    ``knows`` tells which releases the index has; ``answer`` takes the place of OSV's answer to a batch of queries, and
    ``osv_status`` of its status. Of a batch with a query for an ecosystem of ``unknown`` nothing is
    answered, as OSV does. ``page`` is how many records OSV names at once.
    """

    url: str = ""
    records: dict[str, Record] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    knows: Callable[[str, str], bool] = lambda name, version: True
    answer: Callable[[Sequence[Mapping[str, Any]]], Any] | None = None
    osv_status: int = 200
    unknown: frozenset[str] = frozenset()
    page: int = 1000

    def add(self, *records: Record) -> None:
        """From now on these are known too."""
        self.records |= {str(record["id"]): record for record in records}

    def batch(self, queries: Sequence[Mapping[str, Any]]) -> Any:
        """As OSV answers; a query without records is answered by an empty object."""
        self.asked += map(dict, queries)
        results = []
        for query in queries:
            package = query["package"]
            ids = [
                id
                for id, record in self.records.items()
                if affects(record, package["ecosystem"], package["name"], query["version"])
            ]
            at = int(query.get("page_token", 0))
            here = ids[at : at + self.page]
            found = {"vulns": [{"id": id, "modified": self.records[id]["modified"]} for id in here]} if here else {}
            results.append({**found, **({"next_page_token": str(at + self.page)} if at + self.page < len(ids) else {})})
        return {"results": results}

    def release(self, name: str, version: str) -> Any:
        """As an index answers for a release, None for one that it does not have."""
        if not self.knows(name, version):
            return None
        found = [record for record in self.records.values() if affects(record, "PyPI", name, version)]
        return {
            "info": {"name": name, "version": version, "yanked": False},
            "vulnerabilities": [
                {
                    "aliases": record.get("aliases", []),
                    "details": record.get("details", ""),
                    "fixed_in": fixes(record),
                    "id": record["id"],
                    "link": f"https://osv.dev/vulnerability/{record['id']}",
                    "source": "osv",
                    "summary": None,
                    "withdrawn": record.get("withdrawn"),
                }
                for record in found
            ],
        }


def affects(record: Record, ecosystem: str, name: str, version: str) -> bool:
    """Whether a record is of this version of this package."""
    if record.get("withdrawn"):
        return False
    return any(
        version in affected.get("versions", ())
        or any(_within(each, version, _order(ecosystem)) for each in affected.get("ranges", ()))
        for affected in record.get("affected", ())
        if affected["package"]["ecosystem"] == ecosystem
        and _name(ecosystem, affected["package"]["name"]) == _name(ecosystem, name)
    )


def fixes(record: Record) -> list[str]:
    """The versions that a record calls fixed."""
    ranges = [each for affected in record.get("affected", ()) for each in affected.get("ranges", ())]
    return [event["fixed"] for each in ranges for event in each["events"] if "fixed" in event]


def _name(ecosystem: str, name: str) -> str:
    return canonicalize_name(name) if ecosystem == "PyPI" else name


def _order(ecosystem: str) -> Callable[[str], Any]:
    return functools.cmp_to_key(_compare_debian) if ecosystem.startswith("Debian") else Version


def _compare_debian(one: str, other: str) -> int:
    if one == other:
        return 0
    less = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False).returncode == 0
    return -1 if less else 1


def _within(each: Mapping[str, Any], version: str, order: Callable[[str], Any]) -> bool:
    if each["type"] == "GIT":
        return False
    inside = False
    for event in each["events"]:
        (kind, at), *_ = event.items()
        if kind == "introduced":
            inside = inside or at == "0" or order(version) >= order(at)
        elif kind == "fixed":
            inside = inside and order(version) < order(at)
        elif kind == "last_affected":
            inside = inside and order(version) <= order(at)
    return inside


@contextlib.contextmanager
def serving(server: AdvisoryServer, port: int = 0) -> Iterator[AdvisoryServer]:
    """Answers at ``server.url`` on 127.0.0.1, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.seen.append(("GET", self.path))
            parts = [unquote(part) for part in self.path.strip("/").split("/")]
            value = None
            if parts[:2] == ["v1", "vulns"]:
                value = server.records.get(parts[2])
            elif parts[0] == "pypi" and parts[-1] == "json" and len(parts) == 4:
                value = server.release(parts[1], parts[2])
            self.reply(404 if value is None else 200, {"message": "Not Found"} if value is None else value)

        def do_POST(self) -> None:
            server.seen.append(("POST", self.path))
            queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            if server.unknown & {query["package"]["ecosystem"] for query in queries}:
                self.reply(400, {"code": 3, "message": "error in query at index 0: invalid ecosystem"})
                return
            value = server.batch(queries) if server.answer is None else server.answer(queries)
            self.reply(server.osv_status if self.path == "/v1/querybatch" else 404, value)

        def reply(self, status: int, value: Any) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with listening(ThreadingHTTPServer(("127.0.0.1", port), Handler)) as server.url:
        yield server
