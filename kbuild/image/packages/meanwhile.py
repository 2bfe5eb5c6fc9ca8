"""The interpreter laid out beside other work of a first build: meanwhile the base comes, and wheels are looked into."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kbuild.environment.index.downloads import cached_package
from kbuild.errors import KbuildError
from kbuild.image.packages.environment import Environment

_A_WHILE = 0.2
"""Seconds; what takes less is there already, and so may the image be that the interpreter would be for."""


@contextmanager
def interpreter_meanwhile(
    environment: Environment, downloads: Path, leading: Callable[[list[str]], AbstractContextManager[object]]
) -> Iterator[None]:
    """Lay out the interpreter while the block runs, where that takes a while and its packages are in ``downloads``.

    ``leading`` lets one of several builds do what has a name. Nothing is fetched for it, and what goes wrong is told
    where the interpreter is wanted. The block's end waits for it.
    """
    over = threading.Event()

    def lay() -> None:
        if over.wait(_A_WHILE):
            return
        missing = environment.missing((), ())
        found = {package: path for package in missing if (path := cached_package(package, downloads)) is not None}
        if missing and len(found) == len(missing):
            with leading([f"interpreter {' '.join(sorted(package.sha256 for package in missing))}"]):
                environment.interpreter(found)

    with ThreadPoolExecutor(1) as pool:
        laid = pool.submit(lay)
        try:
            yield
        finally:
            over.set()
    error = laid.exception()
    if error is not None and not isinstance(error, KbuildError):
        raise error
