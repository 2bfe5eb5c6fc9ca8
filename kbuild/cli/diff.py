"""``kbuild diff``."""

from __future__ import annotations

import json

import click

from kbuild.api.find import existing_image
from kbuild.api.session import take_model
from kbuild.cache.folder import using_cache
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, json_option, make_tools, platform_option
from kbuild.cli.show import Show
from kbuild.image.compare.diff import diff_images
from kbuild.model.model_reference import ModelReference
from kbuild.platform import Platform
from kbuild.workflow.audit.difference import compare_models


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
    show = Show()
    tools, config = make_tools(show)
    with (
        using_cache(tools.cache, limit=tools.cache_limit),
        existing_image(before, tools, platform) as one,
        existing_image(after, tools, platform) as other,
    ):
        if one is not None and other is not None:
            with show("compare") as progress:
                images = diff_images(one[0], other[0], progress)
            click.echo(json.dumps(images.to_json()) if as_json else images.to_text(), nl=as_json)
            return
    older, newer = (ModelReference.parse(take_model(text, tools, config, show)) for text in (before, after))
    difference = compare_models(older, newer, tools)
    click.echo(json.dumps(difference.to_json()) if as_json else difference.to_text(), nl=as_json)
