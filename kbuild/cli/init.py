"""``kbuild init``."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import click

from kbuild._version import __version__
from kbuild.cli.config import env_option, find_project, project_config
from kbuild.cli.project_files import CI_KINDS, Change, InitRequest, apply, make_files, plan_changes
from kbuild.errors import ConfigurationError
from kbuild.project.config import read_pyproject
from kbuild.trigger.trigger_settings import LocalTrigger


@click.command("init")
@click.option("--push", metavar="REFERENCE", help="Where jobs push, such as registry.example/churn:{run_id}.")
@click.option("--trigger", type=click.Choice(["none", "local"]), help="In kbuild.yml.  [default: as it is, else none]")
@click.option(
    "--ci", "kinds", multiple=True, type=click.Choice(CI_KINDS), help="Only these jobs; repeat.  [default: all]"
)
@click.option("--python", metavar="VERSION", help="Python of the jobs.  [default: the one running here]")
@click.option("--install", metavar="REQUIREMENT", help="What jobs install kbuild from.  [default: this version]")
@click.option("--dry-run", is_flag=True, help="Print the diff and write nothing.")
@click.option("--force", is_flag=True, help="Also overwrite files that were edited.")
@env_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    push: str | None,
    trigger: str | None,
    kinds: tuple[str, ...],
    python: str | None,
    install: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write kbuild.yml and the jobs for GitHub, GitLab and any shell into the Kedro project of this folder.

    Files that were edited are kept, and shown with what would change; a second time nothing changes.
    """
    root = find_project(Path.cwd())
    if root is None or "kedro" not in read_pyproject(root):
        raise ConfigurationError("there is no Kedro project here", hint="go to the folder of its pyproject.toml")
    config = project_config()
    is_local = isinstance(config.trigger, LocalTrigger)
    request = InitRequest(
        push=push or config.push,
        trigger=trigger or ("local" if is_local else "none"),
        python=python or ".".join(platform.python_version_tuple()[:2]),
        install=install or f"kbuild[build]=={__version__}",
        kinds=kinds or CI_KINDS,
    )
    changes = plan_changes(root, make_files(request), force=force)
    for change in changes:
        if change.diff:
            click.echo(change.diff, nl=False, err=not dry_run or as_json)
    if not dry_run:
        apply(root, changes)
    _tell(changes, dry_run=dry_run, as_json=as_json)


def _tell(changes: list[Change], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({change.path: change.action for change in changes}))
    for change in changes:
        if change.action == "kept":
            click.echo(f"{change.path} was edited and is kept; {change.advice}", err=True)
        elif not as_json and not dry_run:
            click.echo(f"{change.action} {change.path}")
