from __future__ import annotations

import http.server
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from listening import listening

from kbuild.environment.index.download import make_session
from kbuild.environment.index.pip_settings import network_variables


class _Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[str]]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    server.asked = []  # type: ignore[attr-defined]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with listening(server):
        yield server.server_port, server.asked  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that nobody trusts, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("tls")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    argv += ["-keyout", str(folder / "key"), "-out", str(folder / "cert")]
    subprocess.run(argv, check=True, capture_output=True)
    return folder / "cert", folder / "key"


def test_settings_become_pips_own_variables() -> None:
    settings = {"proxy": "http://p:1", "trusted-host": "a.example\nb.example:8443", "index-url": "x"}
    assert network_variables(settings) == {"PIP_PROXY": "http://p:1", "PIP_TRUSTED_HOST": "a.example b.example:8443"}


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_pips_proxy_is_asked_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving() as (port, asked), make_session({"PIP_PROXY": f"{scheme}127.0.0.1:{port}"}) as session:
        assert session.get("http://index.example/simple/x/", timeout=5).text == "ok"
    assert asked == ["http://index.example/simple/x/"]


@pytest.mark.slow
def test_a_trusted_host_needs_no_certificate_that_is_trusted_and_no_other_host_goes_without(
    certificate: tuple[Path, Path],
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(context) as (port, asked):
        for trusted in ("127.0.0.1", f"127.0.0.1:{port}"):
            with make_session({"PIP_TRUSTED_HOST": f"other.example {trusted}"}) as session:
                assert session.get(f"https://127.0.0.1:{port}/simple/x/", timeout=5).text == "ok"
        for environ in ({}, {"PIP_TRUSTED_HOST": "other.example 127.0.0.1:1"}):
            with make_session(environ) as session, pytest.raises(requests.exceptions.SSLError):
                session.adapters["https://"].max_retries = 0
                session.get(f"https://127.0.0.1:{port}/simple/x/", timeout=5)
    assert asked == ["/simple/x/"] * 2


def test_a_client_certificate_is_shown(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "client.pem"
    both.write_bytes(certificate[0].read_bytes() + certificate[1].read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.load_verify_locations(certificate[0])
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(context) as (port, _):
        environ = {"PIP_TRUSTED_HOST": "127.0.0.1", "PIP_CLIENT_CERT": str(both)}
        with make_session(environ) as session:
            assert session.get(f"https://127.0.0.1:{port}/x", timeout=5).text == "ok"
