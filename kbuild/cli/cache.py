"""``kbuild cache``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from kbuild.api.session import cache_limit
from kbuild.cache.damage import damaged
from kbuild.cache.entries import KINDS, list_cache
from kbuild.cache.folder import using_cache
from kbuild.cache.limit import parse_limit
from kbuild.cache.prune import ANSWERS, prune_cache
from kbuild.cli.options import cache_folder, json_option
from kbuild.cli.show import Show
from kbuild.cli.suggesting import Suggesting
from kbuild.errors import CacheDamaged
from kbuild.model.kept import is_damaged_model
from kbuild.progress import how_many

WORDS = {
    "downloads": "packages as they were downloaded",
    "wheels": "Python packages, installed to be copied into images",
    "interpreters": "Python itself, likewise",
    "debs": "Debian packages for bases",
    "bases": "bases of images, made of those",
    "pulled": "bases of images, from registries",
    "remote": "parts of images in registries that were looked at",
    "models": "models as MLflow has them",
    "layers": "packed layers, which images share",
    "images": "images that were built here (kbuild list)",
    "packs": "models packed with their Python (kbuild pack)",
    "unpacked": "layers unpacked, to run images without Docker",
}


@click.group("cache", cls=Suggesting)
def command() -> None:
    """Look at, shrink and check what kbuild keeps between builds.

    It lies in KBUILD_CACHE_DIR and holds KBUILD_CACHE_LIMIT (20 GB) at most, also while a command writes: unpacked
    images go first, then what builds made, then what was fetched, of each the least recently used. What running
    commands and containers use stays; a command that needs more at once than the limit stops and says how much.
    Everything in it can be made or fetched again.
    """


@command.command("info")
@json_option
def info(as_json: bool) -> None:
    """Where the cache is and what is in it."""
    cache = cache_folder()
    entries = list_cache(cache)
    kinds = {
        kind: {
            "entries": sum(entry.kind == kind for entry in entries),
            "size": sum(entry.size for entry in entries if entry.kind == kind),
        }
        for kind in KINDS
    }
    total = sum(entry.size for entry in entries)
    if as_json:
        click.echo(json.dumps({"path": str(cache), "size": total, "limit": cache_limit(), "kinds": kinds}))
        return
    click.echo(f"{cache}: {total / 1e9:.2f} GB of the {cache_limit() / 1e9:g} GB that it may hold")
    for words, of in _rows():
        count = sum(kinds[kind]["entries"] for kind in of)
        if count:
            click.echo(f"  {sum(kinds[kind]['size'] for kind in of) / 1e6:>9.1f} MB {count:>6}  {words}")


def _rows() -> list[tuple[str, tuple[str, ...]]]:
    """Each kind in words, what was only found out together."""
    return [*((words, (kind,)) for kind, words in WORDS.items()), ("answers, so that nothing is asked twice", ANSWERS)]


@command.command("prune", short_help="Remove the least recently used, down to the limit.")
@click.option("--limit", metavar="SIZE", help='What may stay, such as "5 GB"; 0 removes all.  [default: the limit]')
@json_option
def prune(limit: str | None, as_json: bool) -> None:
    """Remove the least recently used until the rest is within the limit, and what killed commands left behind.

    Small records (of bases, package lists, registries, slim images, layers) make no room: they go after a year unused.
    """
    cache, allowed = cache_folder(), cache_limit() if limit is None else parse_limit(limit)
    removed = prune_cache(cache, limit=allowed)
    freed = sum(entry.size for entry in removed)
    left = sum(entry.size for entry in list_cache(cache))
    if as_json:
        click.echo(json.dumps({"removed": [str(entry.path) for entry in removed], "freed": freed}))
    else:
        click.echo(f"removed {_entries(len(removed))}, {freed / 1e6:.1f} MB")
        if left > allowed:
            click.echo(f"running commands use {left / 1e6:.1f} MB, which stay", err=True)


@command.command("verify", short_help="Read everything and compare it with its digest.")
@click.option("--remove", is_flag=True, help="Remove what is damaged; it is made or fetched again when needed.")
@json_option
def verify(remove: bool, as_json: bool) -> None:
    """Read everything and compare it with its digest: downloads, models, installed packages, bases, layers, images."""
    cache = cache_folder()
    show = Show()
    with using_cache(cache), show("verify"):
        found = list(damaged(cache, is_damaged_model))
    entries = {_entry(cache, path) for path, _ in found}
    if remove and entries:
        prune_cache(cache, limit=10**18, also=entries)
    if as_json:
        click.echo(json.dumps({"damaged": [{"path": str(path), "reason": reason} for path, reason in found]}))
    else:
        for path, reason in found:
            click.echo(f"{path} {reason}")
    if found and not remove:
        raise CacheDamaged(f"{how_many(len(found), 'file')} in {cache} {'is' if len(found) == 1 else 'are'} damaged")
    show.say("nothing is damaged" if not found else f"removed {_entries(len(entries), 'damaged ')}")


def _entries(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}{'entry' if count == 1 else 'entries'}"


def _entry(cache: Path, path: Path) -> Path:
    """The entry of the cache that a file belongs to."""
    parts = path.relative_to(cache).parts
    depth = 3 if parts[0] in ("layers", "packs", "unpacked") else 2
    return cache.joinpath(*parts[:depth])
