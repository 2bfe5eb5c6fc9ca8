"""``python -m kbuild.serving.healthcheck``: exit code 0 when the server in this container answers ``/health``."""

from __future__ import annotations

import http.client
import sys

from kbuild.serving.settings import read_port


def main() -> int:
    """0 for healthy, 1 for not (Docker reserves 2)."""
    connection = http.client.HTTPConnection("127.0.0.1", read_port(), timeout=4)
    try:
        connection.request("GET", "/health")
        return 0 if connection.getresponse().status == 200 else 1
    except (OSError, http.client.HTTPException):
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
