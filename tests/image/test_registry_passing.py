"""What passes by itself in a registry, or between it and here: it is busy once, or a download breaks off."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from listening import listening

from kbuild.digest import digest_bytes
from kbuild.errors import HashMismatch, RegistryError
from kbuild.image.oci.descriptor import Descriptor
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry import client as registry_client
from kbuild.image.registry.client import RegistryClient
from kbuild.image.registry.upload import push_blob
from kbuild.progress import Silent

DATA = bytes(range(256)) * (4 << 12)
BLOB = Descriptor(media_type="application/octet-stream", digest=digest_bytes(DATA), size=len(DATA))


class Passing(ThreadingHTTPServer):
    """A registry that answers ``busy`` to so many requests of each method, and sends as much of a blob as ``cuts``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.busy, self.times = 500, 0
        self.refused: dict[str, int] = {}
        self.cuts: list[int] = []
        self.knows_ranges = True
        self.sent: list[str | None] = []
        self.stored: list[bytes] = []

    def handle_error(self, *_: object) -> None:
        pass  # connections are lost on purpose


class Handler(BaseHTTPRequestHandler):
    server: Passing

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, data: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data if self.command != "HEAD" else b"")

    def is_busy(self) -> bool:
        count = self.server.refused[self.command] = self.server.refused.get(self.command, 0) + 1
        if count <= self.server.times:
            self.answer(self.server.busy, **{"Retry-After": "0"})
        return count <= self.server.times

    def do_HEAD(self) -> None:
        if not self.is_busy():
            self.answer(404)

    def do_GET(self) -> None:
        if self.is_busy():
            return
        asked = self.headers.get("Range")
        self.server.sent.append(asked)
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and self.server.knows_ranges else 0
        rest = DATA[start:]
        cut = self.server.cuts.pop(0) if self.server.cuts else len(rest)
        self.answer(206 if start else 200, rest[:cut], len(rest))

    def do_POST(self) -> None:
        if not self.is_busy():
            self.answer(202, Location="/v2/a/blobs/uploads/1")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "/manifests/" in self.path and self.is_busy():
            return
        self.server.stored.append(data)
        self.answer(201)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Passing]:
    monkeypatch.setattr(registry_client, "_BACKOFF_SECONDS", 0.001)
    server = Passing()
    with listening(server):
        yield server


@pytest.fixture
def client(registry: Passing) -> Iterator[RegistryClient]:
    found = RegistryClient(ImageReference.parse(f"127.0.0.1:{registry.server_address[1]}/a:1"))
    yield found
    found.close()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_image_is_pushed_though_the_registry_is_busy_once(
    registry: Passing, client: RegistryClient, status: int, tmp_path: Path
) -> None:
    registry.busy, registry.times = status, 2
    (tmp_path / "blob").write_bytes(DATA)
    assert not client.has_blob(BLOB.digest)
    assert not push_blob(client, BLOB, tmp_path / "blob", progress=Silent())
    client.push_manifest("1", "application/json", b"{}")
    assert registry.stored == [DATA, b"{}"] and registry.refused == {"HEAD": 3, "POST": 3, "PUT": 3}


def test_a_registry_that_stays_busy_is_told(registry: Passing, client: RegistryClient, tmp_path: Path) -> None:
    registry.times = 99
    for ask in (
        lambda: client.has_blob(BLOB.digest),
        lambda: client.push_manifest("1", "application/json", b"{}"),
        lambda: client.fetch_blob(BLOB, tmp_path / "got", Silent()),
    ):
        with pytest.raises(RegistryError, match="answered 500"):
            ask()
    assert max(registry.refused.values()) <= 5


@pytest.mark.parametrize(
    ("ranges", "asked"),
    [(True, [None, "bytes=2097152-", "bytes=2097152-"]), (False, [None, "bytes=2097152-", None])],
)
def test_a_download_that_breaks_off_goes_on(
    registry: Passing, client: RegistryClient, ranges: bool, asked: list[str | None], tmp_path: Path
) -> None:
    registry.cuts, registry.knows_ranges = [2_500_000, 1], ranges
    client.fetch_blob(BLOB, tmp_path / "got", Silent())
    assert (tmp_path / "got").read_bytes() == DATA and registry.sent == asked


def test_a_download_that_breaks_often_and_gets_on_comes_to_its_end(
    registry: Passing, client: RegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_client, "_CHUNK", 1 << 18)
    registry.cuts = [1 << 18] * 15
    client.fetch_blob(BLOB, tmp_path / "got", Silent())
    assert (tmp_path / "got").read_bytes() == DATA and len(registry.sent) == 16


def test_a_download_that_always_breaks_off_is_told(registry: Passing, client: RegistryClient, tmp_path: Path) -> None:
    registry.cuts = [1] * 99
    with pytest.raises(RegistryError, match=r"broke off .* of 4194304 bytes") as caught:
        client.fetch_blob(BLOB, tmp_path / "got", Silent())
    assert "try again" in str(caught.value.hint) and len(registry.sent) <= 8


def test_a_download_that_goes_on_with_other_bytes_is_none(
    registry: Passing, client: RegistryClient, tmp_path: Path
) -> None:
    registry.cuts = [2_500_000]
    other = Descriptor(media_type=BLOB.media_type, digest=digest_bytes(b"other"), size=BLOB.size)
    with pytest.raises(HashMismatch):
        client.fetch_blob(other, tmp_path / "got", Silent())


def test_what_is_no_registry_is_told(registry: Passing, client: RegistryClient, tmp_path: Path) -> None:
    """A page to log in, with 200 for everything."""
    registry.busy, registry.times = 200, 99
    with pytest.raises(RegistryError, match=r"not .* as a registry does: 200 with nothing") as caught:
        (tmp_path / "blob").write_bytes(DATA)
        push_blob(client, BLOB, tmp_path / "blob", progress=Silent())
    assert "log in" in str(caught.value.hint)
