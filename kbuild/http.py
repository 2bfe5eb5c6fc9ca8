"""One retry policy for servers that are busy or restart: they are asked again for up to a minute, and then told of.

A burst of 429, 502, 503 or 504 passes, as does a connection that is reset; ``Retry-After`` is honoured (RFC 9110,
10.2.3) where it ends in time. A server that is not there does not come back, and one that answers 500 has a fault: they
get a few seconds. Names that nobody knows, certificates that are not trusted and timeouts are not asked for again.

Only for requests that may be made twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any, Self, TypeVar

import requests
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)
from urllib3.util.retry import Retry

from kbuild.bounded.answers import BoundedAdapter, full_of

BUSY = frozenset({429, 502, 503, 504})
"""Answers of a server, or of a proxy before it, that has no time now."""

PATIENCE = 60.0
"""Seconds for which a server is asked again."""

_PASSING = 5.0  # seconds in which a server that restarts listens again, or its database does
_FAULT = 500
_METHODS = frozenset({"GET", "HEAD", "PUT", "POST"})
_BACKOFF, _LONGEST = 0.5, 15.0
_MANY = 1000  # time decides, not a number
_Answer = TypeVar("_Answer")


class _Heeding(Retry):
    RETRY_AFTER_STATUS_CODES = BUSY  # not 413, as a store may say whose quota is used up

    def get_retry_after(self, response: Any) -> float | None:
        try:
            return super().get_retry_after(response)
        except InvalidHeader:
            return None


class Tries(_Heeding):
    """So many further tries. ``Retry-After`` counts up to ``PATIENCE``: urllib3 would sleep for hours."""

    def get_retry_after(self, response: Any) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None or seconds > PATIENCE else seconds


class Patience(_Heeding):
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


class _Session(requests.Session):
    """A named authority counts for more than the environment's bundles; to requests it would count for less."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        given = self.verify if verify is None and isinstance(self.verify, str) else verify
        return super().merge_environment_settings(url, proxies, stream, given, cert)


def patient_session(*, methods: Collection[str] = (), largest: int | None = None) -> requests.Session:
    """A session whose requests, all of which may be made twice, follow the policy; ``methods`` are more of such. A busy
    answer that stays is returned; what stays unreachable raises requests' own errors. ``largest`` are the bytes of an
    answer that is read as a whole, ``LARGEST`` where none are given."""
    # It warns of every further try, in its own words.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return bounded_session(Patience.make(methods), largest=largest)


def bounded_session(retries: Retry | int = 0, *, largest: int | None = None) -> requests.Session:
    """A session whose answers come to an end, as those of ``patient_session`` do; ``retries`` are urllib3's."""
    session = _Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(max_retries=retries, largest=largest))
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
        if not patience.is_retry("GET", answer.status_code) or full_of(answer.content) is not None:
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
    return " ".join(str(getattr(inner, "strerror", None) or inner).split()) or type(inner).__name__


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
