from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from listening import listening

from kbuild.digest import Digest, digest_bytes
from kbuild.errors import RegistryError
from kbuild.image.oci.descriptor import Descriptor
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.registry import upload as registry_upload
from kbuild.image.registry.blob_places import BlobPlaces
from kbuild.image.registry.client import RegistryClient
from kbuild.image.registry.upload import push_blob
from kbuild.progress import Silent

DATA = bytes(range(256)) * 4000
DIGEST = digest_bytes(DATA)
BLOB = Descriptor(media_type="application/octet-stream", digest=DIGEST, size=len(DATA))


class Flaky(ThreadingHTTPServer):
    """A registry that loses connections after so many bytes of a body, once for each number in ``cuts``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, set[str]] = {}
        self.partial = b""
        self.cuts: list[int] = []
        self.keeps_partial = True
        self.limit = 10**9
        self.lose_answer = False
        self.refuses_mounts = 0
        self.asked: list[str] = []
        self.received = 0

    def handle_error(self, *_: object) -> None:
        pass  # connections are lost on purpose


class Handler(BaseHTTPRequestHandler):
    server: Flaky

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def body(self) -> bytes | None:
        """The request's body, None where the connection was cut in it."""
        wanted = int(self.headers["Content-Length"])
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        data = self.rfile.read(wanted if cut is None else min(cut, wanted))
        self.server.received += len(data)
        if cut is None:
            return data
        if self.server.keeps_partial:
            self.server.partial += data
        # A reset, as routers do it, not an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        return None

    @property
    def repository(self) -> str:
        return urlsplit(self.path).path.removeprefix("/v2/").partition("/blobs/")[0]

    def do_HEAD(self) -> None:
        there = self.repository in self.server.blobs.get(self.path.rpartition("/")[2], ())
        self.answer(200 if there else 404)

    def do_POST(self) -> None:
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.asked.append(f"POST {' '.join(query.values())}".strip())
        if "mount" in query and self.server.refuses_mounts:
            return self.answer(self.server.refuses_mounts)
        if "mount" in query and query["from"] in self.server.blobs.get(query["mount"], ()):
            self.server.blobs[query["mount"]].add(self.repository)
            return self.answer(201)
        self.server.partial = b""
        return self.answer(202, Location=f"/v2/{self.repository}/blobs/uploads/u?at=0")

    def do_GET(self) -> None:
        self.server.asked.append("GET")
        if not self.server.keeps_partial:
            return self.answer(404)
        end = max(0, len(self.server.partial) - 1)
        return self.answer(204, Range=f"0-{end}", Location=f"{self.path}&again")

    def do_PATCH(self) -> None:
        self.server.asked.append(f"PATCH {self.headers['Content-Range']}")
        start = int(self.headers["Content-Range"].partition("-")[0])
        if start != len(self.server.partial):
            return self.answer(416)
        if (data := self.body()) is not None:
            self.server.partial += data
            return self.answer(202, Location=self.path, Range=f"0-{len(self.server.partial) - 1}")
        return None

    def do_PUT(self) -> None:
        self.server.asked.append("PUT")
        if int(self.headers["Content-Length"]) > self.server.limit:
            self.rfile.read(int(self.headers["Content-Length"]))
            return self.answer(413)
        data = self.body()
        if data is None:
            return None
        whole = self.server.partial + data
        if str(digest_bytes(whole)) != parse_qs(urlsplit(self.path).query)["digest"][0]:
            return self.answer(400)
        self.server.blobs.setdefault(str(digest_bytes(whole)), set()).add(self.repository)
        if self.server.lose_answer:
            self.connection.close()
            self.close_connection = True
            return None
        return self.answer(201)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(registry_upload, "_BACKOFF_SECONDS", 0)
    monkeypatch.setattr(registry_upload, "_PART", 300_000)
    server = Flaky()
    with listening(server):
        yield server


def upload(registry: Flaky, tmp_path: Path, *sources: str) -> bool:
    (tmp_path / "blob").write_bytes(DATA)
    name = f"127.0.0.1:{registry.server_address[1]}/team/new:1"
    client = RegistryClient(ImageReference.parse(name))
    try:
        return push_blob(client, BLOB, tmp_path / "blob", sources=sources, progress=Silent())
    finally:
        client.close()


def test_a_blob_is_sent_whole_where_nothing_happens(registry: Flaky, tmp_path: Path) -> None:
    assert not upload(registry, tmp_path)
    assert registry.asked == ["POST", "PUT"]
    assert registry.blobs == {str(DIGEST): {"team/new"}}


def test_a_lost_connection_is_resumed_where_it_broke(registry: Flaky, tmp_path: Path) -> None:
    registry.cuts = [500_000, 100_000]
    upload(registry, tmp_path)
    assert registry.blobs == {str(DIGEST): {"team/new"}}
    assert registry.received == len(DATA)
    assert registry.asked == [
        "POST", "PUT", "GET", "PATCH 500000-799999", "GET", "PATCH 600000-899999", "PATCH 900000-1023999", "PUT",
    ]  # fmt: skip


def unanswered(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """As if so many looks at what the registry has met a registry that is being started again."""
    has_blob = RegistryClient.has_blob
    left = iter(range(times))

    def ask(client: RegistryClient, digest: Digest) -> bool:
        with client.explained():
            for _ in left:
                raise requests.ConnectionError("refused")
        return has_blob(client, digest)

    monkeypatch.setattr(RegistryClient, "has_blob", ask)


def test_a_registry_that_is_away_for_a_while_is_waited_for(
    registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.cuts = [500_000]
    unanswered(monkeypatch, 3)
    upload(registry, tmp_path)
    assert registry.blobs == {str(DIGEST): {"team/new"}}
    assert registry.received == len(DATA)


def test_a_registry_that_stays_away_is_told(registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.cuts = [500_000]
    unanswered(monkeypatch, 100)
    with pytest.raises(RegistryError, match="does not answer: refused"):
        upload(registry, tmp_path)


def test_an_upload_that_the_registry_forgot_starts_again(registry: Flaky, tmp_path: Path) -> None:
    registry.cuts, registry.keeps_partial = [500_000], False
    upload(registry, tmp_path)
    assert registry.blobs == {str(DIGEST): {"team/new"}}
    assert registry.asked[:5] == ["POST", "PUT", "GET", "POST", "PATCH 0-299999"]


def test_a_proxy_that_takes_no_large_request_gets_parts(registry: Flaky, tmp_path: Path) -> None:
    registry.limit = 400_000
    upload(registry, tmp_path)
    assert registry.asked == [
        "POST", "PUT", "GET", "PATCH 0-299999", "PATCH 300000-599999", "PATCH 600000-899999", "PATCH 900000-1023999",
        "PUT",
    ]  # fmt: skip


def test_an_answer_that_was_lost_is_not_sent_for_again(registry: Flaky, tmp_path: Path) -> None:
    registry.lose_answer = True
    upload(registry, tmp_path)
    assert registry.asked == ["POST", "PUT"]


def test_it_gives_up_in_the_end(registry: Flaky, tmp_path: Path) -> None:
    registry.cuts = [10] * 100
    with pytest.raises(RegistryError, match="does not answer") as caught:
        upload(registry, tmp_path)
    assert "\n" not in caught.value.message
    assert sum(text.startswith(("PUT", "PATCH")) for text in registry.asked) == 6


def test_a_connection_that_breaks_often_gets_there(
    registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_upload, "_PROGRESS", 50_000)
    registry.cuts = [60_000] * 14
    upload(registry, tmp_path)
    assert registry.blobs == {str(DIGEST): {"team/new"}} and registry.received == len(DATA)


def test_a_refusal_is_told_at_once(registry: Flaky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handler, "do_PUT", lambda self: self.answer(400))
    with pytest.raises(RegistryError, match="answered 400"):
        upload(registry, tmp_path)
    assert registry.asked == ["POST"]


def test_a_blob_of_another_repository_is_mounted(registry: Flaky, tmp_path: Path) -> None:
    registry.blobs[str(DIGEST)] = {"team/old"}
    assert upload(registry, tmp_path, "team/old")
    assert registry.received == 0
    assert registry.blobs[str(DIGEST)] == {"team/old", "team/new"}


@pytest.mark.parametrize("code", [0, 403, 404, 405])
def test_a_mount_that_cannot_be_is_an_upload(registry: Flaky, tmp_path: Path, code: int) -> None:
    registry.refuses_mounts = code
    assert not upload(registry, tmp_path, "team/gone")
    assert registry.asked == [f"POST {DIGEST} team/gone", *(["POST"] if code else []), "PUT"]
    assert registry.blobs == {str(DIGEST): {"team/new"}}


def test_places_are_remembered_by_registry(tmp_path: Path) -> None:
    places = BlobPlaces(root=tmp_path / "registries")
    here, there = ImageReference.parse("r.example:5000/a/b:1"), ImageReference.parse("other.example/a/b:1")
    one = Digest("1" * 64)
    assert places.find(here, one) is None
    places.add(here, [one])
    assert places.find(here, one) is None  # itself
    assert places.find(ImageReference.parse("r.example:5000/c"), one) == "a/b"
    assert places.find(there, one) is None
    (path,) = (tmp_path / "registries").iterdir()
    path.write_text("{")
    assert places.find(ImageReference.parse("r.example:5000/c"), one) is None
