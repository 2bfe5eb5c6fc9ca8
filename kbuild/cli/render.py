"""``kbuild render``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kbuild.cli.options import build_options, make_image_request, make_tools, model_argument
from kbuild.cli.show import Show
from kbuild.workflow import render_context


@click.command("render")
@model_argument
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
@build_options
def command(model: str, output: Path, **options: Any) -> None:
    """Write the Dockerfile and build context of MODEL, for "docker build" without kbuild."""
    show = Show()
    tools, config = make_tools(show)
    context = render_context(make_image_request(config, model, "auto", options), tools, output=output)
    show.say(f"build it with: docker build {context.path}")
    click.echo(str(context.path))
