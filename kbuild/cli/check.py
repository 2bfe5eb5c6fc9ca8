"""``kedro kbuild check``: only a Kedro project has pipelines to look at, so ``kbuild`` itself has no such command."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from kbuild.errors import PreflightFailed
from kbuild.project.config import find_project
from kbuild.recording.preflight.project import Checked, check_project
from kbuild.untrusted import folded


@click.command("check", short_help="Say what would fail a training at its end, before it.")
@click.option("--pipeline", "-p", "names", multiple=True, help="A registered pipeline; repeat.  [default: all]")
@click.option("--env", "-e", help="Kedro's configuration environment.")
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice(["data", "stores"]),
    help="data: no file has to be there yet; stores: ask no server, write nowhere. Repeat for both.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(names: tuple[str, ...], env: str | None, skip: tuple[str, ...], as_json: bool) -> None:
    """Say what would fail the project's trainings at their end, without training: all of it, each with a remedy.

    "kedro run" asks the same before its first node. The exit code is 0 when nothing is found, else 8.
    """
    start = Path.cwd()
    with _kedro_silent():
        checked = check_project(
            find_project(start) or start, env=env, names=names, data="data" not in skip, stores="stores" not in skip
        )
    if as_json:
        click.echo(json.dumps(_to_json(checked)))
    else:
        for pipeline, finding in checked.findings:
            text = f"{pipeline}: {finding}" if pipeline else str(finding)
            click.echo(folded(text, sys.stdout, indent=2))
        for note in checked.notes:
            click.echo(folded(note, sys.stderr, indent=2), err=True)
    looked_at = f"in {', '.join(checked.pipelines)}" if checked.pipelines else "where pipelines are registered"
    if checked.findings:
        raise PreflightFailed(f"{len(checked.findings)} found {looked_at}")
    if not as_json:
        click.echo(f"Nothing found {looked_at}", err=True)


@contextmanager
def _kedro_silent() -> Iterator[None]:
    """Without what Kedro logs and warns of while it loads the project: the answer is one line below many of these."""
    warnings.filterwarnings("ignore", module=r"kedro\.")
    before = logging.root.manager.disable
    logging.disable(max(before, logging.INFO))
    try:
        yield
    finally:
        logging.disable(before)


def _to_json(checked: Checked) -> dict[str, object]:
    findings = [
        {
            "pipeline": pipeline or None,
            "about": finding.about,
            "problem": finding.error.message,
            "remedy": finding.error.hint,
            "exit_code": finding.error.exit_code,
        }
        for pipeline, finding in checked.findings
    ]
    return {"pipelines": list(checked.pipelines), "findings": findings, "notes": list(checked.notes)}
