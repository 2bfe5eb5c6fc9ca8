"""``kbuild help``: the documentation that came with this kbuild."""

from __future__ import annotations

import sys
import tempfile
import webbrowser
from importlib.resources import files
from pathlib import Path

import click

from kbuild.errors import OutputError

_PACKAGE = "kbuild.docs"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>kbuild: {title}</title>
<style>body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif }}
pre {{ background: #f4f4f4; padding: .8rem; overflow-x: auto }} td, th {{ padding: .3rem .6rem; border: 1px solid #ccc;
text-align: left; vertical-align: top }} table {{ border-collapse: collapse }}</style></head>
<body><nav>{links}</nav>{body}</body></html>
"""


@click.command("help")
@click.argument("topic", required=False)
@click.option("--html", is_flag=True, help="Write all pages as HTML, and open them in a browser.")
def command(topic: str | None, html: bool) -> None:
    """Show a page of the documentation, or which pages there are.

    \b
    Examples:
      kbuild help
      kbuild help images
    """
    pages = read_pages()
    if topic is not None and topic not in pages:
        raise click.BadParameter(f"no page {topic!r}; there are {', '.join(pages)}", param_hint="TOPIC")
    if html:
        click.echo(_open(write_html(pages), topic))
    elif topic is None:
        width = max(map(len, pages))
        click.echo("\n".join(f"{name:{width}}  {title_of(text)}" for name, text in pages.items()))
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        console = Console()
        with console.pager(styles=True):
            console.print(Markdown(pages[topic]))
    else:
        click.echo(pages[topic], nl=False)


def read_pages() -> dict[str, str]:
    """The pages as Markdown, by name, in order of their names."""
    found = {entry.name: entry for entry in files(_PACKAGE).iterdir() if entry.name.endswith(".md")}
    return {name.removesuffix(".md"): found[name].read_text(encoding="utf-8") for name in sorted(found)}


def title_of(page: str) -> str:
    """The text of its first heading."""
    return page.split("\n", 1)[0].removeprefix("# ")


def write_html(pages: dict[str, str]) -> Path:
    """All pages as HTML in a new folder; raises OutputError."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    try:
        folder = Path(tempfile.mkdtemp(prefix="kbuild-docs-"))
        links = " · ".join(f'<a href="{name}.html">{name}</a>' for name in pages)
        for name, text in pages.items():
            body = reader.render(text).replace('.md"', '.html"')
            page = _PAGE.format(title=title_of(text), links=links, body=body)
            (folder / f"{name}.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the pages cannot be written: {error.strerror}") from error
    return folder


def _open(folder: Path, topic: str | None) -> str:
    page = folder / f"{topic or 'project'}.html"
    webbrowser.open(page.as_uri())
    return str(page)
