"""``kbuild render``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from kbuild.api.building import render
from kbuild.api.request import BuildOptions
from kbuild.cli.options import build_options, json_option, open_here, optional_model_argument
from kbuild.cli.show import Show
from kbuild.image.base.choice import parse_base
from kbuild.plan.build_plan import BASE_CONTEXT, BuildPlan


@click.command("render")
@optional_model_argument
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="A folder that is not there yet.")
@build_options
@json_option
def command(model: str | None, output: Path, as_json: bool, **options: Any) -> None:
    """Write the Dockerfile and build context of MODEL, for "docker build" without kbuild."""
    show = Show()
    session, asked = open_here(show), BuildOptions(**options)
    context = render(model, asked, output=output, session=session)
    base = asked.base or session.config.base
    given = "" if model is None else f" {shlex.quote(model)}"
    show.next(
        {
            f"docker build {_base_option(base, context.plan)}{shlex.quote(str(context.path))}": "build it",
            f"kbuild image{given}": "let kbuild build it, always to the same digest",
        }
    )
    click.echo(
        json.dumps({"context": str(context.path), "plan_digest": str(context.plan.digest)})
        if as_json
        else str(context.path)
    )


def _base_option(base: str | None, plan: BuildPlan) -> str:
    """What ``docker build`` has to be told of a base that is a local layout; other bases stand in the Dockerfile."""
    if base is None or plan.from_line != BASE_CONTEXT:
        return ""
    path = parse_base(base).path
    return (
        ""
        if path is None
        else f"--build-context {BASE_CONTEXT}=oci-layout://{shlex.quote(str(path.absolute()))}@{plan.base} "
    )
