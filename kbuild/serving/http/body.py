"""The body of a request, read to a limit; what is above it is dropped in bounds, so that the answer arrives."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
# A client that sends all before it reads meets a reset where the connection is closed with its body unread.
_DROPPED_BYTES = 256 * 2**20
_DROPPED_SECONDS = 10.0
# Of a gzip body: bytes that are unpacked at a time, and members; bgzip writes one for 64 KiB.
_PIECE = 1 << 14
_MEMBERS = 1 << 14


class TooLarge(Exception):
    """The body is above the limit; ``more`` of it is to come."""

    def __init__(self, *, more: bool) -> None:
        super().__init__()
        self.more = more


class Gone(Exception):
    """The client closed the connection."""


async def read_body(receive: Receive, limit: int) -> bytes:
    """The request's body; raises TooLarge as soon as there is more than ``limit`` bytes of it, and Gone."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge(more=bool(message.get("more_body", False)))
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


class NotPacked(Exception):
    """What is said to be gzip and is not."""


def unpack(body: bytes, limit: int) -> bytes:
    """What a gzip body holds (RFC 1952, members one after the other); raises NotPacked, and TooLarge above ``limit``
    bytes before more of it is made, or for more members than anybody writes."""
    parts: list[bytes] = []
    size = at = members = 0
    packed: Any = None
    # In pieces: what a member leaves of what it is given is copied.
    while at < len(body):
        if packed is None:
            packed, members = zlib.decompressobj(wbits=31), members + 1
        piece = body[at : at + _PIECE]
        try:
            part = packed.decompress(piece, limit - size + 1)
        except zlib.error as error:
            raise NotPacked from error
        size += len(part)
        if size > limit or members > _MEMBERS:
            raise TooLarge(more=False)
        parts.append(part)
        at += len(piece) - len(packed.unused_data)
        packed = None if packed.eof else packed
    if packed is not None or not members:
        raise NotPacked
    return b"".join(parts)


async def drop_body(headers: Mapping[bytes, bytes], receive: Receive) -> None:
    """Read on and keep nothing, until the body's end or the bounds; not at all where the end is beyond them.

    Nor where the client waits to be told to send its body (RFC 9110, 10.1.1).
    """
    if headers.get(b"expect", b"").lower() == b"100-continue" or declared_length(headers) > _DROPPED_BYTES:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DROPPED_SECONDS):
            await _drop(receive)


async def _drop(receive: Receive) -> None:
    size = 0
    while size <= _DROPPED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
        size += len(message.get("body", b""))


def declared_length(headers: Mapping[bytes, bytes]) -> int:
    """``Content-Length`` in bytes, 0 without one."""
    # h11 has refused a Content-Length that is no number; isdigit() is for servers that do not.
    text = headers.get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0
