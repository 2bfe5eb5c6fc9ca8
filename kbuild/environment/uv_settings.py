"""Which package indexes uv is told of: kbuild asks pip's, and whoever works with uv alone would get packages from
elsewhere than they install from.

Formats: uv's docs, "Configuration files" (where they lie, and which of them count), "Package indexes" and "Environment
variables".
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kbuild.urls.credentials import without_credentials, without_user

_FILE = "uv.toml"
_ONE = ("UV_DEFAULT_INDEX", "UV_INDEX_URL")
_SEVERAL = ("UV_INDEX", "UV_EXTRA_INDEX_URL")
_YES = ("1", "true", "yes", "on", "y", "t")


def other_indexes(asked: Iterable[str], environ: Mapping[str, str]) -> str | None:
    """The indexes that uv would ask in this folder and that are not ``asked``, in a sentence that says what to write;
    None where there are none. Files that cannot be read name none: uv says so itself."""
    try:
        folder = Path.cwd()
    except OSError:  # it is gone
        folder = Path("/")
    known = {_bare(url) for url in asked}
    found = {_bare(url): url for url in _indexes_of_uv(environ, folder) if url.startswith(("http://", "https://"))}
    others = [without_credentials(without_user(url)) for bare, url in found.items() if bare not in known]
    if not others:
        return None
    return (
        f"uv is told of {' and '.join(others)}, and pip is not: packages come from where pip takes them "
        "(pip config set global.index-url URL, or global.extra-index-url)"
    )


def _indexes_of_uv(environ: Mapping[str, str], folder: Path) -> Iterator[str]:
    for name in _ONE:
        yield from filter(None, [environ.get(name, "").strip()])
    for name in _SEVERAL:
        yield from map(_without_name, environ.get(name, "").split())
    for table in _tables(environ, folder):
        pip = table.get("pip")
        for each in (table, pip if isinstance(pip, dict) else {}):
            yield from _named_in(each)


def _named_in(table: Mapping[str, Any]) -> Iterator[str]:
    listed = [table.get("index-url"), *_list(table.get("extra-index-url"))]
    for each in _list(table.get("index")):
        listed.append(each.get("url") if isinstance(each, dict) else each)
    yield from (_without_name(each) for each in listed if isinstance(each, str) and each)


def _tables(environ: Mapping[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """What counts, the nearest first."""
    if given := environ.get("UV_CONFIG_FILE"):
        yield from _read([Path(given)])
        return
    if environ.get("UV_NO_CONFIG", "").lower() in _YES:
        return
    yield from _read(place for each in (folder, *folder.parents) for place in (each / _FILE, each / "pyproject.toml"))
    home = environ.get("HOME", "")
    yield from _read([Path(environ.get("XDG_CONFIG_HOME") or f"{home}/.config", "uv", _FILE)])
    shared = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    yield from _read(Path(each, "uv", _FILE) for each in (*shared, "/etc"))


def _read(places: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The first of them that uv would take: of a ``pyproject.toml`` its table, if there is one."""
    for place in places:
        try:
            table: Any = tomllib.loads(place.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if place.name == "pyproject.toml":
            tool = table.get("tool")
            table = tool.get("uv") if isinstance(tool, dict) else None
        if isinstance(table, dict):
            yield table
            return


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _without_name(text: str) -> str:
    """An index may be given as NAME=URL."""
    name, separator, url = text.partition("=")
    return url if separator and name.replace("-", "").replace("_", "").isalnum() else text


def _bare(url: str) -> str:
    """What tells an index from others: without credentials and the last slash."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
