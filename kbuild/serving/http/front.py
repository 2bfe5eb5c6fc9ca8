"""What stands before the app where a variable asks for it: a path that a proxy leaves on, and pages of other origins.

CORS: https://fetch.spec.whatwg.org/#http-cors-protocol, as Starlette does it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[[Any, Any, Any], Awaitable[None]]


def make_front(app: App, *, root_path: str, origins: tuple[str, ...]) -> App:
    """The app below ``root_path`` as well as without, and for pages of ``origins``; itself where neither is set."""
    if root_path:
        app = _below(app, root_path)
    if origins:
        from starlette.middleware.cors import CORSMiddleware

        return CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


def _below(app: App, root_path: str) -> App:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path == root_path:
            # Links of the page are relative, to a folder.
            place = (scope.get("raw_path") or root_path.encode("latin-1")) + b"/"
            place += b"?" + scope["query_string"] if scope.get("query_string") else b""
            headers = [(b"location", place), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 307, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        # Probes and proxies that take the path off ask without it.
        if scope["type"] == "http" and path.startswith(f"{root_path}/"):
            rest = path[len(root_path) :]
            scope = {**scope, "path": rest, "raw_path": rest.encode()}
        await app(scope, receive, send)

    return serve
