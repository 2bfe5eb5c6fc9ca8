"""A body that is too large is dropped in bounds, so that a client that sends all first sees the 413."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

import pytest

from kbuild.serving.http import body
from kbuild.serving.http.body import Gone, TooLarge, drop_body, read_body, unpack


class Client:
    """Sends parts as ASGI messages, then nothing any more."""

    def __init__(self, *parts: bytes, ends: bool = True) -> None:
        self.left = [
            {"type": "http.request", "body": part, "more_body": not ends or place + 1 < len(parts)}
            for place, part in enumerate(parts)
        ]

    async def receive(self) -> dict[str, Any]:
        if not self.left:
            await asyncio.sleep(3600)
        return self.left.pop(0)


def drop(client: Client, **headers: str) -> None:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    asyncio.run(asyncio.wait_for(drop_body(named, client.receive), 5))


def test_the_rest_is_read_to_its_end() -> None:
    client = Client(b"12", b"34", b"56")
    with pytest.raises(TooLarge) as caught:
        asyncio.run(read_body(client.receive, 3))
    assert caught.value.more
    drop(client)
    assert client.left == []
    with pytest.raises(TooLarge) as caught:
        asyncio.run(read_body(Client(b"1234").receive, 3))
    assert not caught.value.more


def test_it_is_not_read_beyond_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_DROPPED_BYTES", 3)
    client = Client(*[b"12"] * 9)
    drop(client)
    assert len(client.left) == 7
    for headers in ({"content_length": "4"}, {"expect": "100-continue"}):
        client = Client(b"12")
        drop(client, **headers)
        assert len(client.left) == 1
    # A client that sends no more is not waited for.
    monkeypatch.setattr(body, "_DROPPED_SECONDS", 0.01)
    drop(Client(b"1", ends=False))


def test_a_client_that_left_is_gone() -> None:
    client = Client()
    client.left = [{"type": "http.disconnect"}]
    with pytest.raises(Gone):
        asyncio.run(read_body(client.receive, 3))


def test_gzip_of_many_members_takes_no_longer_than_its_bytes() -> None:
    row = b'{"inputs": [1]}'
    few = b"".join(gzip.compress(row[place : place + 1]) for place in range(len(row)))
    assert unpack(few, len(row)) == row == gzip.decompress(few)
    large = gzip.compress(bytes(100_000), 0) * 3  # longer than what is unpacked at a time
    assert unpack(large, 300_000) == gzip.decompress(large)
    begun = time.monotonic()
    with pytest.raises(TooLarge):
        unpack(gzip.compress(b" ") * 400_000 + gzip.compress(row), 1 << 26)
    assert time.monotonic() - begun < 5  # it took half a minute for the tails alone that were copied
