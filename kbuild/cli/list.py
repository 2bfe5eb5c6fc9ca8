"""``kbuild list``."""

from __future__ import annotations

import datetime
import json
from typing import Any

import click

from kbuild.cli.options import cache_folder, json_option
from kbuild.image.store.listing import ListedImage, list_here
from kbuild.plan.make import LABEL_RUN_ID

_TITLES = ("IMAGE", "DIGEST", "PLATFORM", "SIZE", "BUILT", "RUN")


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
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


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
