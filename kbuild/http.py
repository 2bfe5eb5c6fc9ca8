"""One retry policy for servers that are busy or restart: they are asked again for up to a minute, and then told of.

A burst of 429, 502, 503 or 504 passes, as does a connection that is reset; ``Retry-After`` is honoured (RFC 9110,
10.2.3) where it ends in time. A server that is not there does not come back, and one that answers 500 has a fault: they
get a few seconds. Names that nobody knows, certificates that are not trusted and timeouts are not asked for again.

Only for requests that may be made twice.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any, Self, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.util.retry import Retry

BUSY = frozenset({429, 502, 503, 504})
"""Answers of a server, or of a proxy before it, that has no time now."""

PATIENCE = 60.0
"""Seconds for which a server is asked again."""

LARGEST = 128 << 20
"""Bytes of an answer that is read as a whole, a page or a document; what is larger is streamed, with its own limit."""

LONGEST_WAIT = 300.0
"""Seconds for an answer that is read as a whole, and for each piece of a streamed one, however few bytes it sends."""

_PASSING = 5.0  # seconds in which a server that restarts listens again, or its database does
_FAULT = 500
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST"})
_BACKOFF, _LONGEST = 0.5, 15.0
_MANY = 1000  # time decides, not a number
_Answer = TypeVar("_Answer")


class Patience(Retry):
    """The policy, as urllib3 and requests take it; the first failure of a request starts its time."""

    until: float | None = None
    passing_until: float | None = None

    @classmethod
    def make(cls, methods: Collection[str] = ()) -> Patience:
        """A policy of which no time has passed."""
        return cls(
            total=_MANY,
            redirect=30,
            allowed_methods=_METHODS.union(methods),
            status_forcelist=BUSY | {_FAULT},
            backoff_factor=_BACKOFF,
            backoff_max=_LONGEST,
            backoff_jitter=_BACKOFF,
            raise_on_status=False,
        )

    def new(self, **values: Any) -> Self:
        made = super().new(**values)
        made.until, made.passing_until = self.until, self.passing_until
        return made

    def get_retry_after(self, response: Any) -> float | None:
        try:
            return super().get_retry_after(response)
        except InvalidHeader:
            return None

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: Any = None,
        error: Exception | None = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> Self:
        now = time.monotonic()
        following = super().increment(method, url, response, error, _pool, _stacktrace)
        following.until = now + PATIENCE if self.until is None else self.until
        if response is not None and response.get_redirect_location():
            return following
        end, wait = following.until, following.get_backoff_time() + _BACKOFF
        if error is None:
            wait = following.get_retry_after(response) or wait
        elif not _is_refused(error) and not isinstance(error, ProtocolError):
            raise MaxRetryError(_pool, str(url), error) from error
        if _is_refused(error) if error is not None else getattr(response, "status", None) == _FAULT:
            following.passing_until = now + _PASSING if self.passing_until is None else self.passing_until
            end = min(end, following.passing_until)
        if now + wait > end:
            raise MaxRetryError(_pool, str(url), error) from error
        return following


class BoundedAdapter(HTTPAdapter):
    """Answers that are read as a whole come to an end: so many bytes, unpacked, and so many seconds."""

    def send(self, request: Any, stream: bool = False, *args: Any, **options: Any) -> requests.Response:
        answer = super().send(request, stream, *args, **options)
        if not stream or answer.is_redirect:  # of a redirect requests reads the body, whoever asked
            answer.iter_content = _bounded(answer)  # type: ignore[method-assign]
        return answer


def _bounded(answer: requests.Response) -> Callable[..., Iterator[Any]]:
    pieces = answer.iter_content

    def iter_content(*args: Any, **options: Any) -> Iterator[Any]:
        size = 0
        for piece in _in_time(answer, pieces(*args, **options), whole=True):
            size += len(piece)
            if size > LARGEST:
                answer.close()
                raise requests.RequestException(f"the answer has more than {LARGEST >> 20} MiB")
            yield piece

    return iter_content


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


class _Session(requests.Session):
    """A named authority counts for more than the environment's bundles; to requests it would count for less."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        given = self.verify if verify is None and isinstance(self.verify, str) else verify
        return super().merge_environment_settings(url, proxies, stream, given, cert)


def patient_session(*, methods: Collection[str] = ()) -> requests.Session:
    """A session whose requests, all of which may be made twice, follow the policy; ``methods`` are more of such. A busy
    answer that stays is returned; what stays unreachable raises requests' own errors."""
    # It warns of every further try, in its own words.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return bounded_session(Patience.make(methods))


def bounded_session(retries: Retry | int = 0) -> requests.Session:
    """A session whose answers come to an end, as those of ``patient_session`` do; ``retries`` are urllib3's."""
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(max_retries=retries))
    return session


class ThreadSessions:
    """A session for each thread that asks, made alike: requests promises nothing of one that threads share. They are
    closed together, when the block ends."""

    def __init__(self, make: Callable[[], requests.Session]) -> None:
        self._make = make
        self._threads = threading.local()
        self._made: list[requests.Session] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for session in self._made:
            session.close()

    def mine(self) -> requests.Session:
        """This thread's."""
        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = self._make()
            self._made.append(session)
        return session


def ask_patiently(ask: Callable[[], requests.Response]) -> requests.Response:
    """The answer to a question that is asked by other means than ``patient_session``, by the same policy.

    Raises what ``ask`` does where that is no matter of the connection, or stays.
    """
    patience = Patience.make()
    while True:
        try:
            answer = ask()
        except Exception as error:  # noqa: BLE001  of whatever library; what is no matter of the connection is raised again
            patience = _after(patience, error)
            patience.sleep()
            continue
        if not patience.is_retry("GET", answer.status_code):
            return answer
        try:
            patience = patience.increment("GET", answer.url, response=answer.raw)
        except MaxRetryError:
            return answer
        with closing(answer):
            patience.sleep(answer.raw)


def work_patiently(work: Callable[[], _Answer]) -> _Answer:
    """What ``work`` returns, done again where a connection of ``patient_session`` breaks while it is read from."""
    patience = Patience.make()
    while True:
        try:
            return work()
        except requests.RequestException as error:
            if any(isinstance(each, MaxRetryError) for each in _chain(error)):
                raise  # the session has tried for long enough
            patience = _after(patience, error)
            patience.sleep()


def reason_of(error: BaseException) -> str:
    """The innermost reason of an error of requests, without what its libraries wrap around it."""
    inner = _chain(error)[-1]
    text = getattr(inner, "strerror", None) or str(inner)
    return " ".join(str(text).split()) or type(inner).__name__


def is_of_transport(error: BaseException) -> bool:
    """Whether it came of the connection, and not of an answer."""
    return any(isinstance(each, HTTPError) for each in _chain(error))


def _after(patience: Patience, error: Exception) -> Patience:
    """The policy one failure later; raises the error where it stays."""
    transport = next((each for each in _chain(error) if isinstance(each, HTTPError) and _may_pass(each)), None)
    if transport is None:
        raise error
    try:
        return patience.increment("GET", "", error=transport)
    except HTTPError:
        raise error from error.__cause__


def _may_pass(error: Exception) -> bool:
    return _is_refused(error) or isinstance(error, ProtocolError)


def _is_refused(error: Exception) -> bool:
    return isinstance(error, NewConnectionError) and not isinstance(error, NameResolutionError)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it came of, outermost first; chains may go round."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and not any(following is each for each in found):
        found.append(following)
        inner: Any = getattr(following, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((each for each in following.args if isinstance(each, BaseException)), None)
        following = inner or following.__cause__ or following.__context__
    return found
