"""An index's advisories, asked of a server that speaks the protocols of the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from listening import listening

from kbuild.audit.sources.services import IndexService, NotKnown, make_pypi_service

RELEASE = {
    "info": {"name": "jinja2"},
    "vulnerabilities": [
        {
            "id": "PYSEC-2014-8",
            "aliases": ["CVE-2014-1402"],
            "details": "bad\ncache",
            "fixed_in": ["2.10", "2.7.2"],
            "withdrawn": None,
            "summary": None,
        },
        {"id": "PYSEC-0", "aliases": [], "details": "", "fixed_in": [], "withdrawn": "2020-01-01T00:00:00Z"},
    ],
}
PAGES = {
    "/pypi/jinja2/2.4.1/json": RELEASE,
    "/pypi/six/1.17.0/json": {"info": {}, "vulnerabilities": []},
    "/pypi/mirror/1.0/json": {"info": {}},
    "/pypi/broken/1.0/json": ["no", "release"],
    "/pypi/empty/1.0/json": {"info": {}, "vulnerabilities": {}},
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        if self.path == "/pypi/failing/1.0/json":
            self.answer(503, {})
        elif self.path == "/pypi/page/1.0/json":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>sign in</html>")
        else:
            self.answer(200 if self.path in PAGES else 404, PAGES.get(self.path, {}))

    def answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    running: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.seen = []
    with listening(running) as running.url:
        yield running


@pytest.fixture
def pypi(server: Any) -> IndexService:
    return make_pypi_service(f"{server.url}/simple", credentials=lambda _: ("user", "word"))


def test_the_index_is_asked_where_it_is_with_its_credentials(pypi: IndexService, server: Any) -> None:
    answer = pypi.query("jinja2", "2.4.1")
    assert not isinstance(answer, NotKnown)
    [found] = answer
    assert (found.id, found.aliases, found.fixed) == ("PYSEC-2014-8", ("CVE-2014-1402",), ("2.7.2", "2.10"))
    assert server.seen == [("/pypi/jinja2/2.4.1/json", "Basic dXNlcjp3b3Jk")]
    assert found.summary == "bad cache"
    assert pypi.query("six", "1.17.0") == ()
    pypi.query("Simple Six/?x", "1.0")
    assert server.seen[-1][0] == "/pypi/simple%20six%2F%3Fx/1.0/json"


@pytest.mark.parametrize(
    ("name", "version", "reason"),
    [
        ("absent", "1.0", "does not know this release"),
        ("mirror", "1.0", "keeps no advisories"),
        ("failing", "1.0", "503"),
        ("broken", "1.0", "no answer of its protocol"),
        ("odd", "not a version", "not a version of Python"),
        ("empty", "1.0", "vulnerabilities is not a list"),
        ("page", "1.0", "no answer of its protocol"),
    ],
)
def test_what_is_no_answer_is_not_taken_for_none(pypi: IndexService, name: str, version: str, reason: str) -> None:
    answer = pypi.query(name, version)
    assert isinstance(answer, NotKnown)
    assert reason in answer.reason
    assert not answer.down


def test_a_dead_index_is_down() -> None:
    answer = make_pypi_service("http://127.0.0.1:9/simple", credentials=lambda _: None).query("six", "1.17.0")
    assert isinstance(answer, NotKnown)
    assert answer.down
    assert "127.0.0.1:9" in answer.reason
