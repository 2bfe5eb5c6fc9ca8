"""``kbuild list``."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from kbuild.cli.options import cache_folder, json_option
from kbuild.image.store.listing import ListedImage, list_here
from kbuild.plan.make import LABEL_RUN_ID

_TITLES = ("IMAGE", "DIGEST", "PLATFORM", "SIZE", "BUILT", "RUN")
_LEAST = len("sha256:") + 8  # by so much of a digest the other commands find an image


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """The images that were built on this machine and are still here, the newest first.

    Sizes are of the packed image; images share what they have in common. "kbuild inspect" tells more of one.
    """
    found = list_here(cache_folder() / "images")
    if as_json:
        click.echo(json.dumps([_facts(each) for each in found]))
        return
    if not found:
        click.echo("no image was built here yet; kbuild image builds one", err=True)
        return
    rows = [_TITLES, *map(_row, found)]
    lines = _lines(rows)
    width = shutil.get_terminal_size().columns
    if sys.stdout.isatty() and max(map(len, lines)) > width:
        lines = _lines([_TITLES, *(row for each in found for row in _narrow(each))])
        if max(map(len, lines)) > width:
            lines = _below(found)
    for line in lines:
        click.echo(line)


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _narrow(image: ListedImage) -> Iterator[tuple[str, ...]]:
    """A row for each name, and of a digest and a run as much as other commands need."""
    _, digest, platform, size, built, run = _row(image)
    names = image.names or ("-",)
    yield names[0], digest[:_LEAST], platform.replace("linux/", ""), size, built.partition(" ")[0], run[:8]
    yield from ((name, *[""] * (len(_TITLES) - 1)) for name in names[1:])


def _below(found: Sequence[ListedImage]) -> list[str]:
    """Each image's facts, and below them its names, which may be long."""
    title, *facts = _lines([_TITLES[1:], *(next(_narrow(each))[1:] for each in found)])
    names = (tuple(f"  {name}" for name in each.names) for each in found)
    return [title, *(line for fact, theirs in zip(facts, names, strict=True) for line in (fact, *theirs))]


def _row(image: ListedImage) -> tuple[str, ...]:
    names = ", ".join(image.names) or "-"
    built = datetime.datetime.fromtimestamp(image.built).astimezone()
    return (
        names,
        f"sha256:{image.digest.hex[:12]}",
        ", ".join(image.platforms) or f"damaged: {image.damaged}",
        f"{image.size / 1e6:.0f} MB",
        f"{built:%Y-%m-%d %H:%M}",
        image.labels.get(LABEL_RUN_ID, "-"),
    )


def _facts(image: ListedImage) -> dict[str, Any]:
    return {
        "names": list(image.names),
        "digest": str(image.digest),
        "platforms": list(image.platforms),
        "size": image.size,
        "built": datetime.datetime.fromtimestamp(image.built, datetime.UTC).isoformat(timespec="seconds"),
        "damaged": image.damaged,
        "labels": dict(image.labels),
    }
