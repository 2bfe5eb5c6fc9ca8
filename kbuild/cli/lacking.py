"""Where the build tools are not installed: what installs all that a command needs, and what ``kbuild doctor`` finds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import click

from kbuild.errors import EnvironmentUnfit, ExtraNotInstalled

# What asks for an extra beside the build tools: commands, and options of others.
_COMMANDS = {"queue": "queue", "worker": "queue", "demo": "demo"}
_OPTIONS = {"--queue": "queue", "--spark": "spark"}


def make_hint(arguments: Sequence[str]) -> str:
    """What to type to have the build tools and the extras of the command line ``arguments``: once, not one by one."""
    wanted = {_OPTIONS.get(each.partition("=")[0]) for each in arguments} | {_COMMANDS.get(next(iter(arguments), ""))}
    extras = ["build", *sorted(extra for extra in wanted if extra is not None)]
    return shlex.join(["pip", "install", f"kbuild[{','.join(extras)}]"])


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
