"""Index pages asked for ahead of conda-lock, and narrowed, by a process of their own.

conda-lock's process takes long to start, and whatever it does while pages come waits for Python's one lock. So before
it imports anything it splits off another process, which asks for the pages of what training pinned and hands over what
is left of each. That one knows nothing of conda-lock. What it could not get, conda-lock asks for itself, and tells its
errors.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import requests

    from kbuild.http import ThreadSessions

PLACES = "places.json"
"""Where packages are looked for (source.py), and for what target."""
UNREAD = "unread-sdists.jsonl"
"""What conda-lock writes: source distributions that do not say what they depend on, a line each of name, version, url
and sha256."""
PACKAGES = "packages.json"
"""``{name: version or null}``: the packages that conda-lock is going to ask for, as far as that is known."""

_TIMEOUT = 15.0
_MISSING = 404


class CutOff(Exception):
    """A page came to no end, in bytes or in time. Not an OSError: poetry would ask for it five times more."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an index answered; ``html`` is None where it has no such package.

    ``release`` is the only one that the text tells of, None where it tells of all.
    """

    url: str
    html: str | None
    release: str | None


class Ahead:
    """The pages that the other process brings, by index and package."""

    def __init__(self, process: int, pages: IO[str], wanted: Sequence[tuple[str, str]]) -> None:
        self._process: int | None = process
        self._answers: dict[tuple[str, str], Future[Told | None]] = {key: Future() for key in wanted}
        threading.Thread(target=self._read, args=[pages], daemon=True).start()

    def page(self, index: str, name: str) -> Told | None:
        """Waits for the page; None where it was not asked for or did not come, for whatever reason. Raises CutOff."""
        answer = self._answers.get((index, name))
        return None if answer is None else answer.result()

    def stop(self) -> None:
        """End the other process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            self._process = None

    def _read(self, pages: IO[str]) -> None:
        try:
            with pages:
                for line in pages:
                    index, name, *told = json.loads(line)
                    answer = self._answers[index, name]
                    if len(told) == 1:
                        answer.set_exception(CutOff(*told))
                    else:
                        answer.set_result(Told(*told) if told else None)
        except ValueError:
            pass  # it was ended in the middle of a line
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(None)


def start(folder: Path) -> Ahead:
    """Split off the process that asks for what ``folder``'s files name; no other thread may run yet."""
    places = json.loads((folder / PLACES).read_text("utf-8"))
    packages = json.loads((folder / PACKAGES).read_text("utf-8"))
    # Folders are read in no time, by whoever wants them.
    indexes = [url for url in places["indexes"] if not url.startswith("file:")]
    wanted = [(index, name) for name in packages for index in indexes]
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reading)
            _ask_alone(wanted, packages, writing)
        finally:
            os._exit(0)  # whatever happened: the rest of this program is not for this process
    os.close(writing)
    return Ahead(process, os.fdopen(reading, encoding="utf-8"), wanted)


def _ask_alone(wanted: Sequence[tuple[str, str]], packages: Mapping[str, str | None], writing: int) -> None:
    # Nobody must wait for the streams of this process, nor hear of what conda-lock will ask again.
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    from kbuild.bounded.in_time import NoEnd
    from kbuild.environment.index.session import THREADS

    sessions = {index: _sessions(index) for index in dict.fromkeys(index for index, _ in wanted)}
    lock = threading.Lock()

    def ask(key: tuple[str, str]) -> None:
        index, name = key
        bare, own = sessions[index]
        told: Sequence[Any] = ()
        url = f"{bare}/{name}/"
        with contextlib.suppress(Exception):  # conda-lock asks again, and tells what is wrong
            try:
                told = _ask(own.mine(), url, packages[name])
            except NoEnd as error:
                told = [f"{error} ({url})"]
        line = json.dumps([index, name, *told]) + "\n"
        with lock:
            whole = line.encode()
            while whole:
                whole = whole[os.write(writing, whole) :]

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(ask, key) for key in wanted]:
            done.result()


def _sessions(index: str) -> tuple[str, ThreadSessions]:
    """The index's url as poetry uses it, and sessions with its credentials."""
    from kbuild.environment.index.pip_network import configure
    from kbuild.environment.index.session import HostCredentials
    from kbuild.http import ThreadSessions, bounded_session
    from kbuild.urls.credentials import split_credentials

    bare, credentials = split_credentials(index, os.environ)

    def make() -> requests.Session:
        session = bounded_session()
        if credentials is not None:
            session.auth = HostCredentials(bare, credentials)
        configure(session, os.environ)
        return session

    return bare.rstrip("/"), ThreadSessions(make)


def _ask(session: Any, url: str, version: str | None) -> Sequence[Any]:
    """What ``Told`` is made of, nothing where this is for conda-lock to find out."""
    from kbuild.environment.condalock.narrowing import only_release
    from kbuild.environment.index.json_page import page_of

    response = session.get(url, timeout=_TIMEOUT)
    if response.status_code == _MISSING:
        return [response.url, None, None]
    if not response.ok:
        return ()
    page = page_of(response)
    rest = None if version is None else only_release(page.html, version)
    return [page.url, page.html, None] if rest is None else [page.url, rest, version]
