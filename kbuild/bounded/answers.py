"""Answers that have so many bytes at the most, unpacked, also of several threads together, and come in time."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import urljoin

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import MaxRetryError, ResponseError
from urllib3.util.retry import Retry

from kbuild.bounded.held import HeldBytes
from kbuild.bounded.in_time import NoEnd, Pace, in_time, longest_wait

LARGEST = 32 << 20
"""Bytes of an answer that is read as a whole, a page or a document; what is larger is streamed, with its own limit. The
longest page of an index, of ten thousand releases, has a third of it."""

# Of an answer's bytes so many are held beside others; all that have more hold no more than this together.
_SMALL, _TOGETHER = 1 << 20, 16 << 20
_PIECE, _OFTEN = 1 << 18, 3
# What databases and systems say where nothing can be written, in MLflow's words (``message`` of its JSON).
_FULL = re.compile(r"no space left|dis[ck] (?:is )?full|quota exceeded|insufficient storage", re.IGNORECASE)
_LONGEST_REASON = 64 << 10  # bytes
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_HELD = HeldBytes(_TOGETHER)


class Endless:
    """Servers whose answers came to no end, ``_OFTEN`` in a row: they are asked no more for ``longest_wait``."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, float, str]] = {}

    def check(self, server: str) -> None:
        """Raises NoEnd for one of them, as when it was asked."""
        often, since, why = self._found.get(server, (0, 0.0, ""))
        if often >= _OFTEN and time.monotonic() - since < longest_wait():
            raise NoEnd(why)

    @contextlib.contextmanager
    def noting(self, server: str) -> Iterator[None]:
        """Note what becomes of an answer."""
        try:
            yield
        except NoEnd as error:
            self._found[server] = (self._found.get(server, (0,))[0] + 1, time.monotonic(), str(error))
            raise
        self._found.pop(server, None)


_ENDLESS = Endless()


class BoundedAdapter(HTTPAdapter):
    """Answers that are read as a whole come to an end."""

    def __init__(self, *args: Any, largest: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        bound(self, largest)


def bound(adapter: BaseAdapter, largest: int | None = None) -> None:
    """Have an adapter's answers that are read as a whole end, after ``largest`` bytes (``LARGEST``) or those of the
    range that was asked for, and those that are asked for again be left unread.

    What is too large, or late, raises NoEnd where it is read.
    """
    send = adapter.send

    def bounded(request: Any, stream: bool = False, *args: Any, **options: Any) -> requests.Response:
        server = urljoin(str(request.url), "/")
        _ENDLESS.check(server)
        answer = send(request, stream, *args, **options)
        if not stream or answer.is_redirect:  # of a redirect requests reads the body, whoever asked
            ranged = _RANGE.fullmatch(str(request.headers.get("Range", "")))
            asked = 0 if ranged is None else int(ranged[2]) + 1 - int(ranged[1])
            _bound_answer(answer, max(LARGEST if largest is None else largest, asked), server)
        return answer

    adapter.send = bounded  # type: ignore[method-assign]
    if isinstance(adapter, HTTPAdapter):
        adapter.max_retries = _unread(adapter.max_retries)


def bound_session(session: requests.Session) -> requests.Session:
    """The session, each of whose adapters is ``bound``."""
    for adapter in {*session.adapters.values()}:
        bound(adapter)
    return session


def _unread(retry: Retry) -> Retry:
    """The policy, which closes an answer after which it asks again: urllib3 would read it to its end."""
    made = copy.copy(retry)
    made.__class__ = _closing(type(retry))  # type: ignore[arg-type]
    return made


@cache
def _closing(kind: type[Retry]) -> type[Retry]:
    class Closing(kind):  # type: ignore[misc, valid-type]
        def increment(
            self, method: Any = None, url: Any = None, response: Any = None, *args: Any, **options: Any
        ) -> Retry:
            full = says_full(response) if response is not None and self.raise_on_status else None
            if full is not None:
                response.close()
                pool: Any = args[1] if len(args) > 1 else options.get("_pool")
                raise MaxRetryError(pool, url, ResponseError(full))
            try:
                following: Retry = super().increment(method, url, response, *args, **options)
            except MaxRetryError:
                if response is not None and self.raise_on_status:
                    response.close()
                raise
            if response is not None:
                response.close()
            return following

    return Closing


def says_full(answer: Any) -> str | None:
    """What a server's answer, of urllib3 and of an error, says where nothing can be written any more; else None. It is
    read only where that is no more than a few words."""
    stated = answer.headers.get("Content-Length", "")
    if not stated.isascii() or not stated.isdigit() or int(stated) > _LONGEST_REASON:
        return None
    with contextlib.suppress(Exception):  # it is an error already, and who asks again hears it again
        return full_of(answer.read(decode_content=True))
    return None


def full_of(body: bytes) -> str | None:
    """The same of the bytes of an answer."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    found = isinstance(message, str) and _FULL.search(message) is not None
    return f"nothing can be written there: {' '.join(message.split())[:200]}" if found else None


def _bound_answer(answer: requests.Response, largest: int, server: str) -> None:
    pieces = answer.iter_content

    def iter_content(*args: Any, **options: Any) -> Iterator[Any]:
        size = 0
        with contextlib.ExitStack() as turn, _ENDLESS.noting(server):
            for piece in _whole(answer, pieces(*args, **options), largest):
                size += len(piece)
                if size > _SMALL:
                    if size - len(piece) <= _SMALL:
                        turn.callback(_HELD.leave, answer)
                    _HELD.take(answer, len(piece))
                yield piece

    answer.iter_content = iter_content  # type: ignore[method-assign]


def whole(answer: requests.Response, largest: int) -> Iterator[bytes]:
    """The pieces of a streamed answer, which comes to an end as one does that is read as a whole; raises NoEnd."""
    return _whole(answer, answer.iter_content(_PIECE), largest)


def _whole(answer: requests.Response, pieces: Iterator[Any], largest: int) -> Iterator[Any]:
    size = 0
    for piece in in_time(answer, pieces, Pace(2 if largest <= LARGEST else 5)):
        size += len(piece)
        if size > largest:
            answer.close()
            raise NoEnd(f"the answer has more than {largest >> 20} MiB")
        yield piece
