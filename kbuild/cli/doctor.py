"""``kbuild doctor``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kbuild.cli.checks import Check, Patient, examine
from kbuild.cli.config import ProjectConfig, env_option, find_project, project_config, tracking_uri
from kbuild.cli.options import json_option
from kbuild.errors import ConfigurationError, EnvironmentUnfit
from kbuild.process import run
from kbuild.training.trigger import make_site

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command("doctor")
@env_option
@json_option
def command(as_json: bool) -> None:
    """Look at everything that kbuild needs, and say what is wrong and what to type.

    The exit code is 0 unless something is found that stops the work; a warning does not.
    """
    checks = []
    for check in examine(_patient()):
        checks.append(check)
        if not as_json:
            _show(check)
    if as_json:
        click.echo(json.dumps([asdict(check) | {"hint": _hint(check)} for check in checks]))
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        raise EnvironmentUnfit(f"{len(failed)} of {len(checks)} checks failed: {', '.join(dict.fromkeys(failed))}")


def _patient() -> Patient:
    problem = None
    try:
        config = project_config()
    except ConfigurationError as error:
        config, problem = ProjectConfig(root=_root()), error
    site = make_site(config, tracking_uri(config, Path.cwd()))
    return Patient(config=config, problem=problem, site=site, run=run, environ=os.environ)


def _root() -> Path | None:
    try:
        return find_project(Path.cwd())
    except ConfigurationError:
        return None  # pyproject.toml itself is at fault, and is told as such


def _show(check: Check) -> None:
    """One row at a time: some checks take seconds, and somebody waits."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=4)
    table.add_column(width=13)
    table.add_column(overflow="fold")
    table.add_row(Text(check.status, style=_STYLES[check.status]), check.name, Text(check.detail))
    hint = _hint(check)
    if hint is not None:
        table.add_row("", "", Text(f"→ {hint}", style="bold"))
    Console(highlight=False).print(table)


def _hint(check: Check) -> str | None:
    return None if check.status == "ok" else check.hint
