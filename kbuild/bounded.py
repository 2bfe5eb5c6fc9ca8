"""Answers of servers that come to an end, whatever a server sends: so many bytes, unpacked, and so many seconds."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.exceptions import MaxRetryError, ResponseError
from urllib3.util.retry import Retry

LARGEST = 32 << 20
"""Bytes of an answer that is read as a whole, a page or a document; what is larger is streamed, with its own limit. The
longest page of an index, of ten thousand releases, has a third of it."""

LONGEST_WAIT = 300.0
"""Seconds for an answer that is read as a whole, and for each piece of a streamed one, however few bytes it sends."""

# Of an answer's bytes so many are held beside others; all that have more hold no more than this together.
_SMALL, _TOGETHER = 4 << 20, 64 << 20
# What databases and systems say where nothing can be written, in MLflow's words (``message`` of its JSON).
_FULL = re.compile(r"no space left|dis[ck] (?:is )?full|quota exceeded|insufficient storage", re.IGNORECASE)
_LONGEST_REASON = 64 << 10  # bytes
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class HeldBytes:
    """Bytes that several threads hold together, each of which takes more and more of them.

    Who began first is given what it asks for at any time: so one of them comes to its end, whatever the others hold.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: dict[object, int] = {}  # in the order in which they began
        self._changed = threading.Condition()

    def take(self, whose: object, amount: int) -> None:
        """Wait until there is room for so many bytes more."""
        with self._changed:
            self._held.setdefault(whose, 0)
            self._changed.wait_for(
                lambda: next(iter(self._held)) is whose or sum(self._held.values()) + amount <= self._size
            )
            self._held[whose] += amount

    def leave(self, whose: object) -> None:
        """Give back all that it took."""
        with self._changed:
            self._held.pop(whose, None)
            self._changed.notify_all()


_HELD = HeldBytes(_TOGETHER)


class BoundedAdapter(HTTPAdapter):
    """Answers that are read as a whole come to an end."""

    def __init__(self, *args: Any, largest: int | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        bound(self, largest)


def bound(adapter: BaseAdapter, largest: int | None = None) -> None:
    """Have an adapter's answers that are read as a whole end, after ``largest`` bytes (``LARGEST``) or those of the
    range that was asked for, and those that are asked for again be left unread.

    What is too large, or late, raises RequestException where it is read.
    """
    send = adapter.send

    def bounded(request: Any, stream: bool = False, *args: Any, **options: Any) -> requests.Response:
        answer = send(request, stream, *args, **options)
        if not stream or answer.is_redirect:  # of a redirect requests reads the body, whoever asked
            ranged = _RANGE.fullmatch(str(request.headers.get("Range", "")))
            asked = 0 if ranged is None else int(ranged[2]) + 1 - int(ranged[1])
            _bound_answer(answer, max(LARGEST if largest is None else largest, asked))
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


def _bound_answer(answer: requests.Response, largest: int) -> None:
    pieces = answer.iter_content

    def iter_content(*args: Any, **options: Any) -> Iterator[Any]:
        size = 0
        with contextlib.ExitStack() as turn:
            for piece in _in_time(answer, pieces(*args, **options), whole=True):
                size += len(piece)
                if size > largest:
                    answer.close()
                    raise requests.RequestException(f"the answer has more than {largest >> 20} MiB")
                if size > _SMALL:
                    if size - len(piece) <= _SMALL:
                        turn.callback(_HELD.leave, answer)
                    _HELD.take(answer, len(piece))
                yield piece

    answer.iter_content = iter_content  # type: ignore[method-assign]


def steady(answer: requests.Response, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a streamed answer, each of which comes within ``LONGEST_WAIT``.

    The time limit of a socket begins anew with each byte: who sends one a second would hold a read for days. Raises
    RequestException.
    """
    return _in_time(answer, pieces, whole=False)


def _in_time(answer: requests.Response, pieces: Iterator[Any], *, whole: bool) -> Iterator[Any]:
    over, late, last = threading.Event(), threading.Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(max(0.0, last + LONGEST_WAIT - time.monotonic())):
            if time.monotonic() >= last + LONGEST_WAIT:
                late.set()
                with contextlib.suppress(Exception):  # it may have come to its end meanwhile
                    answer.raw.shutdown()
                return

    threading.Thread(target=watch, daemon=True, name="time of an answer").start()
    try:
        for piece in pieces:
            yield piece
            if not whole:
                last = time.monotonic()
            if late.is_set():
                break
    except Exception:  # of whatever kind a connection that is cut under its reader ends in
        if not late.is_set():
            raise
    finally:
        over.set()
    # Outside of the block: an error that came of the connection would be asked for again.
    if late.is_set():
        answer.close()
        raise requests.RequestException(f"the answer did not come within {LONGEST_WAIT:g} s")
