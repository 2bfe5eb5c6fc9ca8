"""Places of packages on this machine's disk, as pip reads them: flat folders, pages of links, and indexes as folders.

Each is told as an HTML page of links, so that whoever reads an index's page reads them too. Format: pip's docs,
"pip install", ``--find-links``; PyPA's "Simple repository API" for the folders of an index; HTML's standard, "The base
element".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from kbuild.errors import ConfigurationError

_LINK = re.compile(r"(?=<a\s)", re.IGNORECASE)  # before each
_BASE = re.compile(r"<base\s[^>]*>", re.IGNORECASE)
_ARCHIVES = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """An HTML page; its links are relative to ``url``."""

    url: str
    html: str


def html_page(url: str, html: str) -> Page:
    """The page at ``url``, with its links relative to its ``<base>`` where it has one, and without that.

    Of several the first with a ``href`` counts, which may be relative to the page itself; in comments none does.
    """
    parser, read = _Base(), 0
    for found in _BASE.finditer(html):
        parser.feed(html[read : found.end()])
        read = found.end()
        if parser.href is not None:
            return Page(url=urljoin(url, parser.href), html=_BASE.sub("", html))
    return Page(url=url, html=html)


class _Base(HTMLParser):
    href: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "base" and self.href is None:
            self.href = dict(attrs).get("href")


def is_local(url: str) -> bool:
    """Whether an index or a place of links is on this machine's disk."""
    return urlsplit(url).scheme == "file"


def is_local_channel(channel: str) -> bool:
    """Whether a conda channel, named as conda's docs allow, is a folder of this machine."""
    return is_local(channel) or channel.startswith("/")


def local_path(url: str) -> Path:
    """The path that a ``file:`` url names."""
    return Path(unquote(urlsplit(url).path))


def location(text: str) -> str:
    """A place as pip's options name it, as a url: what is a path is made absolute, with the user's home filled in."""
    scheme = urlsplit(text).scheme
    if scheme in ("http", "https", "file"):
        return text
    try:
        return Path(text).expanduser().absolute().as_uri()
    except RuntimeError as error:  # ~somebody
        raise ConfigurationError(f"{text} names the home of a user that is not there") from error


def flat_page(url: str) -> Page:
    """The page of a local place of links: a folder's archives, an HTML file, or an archive alone.

    What is not there is empty, as for pip. Raises ConfigurationError for one that cannot be read.
    """
    path = local_path(url)
    try:
        if not path.exists():
            return _listing(url, [])
        if path.is_dir():
            return _listing(url, (each for each in path.iterdir() if each.name.endswith(_ARCHIVES)))
        if path.name.endswith(_ARCHIVES) and path.is_file():
            return _listing(url, [path])
        return html_page(path.as_uri(), path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not an HTML page"
        raise ConfigurationError(
            f"cannot read {path}, which pip's find-links names: {reason}",
            hint="name a folder of wheels, a wheel, or an HTML page of links (PIP_FIND_LINKS)",
        ) from error


def folder_page(url: str, name: str) -> Page | None:
    """The page of a package in an index that is a folder, None where it has none.

    Raises ConfigurationError where the folder is not there, or the page cannot be read.
    """
    root = local_path(url)
    if not root.is_dir():
        raise ConfigurationError(
            f"the package index {root} is not a folder of this machine",
            hint="set PIP_INDEX_URL to an index that is there",
        )
    folder = root / name
    index = folder / "index.html"
    try:
        if index.is_file():
            return html_page(index.as_uri(), index.read_text("utf-8"))
        return flat_page(folder.as_uri()) if folder.is_dir() else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {index}: {error}") from error


def _listing(url: str, paths: Iterable[Path]) -> Page:
    return Page(url=url, html="".join(f'<a href="{escape(path.as_uri())}"></a>\n' for path in sorted(paths)))


def links_near(html: str, near: Collection[str]) -> str:
    """Of a page's text the links where one of these texts stands, without the megabytes of others that it may have."""
    places = [place for text in near for place in (html.find(text), html.rfind(text)) if place >= 0]
    if not places:
        return ""
    begin, end = min(places), _LINK.search(html, max(places) + 1)
    while (begin := max(html.rfind(tag, 0, begin) for tag in ("<a", "<A"))) > 0 and not html[begin + 2].isspace():
        pass  # another tag, such as <abbr>
    around = html[max(begin, 0) : len(html) if end is None else end.start()]
    return "".join(link for link in _LINK.split(around) if any(text in link for text in near))
