"""The little server of ``kbuild watch``: webhooks come in, and whoever asks is told how it is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kbuild.errors import ConfigurationError, SignatureRefused
from kbuild.workflow.fleet.webhooks import Doorkeeper, NotUnderstood, Replayed

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

_LARGEST = 1 << 20
_PATIENCE = 10.0  # seconds for a body to come
PATHS = ("/", "/webhook")


def make_app(
    doorkeeper: Doorkeeper,
    *,
    hint: Callable[[str | None], None],
    state: Callable[[], Mapping[str, object]],
    refuse: Callable[[str], None],
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """POST / or /webhook takes a webhook (202, or 4xx and why); GET /healthz tells the state, with 503
    where its ``status`` is not ``ok``. ``refuse`` is told of what was refused."""
    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def refused(request: Request, status: int, reason: str) -> Response:
        # Nothing of the sender's own words: this is logged.
        refuse(f"refused a webhook from {request.client.host if request.client else 'somebody'}: {reason}")
        return JSONResponse({"error": reason}, status)

    async def take(request: Request) -> Response:
        body = b""
        try:
            async with asyncio.timeout(_PATIENCE):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _LARGEST:
                        return refused(request, 413, "its body is larger than 1 MiB")
        except (TimeoutError, ClientDisconnect):
            return refused(request, 408, "its body did not come")
        try:
            hinted = doorkeeper.admit(request.headers, body, now=clock())
        except SignatureRefused as error:
            return refused(request, 401, error.message)
        except Replayed as error:
            return refused(request, 409, str(error))
        except NotUnderstood as error:
            return refused(request, 400, str(error))
        hint(hinted)
        return JSONResponse({"status": "taken"}, 202)

    async def tell(request: Request) -> Response:
        told = {"status": "ok", **state()}
        return JSONResponse(told, 200 if told["status"] == "ok" else 503)

    return Starlette(
        routes=[*(Route(path, take, methods=["POST"]) for path in PATHS), Route("/healthz", tell, methods=["GET"])]
    )


def parse_address(text: str) -> tuple[str, int]:
    """Read ``HOST:PORT``, ``:PORT`` for all addresses, ``[::1]:PORT``; raises ConfigurationError."""
    host, colon, port = text.strip().rpartition(":")
    whole = host.startswith("[") == host.endswith("]") and (":" not in host or host.startswith("["))
    if not colon or not whole or not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise ConfigurationError(f"{text!r} is not HOST:PORT", hint="such as --listen 0.0.0.0:8090")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  asked for by leaving the host out


@contextmanager
def listening(app: Starlette, address: tuple[str, int]) -> Iterator[str]:
    """Serve in a thread while the block runs; yields ``HOST:PORT`` that it listens on.

    Raises ConfigurationError where that cannot be.
    """
    import uvicorn

    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(f"cannot listen on {host}:{port}: {reason}", hint="--listen names another") from error
    config = uvicorn.Config(
        app, log_config=None, log_level="warning", access_log=False, lifespan="off", ws="none", limit_concurrency=64
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="webhooks", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"{shown}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)
        with contextlib.suppress(OSError):
            listener.close()
