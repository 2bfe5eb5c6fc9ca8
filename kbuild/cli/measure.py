"""``kbuild measure``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from kbuild.api.measuring import MeasureOptions, measure
from kbuild.api.running import RunOptions
from kbuild.cli.config import env_option
from kbuild.cli.options import image_argument, json_option, open_here, platform_option
from kbuild.cli.show import Show
from kbuild.measuring.profile import LoadFound, Profile, told_size
from kbuild.offered.change import short_digests
from kbuild.platform import Platform
from kbuild.untrusted import folded

_MOST = 256
_TITLES = ("CONNECTIONS", "ANSWERS", "FAILED", "REQUESTS/S", "P50 MS", "P90 MS", "P99 MS", "WORST MS", "CPUS")
_BELOW = len("machine  ")


def _connections(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and 1 <= int(word) <= _MOST for word in words):
        raise click.BadParameter(f"{text!r} is not one or several of 1 to {_MOST}, such as 1,8")
    return tuple(dict.fromkeys(map(int, words)))


@click.command("measure")
@image_argument
@click.option("--cpu", default="1", show_default=True, help="Processors that it gets; a worker process each.")
@click.option(
    "--connections",
    metavar="N,…",
    default="1,8",
    show_default=True,
    callback=_connections,
    help="One load after another, each over so many connections.",
)
@click.option(
    "--seconds", type=click.FloatRange(1, 600), default=5.0, show_default=True, help="How long each load lasts."
)
@click.option(
    "--request",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A request's JSON to ask with.  [default: the model's own example]",
)
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds to get ready.")
@platform_option
@json_option
@env_option
def command(
    image: str | None,
    cpu: str,
    connections: tuple[int, ...],
    seconds: float,
    request: Path | None,
    timeout: float,
    platform: Platform | None,
    as_json: bool,
) -> None:
    """Measure how IMAGE starts, what memory it takes and how fast it answers on this machine.

    It is started as "kbuild run" does, asked with the model's own example for a few seconds, and stopped. What came out
    is kept by the image's digest, for "kbuild deploy" on this machine; --json is for "kbuild deploy --profile" on
    others. The image itself does not change. Figures are of this machine alone, which is named beside them; whoever
    asks runs on it too.
    """
    show = Show()
    options = MeasureOptions(
        cpu=cpu,
        connections=connections,
        seconds=seconds,
        request=request,
        run=RunOptions(timeout=timeout, platform=platform),
    )
    measured = measure(image, options, session=open_here(show))
    profile = measured.profile
    if profile.is_emulated:
        show.complain(
            f"the image is for {profile.platform} and was emulated: that tells nothing of machines it is for",
            style="yellow",
        )
    if profile.disturbed:
        show.complain(
            f"other work had {profile.disturbed:.1f} of {profile.host.processors} processors meanwhile: "
            "rates and latencies tell little; measure again when the machine is calm",
            style="yellow",
        )
    click.echo(json.dumps(profile.to_json()) if as_json else "\n".join(_lines(measured.image, profile)))


def _lines(name: str, profile: Profile) -> list[str]:
    host = profile.host
    kept = f"kept to that by {host.runtime}" if host.held else f"nothing in {host.runtime} keeps it to that"
    digest = "" if str(profile.digest) in name else f"{profile.digest}, "
    image = short_digests(f"image    {name} ({digest}{profile.platform})")
    memory = f"memory   {told_size(profile.idle)} idle, {told_size(profile.peak)} at most under load ({host.memory_by})"
    rows = [_TITLES, *map(_row, profile.loads)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        *folded(image, sys.stdout, indent=_BELOW).split("\n"),
        *folded(f"machine  {profile.where}", sys.stdout, indent=_BELOW).split("\n"),
        f"cpu      {profile.cpu}, worker processes: {profile.workers} ({kept})",
        f"start    {profile.start:.1f} s until it was ready",
        *folded(memory, sys.stdout, indent=_BELOW).split("\n"),
        f"request  {profile.request:,} bytes",
        "",
        *("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows),
    ]


def _row(load: LoadFound) -> tuple[str, ...]:
    times = ("-" if each is None else f"{each:.1f}" for each in (load.p50, load.p90, load.p99, load.worst))
    counts = map(str, (load.connections, load.answers, load.failed))
    return (*counts, f"{load.rate:.1f}", *times, f"{load.used:.2f}")
