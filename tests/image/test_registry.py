from __future__ import annotations

import base64
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from listening import listening
from plans import EMPTY, Bytes

from kbuild.bounded import in_time
from kbuild.digest import Digest, canonical_json, digest_bytes
from kbuild.errors import HashMismatch, InvalidImage, RegistryError
from kbuild.image.deliver.publishers import LayoutPublisher, RegistryPublisher, TarballPublisher
from kbuild.image.engine import BuiltImage, EngineOutput, RawLayer
from kbuild.image.oci import media
from kbuild.image.oci.descriptor import Descriptor, make_index
from kbuild.image.oci.image_reference import ImageReference
from kbuild.image.oci.layout import read_manifest
from kbuild.image.oci.validate import validate_layout
from kbuild.image.registry import auth as registry_auth
from kbuild.image.registry.client import RegistryClient
from kbuild.image.registry.transfer import pull_image
from kbuild.image.store.pack import pack
from kbuild.platform import Platform
from kbuild.progress import Silent

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


class FakeRegistry(ThreadingHTTPServer):
    """The part of the distribution-spec that a push and a pull need, with Bearer tokens when ``user`` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads = 0
        self.user: str | None = None
        self.upload_host = ""
        self.seen: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: FakeRegistry

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, code: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refused(self) -> bool:
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.server.user is None or self.headers.get("Authorization") == "Bearer good":
            return False
        challenge = f'Bearer realm="http://{self.server.address}/token",service="s",scope="repository:r:pull,push"'
        self.answer(
            401, b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}', WWW_Authenticate=challenge
        )
        return True

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/token":
            self.server.seen.append((self.path, self.headers.get("Authorization")))
            expected = base64.b64encode(str(self.server.user).encode()).decode()
            good = self.headers.get("Authorization") == f"Basic {expected}"
            return self.answer(200, b'{"token":"good"}') if good else self.answer(401)
        if self.refused():
            return None
        kind, name = path.split("/")[-2:]
        if kind == "manifests" and name in self.server.manifests:
            media_type, data = self.server.manifests[name]
            return self.answer(200, data, Content_Type=media_type)
        if kind == "blobs" and name in self.server.blobs:
            return self.answer(200, self.server.blobs[name])
        return self.answer(404, b'{"errors":[{"code":"NAME_UNKNOWN","message":"not known"}]}')

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if not self.refused():
            self.answer(202, Location=f"{self.server.upload_host}/v2/upload/1?state=x")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return None
        target = urlsplit(self.path)
        if "/upload/" in target.path:
            self.server.uploads += 1
            self.server.blobs[parse_qs(target.query)["digest"][0]] = data
            return self.answer(201)
        version = target.path.rpartition("/")[2]
        for name in (version, str(digest_bytes(data))):
            self.server.manifests[name] = (self.headers["Content-Type"], data)
        return self.answer(201, Docker_Content_Digest=str(digest_bytes(data)))


@contextmanager
def serving() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    with listening(server):
        yield server


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    (tmp_path / "docker").mkdir()
    with serving() as server:
        yield server


@pytest.fixture
def image(tmp_path: Path) -> BuiltImage:
    return make_image(tmp_path / "image", AMD64)


def make_image(layout: Path, platform: Platform) -> BuiltImage:
    layers = tuple(RawLayer(content=Bytes(data * 2000), created_by="COPY x/ /") for data in (b"one", b"two"))
    plan = replace(EMPTY, platform=platform)
    return pack(EngineOutput(layers=layers, config={}), plan, layout, engine="fake", progress=Silent())


def push(image: BuiltImage, reference: ImageReference) -> ImageReference:
    return RegistryPublisher().publish(image, reference, progress=Silent())


def test_a_push_tells_what_of_it_was_sent(registry: FakeRegistry, tmp_path: Path) -> None:
    told: list[str] = []

    class Heard(Silent):
        def made(self, text: str) -> None:
            told.append(text)

    layer = RawLayer(content=Bytes(os.urandom(2_500_000)), created_by="COPY x/ /")
    output = EngineOutput(layers=(layer,), config={})
    built = pack(output, replace(EMPTY, platform=AMD64), tmp_path / "image", engine="fake", progress=Silent())
    config = read_manifest(built.layout, built.digest).config
    for tag in ("1", "2", "3"):
        if tag == "3":
            registry.blobs.pop(str(config.digest))
        reference = ImageReference.parse(f"{registry.address}/demo:{tag}")
        RegistryPublisher().publish(built, reference, progress=Heard())
    assert told == [
        f"2.5 MB sent to {registry.address}",
        f"nothing sent to {registry.address}, which had all 2.5 MB",
        f"{config.size / 1e3:.1f} kB sent to {registry.address}, which had the other 2.5 MB",
    ]


def test_what_was_pushed_is_pulled_with_its_digest(registry: FakeRegistry, image: BuiltImage, tmp_path: Path) -> None:
    reference = ImageReference.parse(f"{registry.address}/team/demo:1")
    assert push(image, reference) == reference.with_digest(image.digest)
    assert registry.uploads == 3
    push(image, reference.with_tag("2"))
    assert registry.uploads == 3
    pulled, layout = pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())
    assert pulled.digest == image.digest
    validate_layout(layout)
    registry.blobs.clear()
    registry.manifests.clear()
    assert pull_image(pulled, AMD64, cache=tmp_path / "cache", progress=Silent()) == (pulled, layout)


def test_a_manifest_larger_than_registries_take_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    """4 MiB, by the distribution-spec's "Pushing Manifests"."""
    reference = ImageReference.parse(f"{registry.address}/demo:1")
    media_type = "application/vnd.oci.image.manifest.v1+json"
    registry.manifests["1"] = media_type, b'{"a": "' + b"x" * (4 << 20) + b'"}'
    with pytest.raises(RegistryError, match=r"the manifest of .*: the answer has more than 4 MiB"):
        pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())


@pytest.mark.parametrize(
    ("status", "said", "hint"),
    [
        (413, "answered 413", r"client_max_body_size"),
        (429, "answered 429", r"docker login 127\.0\.0\.1:"),
        (500, "answered 500", r"log of registry 127\.0\.0\.1:"),
        (503, "answered 503", r"log of registry 127\.0\.0\.1:"),
        (507, "answered 507", r"make room"),
        (405, "answered 405", r"log of registry 127\.0\.0\.1:"),
        (308, "in circles", r"check the name and the port"),
    ],
)
@pytest.mark.parametrize("does", ["push", "pull"])
def test_whatever_a_registry_answers_is_told_with_what_to_do(
    image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, status: int, said: str, hint: str
) -> None:
    class Failing(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            if status == 308:
                self.send_header("Location", self.path)
            if status == 429:
                self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with listening(ThreadingHTTPServer(("127.0.0.1", 0), Failing)) as server, pytest.raises(RegistryError) as caught:
        reference = ImageReference.parse(f"{server.partition('//')[2]}/a/b:1")
        if does == "push":
            push(image, reference)
        else:
            pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())
    assert said in caught.value.message
    assert re.search(hint, caught.value.hint or "")
    assert status != 429 or "3600" in f"{caught.value.message} {caught.value.hint}"


def test_a_manifest_that_drips_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket's own time limit minds."""
    monkeypatch.setattr(in_time, "LONGEST_WAIT", 0.6)

    class Drips(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(500):
                    self.wfile.write(b" ")
                    time.sleep(0.02)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Drips)
    server.daemon_threads = True
    with listening(server) as url, pytest.raises(RegistryError, match=r"the manifest of .* within 0\.2 s"):
        reference = ImageReference.parse(f"{url.partition('//')[2]}/demo:1")
        pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())


@pytest.mark.parametrize("how", ["cut", "not gzip", "deep"])
def test_a_manifest_that_arrives_broken_is_one_line(
    registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def answer(handler: Handler, code: int, data: bytes = b"", **headers: str) -> None:
        if how == "deep":
            data = b"[" * 200_000
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data) + (10 if how == "cut" else 0)))
        if how == "not gzip":
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    registry.manifests["1"] = "application/vnd.oci.image.manifest.v1+json", b'{"schemaVersion": 2}'
    monkeypatch.setattr(Handler, "answer", answer)
    with pytest.raises((RegistryError, InvalidImage)) as caught:
        pull_image(ImageReference.parse(f"{registry.address}/demo:1"), AMD64, cache=tmp_path / "c", progress=Silent())
    assert "manifest" in caught.value.message
    assert "\n" not in caught.value.message


def test_what_was_pulled_is_still_for_its_own_platform_alone(
    registry: FakeRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    reference = ImageReference.parse(f"{registry.address}/demo:1")
    push(image, reference)
    pulled, _ = pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())
    for name in (reference, pulled):
        with pytest.raises(RegistryError, match="not there for linux/arm64"):
            pull_image(name, ARM64, cache=tmp_path / "cache", progress=Silent())


def test_an_index_is_resolved_for_the_platform(registry: FakeRegistry, image: BuiltImage, tmp_path: Path) -> None:
    reference = ImageReference.parse(f"{registry.address}/demo:1")
    other = make_image(tmp_path / "arm", ARM64)
    entries = []
    for built, platform in ((image, AMD64), (other, ARM64)):
        push(built, reference)
        entries.append(
            Descriptor(
                media_type=media.MANIFEST,
                digest=built.digest,
                size=len(registry.manifests[str(built.digest)][1]),
                platform=(platform.os, platform.architecture),
            )
        )
    registry.manifests["multi"] = (media.INDEX, canonical_json(make_index(tuple(entries))))
    pulled, _ = pull_image(reference.with_tag("multi"), ARM64, cache=tmp_path / "c", progress=Silent())
    assert pulled.digest == other.digest
    registry.manifests["multi"] = (media.INDEX, canonical_json(make_index((entries[0],))))
    with pytest.raises(RegistryError, match="not there for linux/arm64"):
        pull_image(reference.with_tag("multi"), ARM64, cache=tmp_path / "c", progress=Silent())


def test_other_bytes_than_named_are_refused_and_not_kept(
    registry: FakeRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    reference = push(image, ImageReference.parse(f"{registry.address}/demo:1"))
    registry.blobs[str(image.layers[0].digest)] = b"x" * image.layers[0].size
    with pytest.raises(HashMismatch, match=str(image.layers[0].digest)):
        pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())
    assert list((tmp_path / "cache").iterdir()) == []
    registry.manifests[str(image.digest)] = (media.MANIFEST, b"{}")
    with pytest.raises(HashMismatch, match="another manifest"):
        pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Silent())


def test_a_blob_that_does_not_end_is_cut_off_at_its_size(
    registry: FakeRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    reference = push(image, ImageReference.parse(f"{registry.address}/demo:1"))
    layer = image.layers[0]
    registry.blobs[str(layer.digest)] += b"x" * (8 << 20)
    written: list[tuple[int, int | None]] = []

    class Counting(Silent):
        def count(self, done: int, total: int | None, unit: str = "bytes") -> None:
            written.append((done, total))

    with pytest.raises(HashMismatch, match=f"sends more than the {layer.size} bytes of blob {layer.digest}"):
        pull_image(reference, AMD64, cache=tmp_path / "cache", progress=Counting())
    assert all(total is None or done <= total for done, total in written)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_such_image(registry: FakeRegistry, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="has no 127"):
        pull_image(ImageReference.parse(f"{registry.address}/x:1"), AMD64, cache=tmp_path, progress=Silent())


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1 does not answer") as caught:
        pull_image(ImageReference.parse("127.0.0.1:1/x:1"), AMD64, cache=tmp_path / "c", progress=Silent())
    assert "\n" not in caught.value.message


def test_a_registry_of_this_machine_may_speak_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go's server answers plain http so; a certificate that nobody vouches for is told as what it is."""
    asked = []

    def request(session: Any, method: str, url: str, **options: Any) -> requests.Response:
        asked.append(url)
        if url.startswith("https:"):
            raise requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
        answer = requests.Response()
        answer.status_code = 400
        answer._content = b"" if method == "HEAD" else b"Client sent an HTTP request to an HTTPS server.\n"
        return answer

    monkeypatch.setattr(requests.Session, "request", request)
    with pytest.raises(RegistryError, match=r"^the certificate of registry localhost:9 is not trusted") as caught:
        RegistryClient(ImageReference.parse("localhost:9/x:1")).has_blob(EMPTY)
    assert "REQUESTS_CA_BUNDLE" in str(caught.value.hint)
    assert asked == [
        f"http://localhost:9/v2/x/blobs/{EMPTY}",
        "http://localhost:9/v2/",
        f"https://localhost:9/v2/x/blobs/{EMPTY}",
    ]


def test_login_is_read_from_docker_and_its_lack_is_told(
    registry: FakeRegistry, image: BuiltImage, tmp_path: Path
) -> None:
    registry.user = "me:secret"
    reference = ImageReference.parse(f"{registry.address}/demo:1")
    with pytest.raises(RegistryError) as caught:
        push(image, reference)
    assert caught.value.hint == f"docker login {registry.address}"
    login = {"auths": {registry.address: {"auth": base64.b64encode(b"me:secret").decode()}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(login))
    assert push(image, reference).digest == image.digest


@pytest.mark.parametrize("more", [{}, {"identitytoken": "t"}], ids=["password", "identity"])
def test_a_login_is_not_sent_in_the_clear_where_the_registry_is_asked_by_tls(
    registry: FakeRegistry, tmp_path: Path, more: dict[str, str]
) -> None:
    login = {"auth": base64.b64encode(b"me:secret").decode(), **more}
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {"r.example": login}}))
    auth = registry_auth.RegistryAuth("r.example", "https://r.example", requests.Session())
    with pytest.raises(RegistryError, match=r"wants the login of r\.example without TLS") as caught:
        auth.answer(f'Bearer realm="http://{registry.address}/token",service="s"')
    assert registry.seen == [] and registry.address in str(caught.value)


def test_a_token_server_that_never_answers_is_not_waited_for_for_ever(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        realm = f'Bearer realm="http://127.0.0.1:{silent.getsockname()[1]}/token"'
        monkeypatch.setattr(Handler, "refused", lambda self: self.answer(401, WWW_Authenticate=realm) or True)
        monkeypatch.setattr(registry_auth, "TIMEOUT", (0.2, 0.2))
        with pytest.raises(RegistryError, match="does not answer"):
            pull_image(
                ImageReference.parse(f"{registry.address}/r:1"), AMD64, cache=tmp_path / "cache", progress=Silent()
            )


@pytest.mark.parametrize("asks", [False, True])
def test_another_host_that_takes_uploads_gets_no_credentials(
    registry: FakeRegistry, image: BuiltImage, tmp_path: Path, asks: bool
) -> None:
    registry.user = "me:secret"
    login = {"auths": {registry.address: {"auth": base64.b64encode(b"me:secret").decode()}}}
    (tmp_path / "docker/config.json").write_text(json.dumps(login))
    with serving() as other:
        other.user = "me:secret" if asks else None
        registry.upload_host = f"http://{other.address}"
        reference = ImageReference.parse(f"{registry.address}/demo:1")
        if asks:
            with pytest.raises(RegistryError, match="refuses access"):
                push(image, reference)
        else:
            push(image, reference)
        assert other.seen
        assert not [(path, header) for path, header in other.seen if header is not None]


def test_credential_helpers_are_asked(
    registry: FakeRegistry, image: BuiltImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.user = "helped:word"
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text('#!/bin/sh\necho \'{"Username": "helped", "Secret": "word"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    (tmp_path / "docker/config.json").write_text(json.dumps({"credHelpers": {registry.address: "test"}}))
    assert push(image, ImageReference.parse(f"{registry.address}/demo:1")).digest == image.digest


def test_layouts_and_tars_are_whole_copies(image: BuiltImage, tmp_path: Path) -> None:
    reference = ImageReference.parse("demo:1")
    for target in ("copy", "copy"):
        published = LayoutPublisher(destination=tmp_path / target).publish(image, reference, progress=Silent())
    assert published == reference.with_digest(image.digest)
    validate_layout(tmp_path / "copy")
    TarballPublisher(destination=tmp_path / "new/image.tar").publish(image, reference, progress=Silent())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.tar"]
    assert Digest.parse(str(published.digest)) == image.digest
