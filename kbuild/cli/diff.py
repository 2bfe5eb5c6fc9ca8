"""``kbuild diff``."""

from __future__ import annotations

import json

import click

from kbuild.auditing import compare_models
from kbuild.cli.config import env_option
from kbuild.cli.options import json_option, make_tools
from kbuild.cli.show import Show
from kbuild.model.reference import ModelReference


@click.command("diff")
@click.argument("before", metavar="RUN_A")
@click.argument("after", metavar="RUN_B")
@json_option
@env_option
def command(before: str, after: str, as_json: bool) -> None:
    """What differs from RUN_A to RUN_B: packages, code, parameters, artifacts, signature.

    Both are anything that names a model. Packages are compared by the locks stored with the runs, where both have
    one. The exit code is 0 whether they differ or not.
    """
    show = Show()
    tools, _ = make_tools(show)
    difference = compare_models(ModelReference.parse(before), ModelReference.parse(after), tools)
    click.echo(json.dumps(difference.to_json()) if as_json else difference.to_text(), nl=as_json)
