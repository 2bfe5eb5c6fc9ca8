"""Answers on their way out, with the headers that each of them has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kbuild.serving.answer.reply import Reply
from kbuild.serving.http.body import Receive

Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_COMMON = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


async def pass_on(app: Any, scope: Scope, receive: Receive, send: Send, request_id: bytes) -> int:
    """Let another app answer; returns its status."""
    status = 0

    async def send_with_headers(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            message = {**message, "headers": [*message["headers"], *_COMMON, (b"x-request-id", request_id)]}
        await send(message)

    await app(scope, receive, send_with_headers)
    return status


async def send_reply(reply: Reply, method: str, send: Send, request_id: bytes) -> None:
    """One answer, its body left out where the method is HEAD."""
    headers = [
        (b"content-length", str(len(reply.body)).encode()),
        (b"content-type", reply.content_type.encode()),
        *_COMMON,
        (b"x-request-id", request_id),
        *((name.encode(), value.encode("latin-1")) for name, value in reply.headers),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else reply.body})
