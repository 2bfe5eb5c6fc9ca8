"""Which locked releases their authors have withdrawn since (PEP 592): what is yanked is still given, so nobody notices.

One request a package and index, eight at a time. The answer for the same packages is kept for a day.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from kbuild.cache.notes import read_vouched, write_vouched
from kbuild.digest import digest_json
from kbuild.environment.index.package_indexes import Indexes, find_files
from kbuild.environment.lockfile import LockedPackage
from kbuild.errors import IndexUnavailable, KbuildError
from kbuild.process.asking import asking_pool

if TYPE_CHECKING:
    import requests

_AT_ONCE = 8
_DAY = 86400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Withdrawn:
    """A line for each release that was yanked; ``unasked`` says why that is not known of others, None where it is."""

    releases: tuple[str, ...] = ()
    unasked: str | None = None


def find_withdrawn(
    packages: Sequence[LockedPackage],
    indexes: Indexes,
    *,
    environ: Mapping[str, str],
    cache: Path,
    stop: threading.Event,
) -> Withdrawn:
    """What the indexes say today of these packages; those built or captured here are on none.

    Once ``stop`` is set no more is asked.
    """
    wanted = sorted(p for p in packages if p.manager == "pip" and not p.is_captured)
    key = digest_json([[*indexes.urls, *indexes.find_links], [[p.name, p.version, p.sha256] for p in wanted]])
    kept = cache / "yanked" / f"{key.hex}.json"
    known = _read(kept)
    if known is not None:
        return Withdrawn(releases=known)
    if not wanted:
        return Withdrawn()
    from kbuild.http import ThreadSessions

    try:
        with ThreadSessions(lambda: _session({**environ, **indexes.environment})) as sessions:

            def ask(package: LockedPackage) -> str | None:
                if stop.is_set():
                    raise IndexUnavailable("the package index takes longer to answer than the image to build")
                return _ask(package, indexes, environ, sessions.mine())

            # An index that is down for one is down for all: each would cost its time-out.
            first = ask(wanted[0])
            with asking_pool(_AT_ONCE) as pool:
                said = [first, *pool.map(ask, wanted[1:])]
    except KbuildError as error:
        return Withdrawn(unasked=error.message)
    releases = tuple(each for each in said if each is not None)
    write_vouched(kept, json.dumps(releases).encode())
    return Withdrawn(releases=releases)


def _session(environ: Mapping[str, str]) -> requests.Session:
    """One that tries nothing again: what it asks for is no more than a warning."""
    from kbuild.bounded.answers import BoundedAdapter
    from kbuild.environment.index.download import make_session

    session = make_session(environ)
    for scheme in ("https://", "http://"):
        session.mount(scheme, BoundedAdapter())
    return session


def _ask(package: LockedPackage, indexes: Indexes, environ: Mapping[str, str], session: requests.Session) -> str | None:
    environ, near = {**environ, **indexes.environment}, {package.sha256, package.filename, unquote(package.filename)}
    for file in find_files(package.name, indexes, environ=environ, session=session, near=near):
        same = file.sha256 == package.sha256 if file.sha256 else file.filename == unquote(package.filename)
        if same and file.yanked is not None:
            reason = " ".join(file.yanked.split()) or "they give no reason"
            return f"{package.name} {package.version} was yanked by its authors: {reason}"
    return None


def _read(kept: Path) -> tuple[str, ...] | None:
    try:
        if time.time() - kept.stat().st_mtime > _DAY:
            return None
        return tuple(map(str, json.loads(read_vouched(kept))))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # never asked, or a damaged note: asked again
