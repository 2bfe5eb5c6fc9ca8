"""HTTP as uvicorn speaks it, but for clients that take a connection and do not ask.

uvicorn closes a connection that idles after an answer. One that never sends its first request, or sends a head byte by
byte, it keeps for ever, until the process has no file descriptor left.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def make_protocol(seconds: float) -> type[asyncio.Protocol]:
    """A protocol that closes a connection whose request's head has not come ``seconds`` after it began to wait."""

    class PunctualProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head = self.loop.call_later(seconds, transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._head is None:
                self._head = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return PunctualProtocol
