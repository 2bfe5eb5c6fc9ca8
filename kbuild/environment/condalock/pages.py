"""Pages of package indexes for conda-lock: fetched together, and read as far as the lock needs them.

Imported in conda-lock's process alone. Its vendored poetry asks for one page after the other and makes an object of
every link of every release, of which a pinned environment needs one release a page. Here the links of other releases
are taken out of a page's text before poetry reads it, so that poetry itself decides all that it decided before.

Formats: PyPA's "Simple repository API" (PEP 503), as Python's ``html.parser`` reads it.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from conda_lock._vendor.poetry.core.constraints.version import Version
from conda_lock._vendor.poetry.core.version.exceptions import InvalidVersionError
from conda_lock._vendor.poetry.utils.patterns import sdist_file_re, wheel_file_re

_SPACE = r"[ \t\r\n\f]"
_OTHER = rf'(?:{_SPACE}+(?!href)[a-z-]+(?:="[^"<]*")?)*'
_BREAK = rf"(?:{_SPACE}*<br{_SPACE}*/?>)?"
# A link that is written plainly, alone or with a line break: nothing around it changes when it is taken out. Its url
# has only characters that poetry leaves as they are, and no query, so that the file's name is what follows the last
# slash.
_HREF = r'href="(?P<href>[!#-%\'-;=@A-Z^-~]*)"'
_LINK = rf"<a{_OTHER}{_SPACE}+{_HREF}{_OTHER}{_SPACE}*>[^<>]*</a>{_BREAK}"
_PLAIN = (
    r"<!--(?:(?!--)[^<>])*-->",
    r"<![a-z][^<>]*>",
    rf"""</?[a-z][a-z0-9]*(?:{_SPACE}+[a-z-]+(?:=(?:"[^"<]*"|'[^'<]*'|[^\s"'<>=`]+))?)*{_SPACE}*/?>""",
)
_TOKEN = re.compile(f"{_LINK}|{'|'.join(_PLAIN)}|(?P<odd><)", re.IGNORECASE)


def only_release(content: str, version: Any) -> str | None:
    """A page's text without links to files of other releases than ``version``, None where the text is not plain.

    What might be of the release stays. ``version`` is poetry's.
    """
    wanted: dict[str, bool] = {}
    odd = False

    def kept(token: re.Match[str]) -> str:
        nonlocal odd
        href = token["href"]
        if href is None:
            odd = odd or token["odd"] is not None
            return token[0]
        name = unquote(href.partition("#")[0].rpartition("/")[2])
        file = wheel_file_re.match(name) or sdist_file_re.match(name)
        if file is None:
            return token[0]
        spelled = file["ver"]
        if spelled not in wanted:
            wanted[spelled] = _may_be(spelled, version)
        # Not nothing: what stood apart must not become a tag together.
        return token[0] if wanted[spelled] else " "

    rest = _TOKEN.sub(kept, content)
    return None if odd else rest


def _may_be(spelled: str, version: Any) -> bool:
    try:
        return bool(Version.parse(spelled) == version)
    except InvalidVersionError:
        return True


class Together:
    """Asks once for each page and each release's metadata, whoever wants it first: conda-lock, or threads ahead of it.

    ``packages`` are those that will be wanted, with the version where it is known.
    """

    def __init__(self, packages: Mapping[str, str | None]) -> None:
        self._waiting = deque(packages.items())
        self._lock = threading.Lock()
        self._answers: dict[Hashable, Future[Any]] = {}

    def start(self, repository: Any, threads: int) -> None:
        """Begin to ask ``repository``, in threads that end with the process."""
        for _ in range(min(threads, len(self._waiting))):
            threading.Thread(target=self._work, args=[repository], daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more."""
        self._waiting.clear()

    def once(self, key: Hashable, ask: Callable[[], Any]) -> Any:
        """What ``ask`` returned or raised when it was asked for ``key``: waits where another thread is asking."""
        with self._lock:
            answer = self._answers.get(key)
            mine = answer is None
            answer = self._answers.setdefault(key, Future())
        if mine:
            try:
                answer.set_result(ask())
            except Exception as error:  # noqa: BLE001  # raised below, and to whoever asks again
                answer.set_exception(error)
        return answer.result()

    def _work(self, repository: Any) -> None:
        # An error is kept with its answer, for the one who needs it: conda-lock may not.
        with suppress(IndexError):
            while True:
                name, spelled = self._waiting.popleft()
                with suppress(Exception):
                    self._fetch(repository, name, None if spelled is None else Version.parse(spelled))

    @staticmethod
    def _fetch(repository: Any, name: str, version: Any) -> None:
        page = repository.get_page(name)
        if version is not None:
            links = list(page.links_for_version(name, version))
            # A release of no wheel would be built to be read, and a file without a hash be fetched.
            if any(link.is_wheel for link in links) and all("sha256" in link.hashes for link in links):
                repository.get_release_info(name, version)
