"""``python -m kbuild.serving.watch.healthcheck``: exit code 0 when the server in this container answers ``/health``.

It runs every half minute, so it imports next to nothing.
"""

from __future__ import annotations

import os
import socket
import sys

_SECONDS = 4
# As ``kbuild.serving.http.server_settings.read_port``, which imports more.
_PORTS = ("KBUILD_PORT", "AIP_HTTP_PORT", "PORT")


def main() -> int:
    """0 for healthy, 1 for not (Docker reserves 2)."""
    host = os.environ.get("KBUILD_HOST", "")
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  everywhere, so also here
        host = "127.0.0.1"
    try:
        port = int(next(filter(None, map(os.environ.get, _PORTS)), "8080"))
        with socket.create_connection((host, port), timeout=_SECONDS) as plain, _secure(plain) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with connection.makefile("rb") as answer:
                # RFC 9112, section 4: version, space, status.
                return 0 if answer.readline(64).split(b" ")[1:2] == [b"200"] else 1
    except (OSError, ValueError, OverflowError):
        return 1


def _secure(plain: socket.socket) -> socket.socket:
    if not os.environ.get("KBUILD_TLS_CERT"):
        return plain
    import ssl

    # The certificate is for the name that callers use, not for this address, and nothing secret is asked.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(plain)


if __name__ == "__main__":
    sys.exit(main())
