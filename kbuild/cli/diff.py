"""``kbuild diff``."""

from __future__ import annotations

import json
import sys

import click

from kbuild.api.comparing import diff
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, json_option, open_here, platform_option
from kbuild.cli.show import Show
from kbuild.image.compare.diff import ImageDiff
from kbuild.platform import Platform
from kbuild.untrusted import folded, plain


@click.command("diff")
@click.argument("before", metavar="[A]", default="@latest~1", shell_complete=complete_either)
@click.argument("after", metavar="[B]", default="@latest", shell_complete=complete_either)
@click.option("--all", "everything", is_flag=True, help="Of images also layers and all files, and digests in full.")
@platform_option
@json_option
@env_option
def command(before: str, after: str, everything: bool, platform: Platform | None, as_json: bool) -> None:
    """What differs from A to B, two runs or two images.

    Without A and B they are the two newest trained runs; without B it is the newest.

    Of runs: metrics, parameters, packages, code, artifacts, signature; runs are anything that names a model, and
    packages are compared by the locks stored with them, where both have one. Of images (a name or digest that
    "kbuild image" printed, here or in a registry, an OCI layout or its tar): packages, code, model, config; with --all
    also layers and files. The exit code is 0 whether they differ or not.
    """
    found = diff(before, after, platform=platform, session=open_here(Show()))
    if as_json:
        click.echo(json.dumps(found.to_json()))
    else:
        text = found.to_text(everything=everything) if isinstance(found, ImageDiff) else found.to_text()
        click.echo(folded(plain(text.rstrip("\n")), sys.stdout, indent=6))
