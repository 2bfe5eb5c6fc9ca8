"""Whether the server in this container answers, also where it speaks TLS by another name than this address."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kbuild.serving.watch import healthcheck


def write_certificate(folder: Path) -> ssl.SSLContext:
    """What serves by a certificate that nobody vouches for, of a name that is not this machine's."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=model.example")
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=9999)
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    both = folder / "both.pem"
    both.write_bytes(
        made.sign(key, hashes.SHA256()).public_bytes(pem)
        + key.private_bytes(pem, private, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(("status", "code"), [(b"200 OK", 0), (b"503 Service Unavailable", 1)])
def test_the_server_is_asked_as_it_speaks(
    secure: bool, status: bytes, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("KBUILD_PORT", str(server.getsockname()[1]))
    if secure:
        monkeypatch.setenv("KBUILD_TLS_CERT", "given")
    wrap = write_certificate(tmp_path).wrap_socket if secure else None

    def answer() -> None:
        plain, _ = server.accept()
        with wrap(plain, server_side=True) if wrap else plain as connection:
            assert connection.recv(99).startswith(b"GET /health HTTP/1.1\r\n")
            connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    assert healthcheck.main() == code
    thread.join()
    server.close()


def test_nobody_there_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("KBUILD_PORT", str(server.getsockname()[1]))
    assert healthcheck.main() == 1
    monkeypatch.setenv("KBUILD_PORT", "many")
    assert healthcheck.main() == 1
