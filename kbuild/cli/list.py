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
from kbuild.untrusted import plain
from kbuild.verify.judging import NOTHING

_TITLES = ("IMAGE", "MODEL", "DIGEST", "PLATFORM", "SIZE", "BUILT", "RUN", "VERIFIED", "REBUILT", "AUDIT", "PUSHED")
_NARROW = ("DIGEST", "PLATFORM", "SIZE", "BUILT", "RUN", "VERIFIED", "AUDIT")
_LEAST = len("sha256:") + 8  # by so much of a digest the other commands find an image


@click.command("list")
@json_option
def command(as_json: bool) -> None:
    """The images that were built on this machine and are still here, the newest first.

    Of which registered version and run each is, what "kbuild verify" and "kbuild audit" last said of it on this
    machine, and where it was pushed. Sizes are of the packed image; images share what they have in common. "kbuild
    inspect" tells more of one.
    """
    found = list_here(cache_folder() / "images")
    if as_json:
        click.echo(json.dumps([_facts(each) for each in found]))
        return
    if not found:
        click.echo("no image was built here yet; kbuild image builds one", err=True)
        return
    lines = _lines([_TITLES, *map(_row, found)])
    width = shutil.get_terminal_size().columns
    if sys.stdout.isatty() and max(map(len, lines)) > width:
        lines = _lines([_TITLES, *(row for each in found for row in _tall(each))])
        if max(map(len, lines)) > width:
            lines = _below(found)
    for line in lines:
        click.echo(line)


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    rows = [[_one_line(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _one_line(text: str) -> str:
    """Names come from images, registries and runs: what would move a cursor, or begin a line, is written out."""
    return plain(text).replace("\n", "\\n")


def _tall(image: ListedImage) -> Iterator[tuple[str, ...]]:
    """Rows with a name in each, and of a digest and a run as much as other commands need."""
    row = {**dict(zip(_TITLES, _row(image), strict=True)), **_shortened(image)}
    several = {"IMAGE": image.names, "MODEL": image.said.models, "PUSHED": image.said.pushed}
    for number in range(max(1, *map(len, several.values()))):
        held = {title: values[number] if number < len(values) else "" for title, values in several.items()}
        if number == 0:
            held = {title: value or "-" for title, value in held.items()}
        yield tuple(held.get(title, row[title] if number == 0 else "") for title in _TITLES)


def _below(found: Sequence[ListedImage]) -> list[str]:
    """Each image's facts, of a digest and a run as much as other commands need, and below them what may be long."""
    title, *facts = _lines([_NARROW, *map(_narrow, found)])
    return [
        title,
        *(line for fact, image in zip(facts, found, strict=True) for line in (fact, *map(_one_line, _long(image)))),
    ]


def _narrow(image: ListedImage) -> tuple[str, ...]:
    row = {**dict(zip(_TITLES, _row(image), strict=True)), **_shortened(image)}
    return tuple(row[title] for title in _NARROW)


def _shortened(image: ListedImage) -> dict[str, str]:
    verdict = image.said.verdict or "-"
    return {
        "DIGEST": f"sha256:{image.digest.hex}"[:_LEAST],
        "PLATFORM": ",".join(each.removeprefix("linux/") for each in image.platforms) or "damaged",
        "BUILT": f"{datetime.datetime.fromtimestamp(image.built).astimezone():%Y-%m-%d}",
        "RUN": image.labels.get(LABEL_RUN_ID, "-")[:8],
        "VERIFIED": "no example" if verdict == NOTHING else verdict.partition(":")[0],
    }


def _long(image: ListedImage) -> Iterator[str]:
    yield from (f"  {name}" for name in image.names)
    yield from (f"  of models:/{model}" for model in image.said.models)
    if image.said.rebuild is not None:
        yield f"  built again: {image.said.rebuild}"
    yield from (f"  pushed to {name}" for name in image.said.pushed)
    if image.damaged is not None:
        yield f"  damaged: {image.damaged}"


def _row(image: ListedImage) -> tuple[str, ...]:
    built, said = datetime.datetime.fromtimestamp(image.built).astimezone(), image.said
    return (
        ", ".join(image.names) or "-",
        ", ".join(said.models) or "-",
        f"sha256:{image.digest.hex[:12]}",
        ", ".join(image.platforms) or f"damaged: {image.damaged}",
        f"{image.size / 1e6:.0f} MB",
        f"{built:%Y-%m-%d %H:%M}",
        image.labels.get(LABEL_RUN_ID, "-"),
        said.verdict or "-",
        said.rebuild or "-",
        said.audit or "-",
        ", ".join(said.pushed) or "-",
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
        **image.said.to_json(),
    }
