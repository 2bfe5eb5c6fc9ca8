"""``kbuild doctor`` where the build tools, which its checks are made of, are not installed: that is what it finds."""

from __future__ import annotations

import json

import click

from kbuild.errors import EnvironmentUnfit, ExtraNotInstalled


def make_doctor(missing: str) -> click.Command:
    """The command that says that the package ``missing`` is, and what installs it, with doctor's own exit code."""

    @click.command("doctor")
    @click.option("--env", "-e", metavar="NAME", expose_value=False, help="Kedro environment.")
    @click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    def command(as_json: bool) -> None:
        """Look at everything that kbuild needs, and say what is wrong and what to type."""
        name = "build tools"
        detail = f"not installed ({missing} is missing); a project trains and logs its models without them"
        hint = ExtraNotInstalled.default_hint
        if as_json:
            click.echo(json.dumps([{"name": name, "status": "fail", "detail": detail, "hint": hint}]))
        else:
            click.echo(f"{click.style('fail', fg='red')} {name:<13} {detail}\n{'':<19}-> {hint}")
        raise EnvironmentUnfit("the build tools are not installed; nothing else can be looked at before they are")

    return command
