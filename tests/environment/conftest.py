"""A small web server on the loopback interface, answering from a dictionary; and conda-lock, imported once."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from listening import listening

# Helpers beside the tests are importable: pytest's importlib mode leaves the folders off sys.path.
sys.path.insert(0, str(Path(__file__).parents[1]))

from loaded import Loaded


@dataclass
class Site:
    """``pages`` holds status, content type and body by path; ``seen`` the paths and Authorization headers asked for."""

    url: str
    pages: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    served = Site("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.seen.append((self.path, self.headers.get("Authorization")))
            status, kind, body = served.pages.get(self.path, (404, "text/plain", b"gone"))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as served.url:
        yield served


@pytest.fixture(scope="session")
def conda_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """Splits off processes that have conda-lock, which takes seconds to import and says what is deprecated in it."""
    # As kbuild has it: the user's poetry decides nothing.
    environ = {**os.environ, "POETRY_CONFIG_DIR": str(tmp_path_factory.mktemp("poetry"))}
    with Loaded("conda_lock.conda_lock", "conda_lock.pypi_solver", env=environ) as loaded:
        yield loaded
