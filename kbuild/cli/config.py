"""The project that a command is started in."""

from __future__ import annotations

from pathlib import Path

import click

from kbuild.api.project import ProjectConfig, read_project_config

_ENV = "kbuild.env"


def _keep_env(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    ctx.meta[_ENV] = value


env_option = click.option(
    "--env",
    "-e",
    envvar="KEDRO_ENV",
    metavar="NAME",
    expose_value=False,
    callback=_keep_env,
    help="Kedro environment whose conf/NAME/kbuild.yml counts.  [default: local]",
)
"""For every command that calls ``project_config``, which finds what was chosen."""


def project_config() -> ProjectConfig:
    """Of the project the command was started in, in the environment that ``--env`` names."""
    context = click.get_current_context(silent=True)
    return read_project_config(Path.cwd(), None if context is None else context.meta.get(_ENV))
