"""What an index answers, as an HTML page of links, also where it speaks JSON alone: conda-lock's poetry reads no other.

Format: PyPA's "Simple repository API", its JSON (PEP 691, PEP 700) and its HTML (PEP 503, PEP 592, PEP 714).
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from kbuild.environment.links import Page, html_page

if TYPE_CHECKING:
    import requests


def page_of(response: requests.Response) -> Page:
    """The page that an index answered with; raises ValueError for JSON that is not a list of a project's files."""
    if "json" not in response.headers.get("Content-Type", ""):
        return html_page(response.url, response.text)
    try:
        html = "".join(map(_link, response.json()["files"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{response.url} answers with JSON that lists no files of a project") from error
    return Page(url=response.url, html=html)


def _link(file: Mapping[str, Any]) -> str:
    hashes = file.get("hashes") or {}
    name = "sha256" if "sha256" in hashes else next(iter(hashes), None)
    fragment = "" if name is None else f"#{name}={hashes[name]}"
    yanked, metadata = file.get("yanked", False), file.get("core-metadata", file.get("dist-info-metadata", False))
    attributes = {
        "href": f"{file['url']}{fragment}",
        "data-requires-python": file.get("requires-python"),
        "data-yanked": None if yanked is False else "" if yanked is True else yanked,
        "data-core-metadata": _told_metadata(metadata),
    }
    written = "".join(f' {key}="{escape(str(value))}"' for key, value in attributes.items() if value is not None)
    return f"<a{written}>{escape(str(file['filename']))}</a><br/>\n"


def _told_metadata(value: Any) -> str | None:
    if isinstance(value, Mapping) and value:
        name = "sha256" if "sha256" in value else next(iter(value))
        return f"{name}={value[name]}"
    return "true" if value else None
