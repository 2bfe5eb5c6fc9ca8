"""``kedro kbuild …``: kbuild's commands for a project, where Kedro's users look for them.

The entry point is of Kedro's group ``kedro.project_commands``, see Kedro's documentation on plugins. Commands are
imported when they are called, since every ``kedro`` command of a project imports this module. Kedro may write lines
of its own to stdout before a command begins: scripts that read the answer there call ``kbuild`` itself.
"""

from __future__ import annotations

import importlib

import click

from kbuild.cli.listed import COMMANDS
from kbuild.cli.suggesting import Suggesting
from kbuild.errors import ExtraNotInstalled

# Those of the kbuild program that are about the project at hand, and three that only a project can have.
_COMMANDS = {
    "audit": "kbuild.cli.audit",
    "check": "kbuild.cli.check",
    "image": "kbuild.cli.image",
    "init": "kbuild.cli.init",
    "modelify": "kbuild.cli.modelify",
    "ui": "kbuild.cli.ui",
}


class _ProjectGroup(Suggesting):
    """The same commands as of the kbuild program, with its one-line errors and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        try:
            command: click.Command = importlib.import_module(_COMMANDS[cmd_name]).command
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] == "kbuild":
                raise
            return _make_stub(cmd_name, error.name)
        listed = COMMANDS.get(cmd_name)
        if listed is not None and command.short_help is None:
            command.short_help = listed.summary  # the program's own list has it, too
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001  the last place: no traceback may reach a user
            from kbuild.cli.app import report

            return ctx.exit(report(error))


def _make_stub(name: str, missing: str) -> click.Command:
    """Stands for a command whose packages are not installed, so that the others can still be listed and called."""

    def refuse() -> None:
        raise ExtraNotInstalled(f"kbuild's build tools are not installed ({missing} is missing)")

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    text = f"(not installed: {ExtraNotInstalled.default_hint})"
    return click.Command(name, callback=refuse, help=text, context_settings=settings)


@click.group(name="kbuild")
def commands() -> None:
    """The group that Kedro merges into its own."""


@commands.group(name="kbuild", cls=_ProjectGroup)
def kbuild_group() -> None:
    """Model and image of this project: audit, check, image, init, modelify, ui."""
