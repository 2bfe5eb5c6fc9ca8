"""``kbuild help``: the documentation that came with this kbuild."""

from __future__ import annotations

import re
import sys
import tempfile
import webbrowser
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path

import click

from kbuild.cli.listed import COMMANDS
from kbuild.docs import GROUPS, headings, read_pages, section, slug, title_of
from kbuild.errors import OutputError
from kbuild.progress import at_most

_SHOWN = 8
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>kbuild: {title}</title>
<style>:root {{ color-scheme: light dark }} nav, main {{ max-width: 60rem; margin: 1.5rem auto }}
body {{ margin: 0; padding: 0 1rem 2rem; background: Canvas; color: CanvasText;
font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }}
pre, .wide {{ overflow-x: auto; overflow-wrap: normal }} pre {{ background: #8881; padding: .8rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .3rem .6rem; border: 1px solid #8886; text-align: left;
vertical-align: top }}</style></head>
<body><nav>{links}</nav><main>{body}</main></body></html>
"""


@click.command("help")
@click.argument(
    "topic",
    required=False,
    metavar="[PAGE[#HEADING]]",
    shell_complete=lambda _context, _topic, text: [each for each in _topics() if each.startswith(text)],
)
@click.option("--html", is_flag=True, help="Write all pages as HTML, and open them in a browser.")
def command(topic: str | None, html: bool) -> None:
    """Show a page of the documentation, or a part of one, or which pages there are.

    A heading is named as links do: in small letters, with - for spaces. A command and an exit code are found, too.
    """
    pages = read_pages()
    name, _, heading = (topic or "").partition("#")
    if name in COMMANDS and name not in pages:
        from kbuild.cli.app import cli

        cli.main([name, "--help"], prog_name="kbuild")
    if name.isdecimal() and name in headings(pages["exit-codes"]):
        name, heading = "exit-codes", name
        topic = f"{name}#{heading}"
    if topic is not None and name not in pages:
        raise click.BadParameter(_unknown("page", name, _topics()), param_hint="PAGE")
    if heading:
        begun = [each for each in headings(pages[name]) if each.startswith(heading)]
        heading = begun[0] if len(begun) == 1 else heading
    if heading and heading not in headings(pages[name]):
        raise click.BadParameter(_unknown("heading", heading, list(headings(pages[name]))), param_hint=name)
    if html:
        click.echo(_open(write_html(pages), name or next(iter(pages)), heading))
    elif topic is None:
        click.echo(_listed(pages), nl=False)
    else:
        _show(section(pages[name], heading) if heading else pages[name])


def _topics() -> list[str]:
    return list(dict.fromkeys((*read_pages(), *COMMANDS)))


def write_html(pages: dict[str, str]) -> Path:
    """All pages as HTML in a new folder; raises OutputError."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    try:
        folder = Path(tempfile.mkdtemp(prefix="kbuild-docs-"))
        links = " · ".join(f'<a href="{name}.html">{name}</a>' for name in pages)
        for name, text in pages.items():
            tokens = reader.parse(text)
            for opened, inner in pairwise(tokens):
                if opened.type == "heading_open":
                    opened.attrSet("id", slug(inner.content))
            body = reader.renderer.render(tokens, reader.options, {})
            body = re.sub(r'href="([\w-]+)\.md(["#])', r'href="\1.html\2', body)
            # What is wider than the window is scrolled by keyboard, too.
            body = body.replace("<pre>", '<pre tabindex="0">')
            body = body.replace("<table>", '<div class="wide" tabindex="0"><table>').replace(
                "</table>", "</table></div>"
            )
            page = _PAGE.format(title=title_of(text), links=links, body=body)
            (folder / f"{name}.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the pages cannot be written: {error.strerror}") from error
    return folder


def _listed(pages: dict[str, str]) -> str:
    formatter = click.HelpFormatter(width=100)
    width = max(map(len, pages))
    for group, names in GROUPS.items():
        with formatter.section(group):
            formatter.write_dl([(name.ljust(width), title_of(pages[name])) for name in names])
    return formatter.getvalue().lstrip("\n")


def _unknown(what: str, name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1)
    if close:
        return f"no {what} {name!r}; did you mean {close[0]}?"
    listed = "kbuild help lists them" if what == "page" else f"there are {at_most(known, _SHOWN)}"
    return f"no {what} {name!r}; {listed}"


def _show(text: str) -> None:
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.capture() as drawn:
        console.print(Markdown(text))
    shown = drawn.get()
    if shown.count("\n") < console.height:
        click.echo(shown, nl=False)
    else:
        # click's, for it tells less to show colours as such, and gives none to a pager that cannot.
        click.echo_via_pager(shown)


def _open(folder: Path, name: str, heading: str) -> str:
    page = folder / f"{name}.html"
    webbrowser.open(page.as_uri() + (f"#{heading}" if heading else ""))
    return str(page)
