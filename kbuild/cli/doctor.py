"""``kbuild doctor``."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from kbuild.api.project import ProjectConfig, find_project, tracking_uri
from kbuild.cli.config import env_option, project_config
from kbuild.cli.options import cache_folder, json_option
from kbuild.doctor.checks import Examined, Patient, examine
from kbuild.errors import ConfigurationError, EnvironmentUnfit
from kbuild.hooks.start_trigger import make_site
from kbuild.process import run
from kbuild.untrusted import folded

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_COLUMN = 19  # where what is told of a check begins


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
    uri = tracking_uri(config, Path.cwd())
    site = make_site(config, uri)
    return Patient(
        config=config, tracking=uri, cache=cache_folder(), problem=problem, site=site, run=run, environ=os.environ
    )


def _root() -> Path | None:
    try:
        return find_project(Path.cwd())
    except ConfigurationError:
        return None  # pyproject.toml itself is at fault, and is told as such


def _show(check: Examined) -> None:
    """One row at a time: some checks take seconds, and somebody waits."""
    row = folded(f"{check.status:<4} {check.name:<13} {check.detail}", sys.stdout, indent=_COLUMN)
    click.echo(click.style(row[:4], fg=_COLOURS[check.status]) + row[4:])
    hint = _hint(check)
    if hint is not None:
        click.echo(folded(f"{'':<{_COLUMN}}-> {hint}", sys.stdout, indent=_COLUMN + 3))


def _hint(check: Examined) -> str | None:
    return None if check.status == "ok" else check.hint
