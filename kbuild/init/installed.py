"""Where this kbuild was installed from, as what pip takes to install the same one somewhere else.

Format: ``direct_url.json`` of the installed distribution (PyPA, "Recording the Direct URL Origin"); requirements as
PyPA's "Dependency specifiers". A distribution without that file came from an index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from kbuild._version import __version__
from kbuild.errors import KbuildError
from kbuild.process import Runner
from kbuild.project.config import read_pyproject

_NAME = "kbuild[build]"


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallSource:
    """``requirement`` is what pip is to install; ``local`` the path it names, where no other machine has it.

    ``instead`` is what to write for other machines, where ``local`` is one.
    """

    requirement: str
    local: Path | None = None
    instead: str = ""


def find_project_install(root: Path) -> tuple[str, ...]:
    """The arguments of pip that install a Kedro project as its templates lay it out; raises ConfigurationError."""
    listed = ("-r", "requirements.txt") if (root / "requirements.txt").is_file() else ()
    built = read_pyproject(root, table="project") or (root / "setup.py").is_file()
    return (*listed, *(("-e", ".") if built else ()))


def find_install_source(root: Path, *, run: Runner, direct_url: Mapping[str, Any] | None) -> InstallSource:
    """Of the kbuild that runs here, for jobs of the project in ``root``. ``direct_url`` is what the file holds."""
    if direct_url is None:
        return InstallSource(requirement=f"{_NAME}=={__version__}")
    url = _without_credentials(str(direct_url.get("url", "")))
    subdirectory = str(direct_url.get("subdirectory") or "")
    parts = [f"subdirectory={subdirectory}"] if subdirectory else []
    vcs = direct_url.get("vcs_info")
    if isinstance(vcs, Mapping):
        # The commit and not the branch or tag, which mean another one tomorrow.
        return InstallSource(requirement=_direct(f"{vcs.get('vcs')}+{url}@{vcs.get('commit_id')}", parts))
    if urlsplit(url).scheme != "file":
        return InstallSource(requirement=_direct(url, [*_hash(direct_url.get("archive_info")), *parts]))
    path = Path(unquote(urlsplit(url).path), subdirectory)
    if path.resolve().is_relative_to(root.resolve()):
        # It travels with the project; a relative path is no url, so pip's own form is taken.
        return InstallSource(requirement=f"./{path.resolve().relative_to(root.resolve()).as_posix()}[build]")
    return InstallSource(requirement=_direct(f"file://{quote(str(path))}", []), local=path, instead=_remote(path, run))


def read_direct_url(distribution: Callable[[str], Distribution] = Distribution.from_name) -> Mapping[str, Any] | None:
    """``direct_url.json`` of kbuild, None where it came from an index."""
    try:
        text = distribution("kbuild").read_text("direct_url.json")
    except PackageNotFoundError:
        # Run from its sources, without being installed.
        return {"url": Path(__file__).parents[2].as_uri(), "dir_info": {}}
    value = None if text is None else json.loads(text)
    return value if isinstance(value, Mapping) else None


def _direct(url: str, fragment: list[str]) -> str:
    return f"{_NAME} @ {url}{'#' if fragment else ''}{'&'.join(fragment)}"


def _hash(archive: Any) -> list[str]:
    """The strongest hash that is recorded; ``hash`` is the older form of ``hashes``."""
    if not isinstance(archive, Mapping):
        return []
    hashes = archive.get("hashes")
    if isinstance(hashes, Mapping) and hashes.get("sha256"):
        return [f"sha256={hashes['sha256']}"]
    return [str(archive["hash"])] if archive.get("hash") else []


def _remote(path: Path, run: Runner) -> str:
    """The requirement for the commit that lies there, where it is a checkout of a repository that has an address."""
    found = []
    for command in (["remote", "get-url", "origin"], ["rev-parse", "HEAD"]):
        try:
            done = run(["git", "-C", str(path), *command])
        except (KbuildError, OSError):
            break
        found.append(done.stdout.strip() if done.returncode == 0 else "")
    if len(found) == 2 and all(found):
        # HOST:PATH is ssh's own way of writing ssh://HOST/PATH.
        short = re.fullmatch(r"(?P<host>[\w.@-]+):(?P<path>[^/].*)", found[0])
        url = f"ssh://{short['host']}/{short['path']}" if short is not None else found[0]
        if urlsplit(url).scheme in ("https", "ssh"):
            return _direct(f"git+{_without_credentials(url)}@{found[1]}", [])
    return _direct("git+https://HOST/REPOSITORY@COMMIT", [])


def _without_credentials(url: str) -> str:
    """A user called git without a password is how everybody logs in, and no secret."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=parts.netloc if user == "git" else host))
