"""``kbuild diff``."""

from __future__ import annotations

import json

import click

from kbuild.api.comparing import diff
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, json_option, open_here, platform_option
from kbuild.cli.show import Show
from kbuild.platform import Platform


@click.command("diff")
@click.argument("before", metavar="[A]", default="@latest~1", shell_complete=complete_either)
@click.argument("after", metavar="[B]", default="@latest", shell_complete=complete_either)
@platform_option
@json_option
@env_option
def command(before: str, after: str, platform: Platform | None, as_json: bool) -> None:
    """What differs from A to B, two runs or two images.

    Without A and B they are the two newest trained runs; without B it is the newest.

    Of runs: packages, code, parameters, artifacts, signature; runs are anything that names a model, and packages are
    compared by the locks stored with them, where both have one. Of images (a name or digest that "kbuild image"
    printed, here or in a registry, an OCI layout or its tar): layers, config, packages, files. The exit code is 0
    whether they differ or not.
    """
    found = diff(before, after, platform=platform, session=open_here(Show()))
    click.echo(json.dumps(found.to_json()) if as_json else found.to_text(), nl=as_json)
