"""``python -m kbuild.serving.healthcheck``: exit code 0 when the server in this container answers ``/health``."""

from __future__ import annotations

import http.client
import os
import ssl
import sys

from kbuild.errors import ConfigurationError
from kbuild.serving.settings import read_port


def main() -> int:
    """0 for healthy, 1 for not (Docker reserves 2)."""
    try:
        connection = _connect()
    except ConfigurationError:
        return 1
    try:
        connection.request("GET", "/health")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


def _connect() -> http.client.HTTPConnection:
    host = os.environ.get("KBUILD_HOST", "")
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  everywhere, so also here
        host = "127.0.0.1"
    if not os.environ.get("KBUILD_TLS_CERT"):
        return http.client.HTTPConnection(host, read_port(), timeout=4)
    # The certificate is for the name that callers use, not for this address, and nothing secret is asked.
    context = ssl._create_unverified_context()  # noqa: S323
    return http.client.HTTPSConnection(host, read_port(), timeout=4, context=context)


if __name__ == "__main__":
    sys.exit(main())
