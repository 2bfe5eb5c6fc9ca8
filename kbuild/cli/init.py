"""``kbuild init``."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import sys
from pathlib import Path

import click

from kbuild.cli.config import env_option, project_config
from kbuild.errors import ConfigurationError
from kbuild.image.deliver.naming import check_push
from kbuild.init.installed import InstallSource, find_install_source, find_project_install, read_direct_url
from kbuild.init.project_files import (
    CI_KINDS,
    JOBS,
    SCRIPT,
    USUAL,
    FileChange,
    InitRequest,
    accepted_until,
    apply,
    make_files,
    plan_changes,
)
from kbuild.process import run
from kbuild.project.config import find_project, read_pyproject
from kbuild.trigger.trigger_settings import LocalTrigger
from kbuild.untrusted import folded

_ACCEPTED = datetime.timedelta(days=180)
"""How long the policy that is written accepts what it names."""


@click.command("init")
@click.option("--push", metavar="REFERENCE", help="Where jobs push, such as registry.example/churn:{run_id}.")
@click.option("--trigger", type=click.Choice(["none", "local"]), help="In kbuild.yml.  [default: as it is, else none]")
@click.option(
    "--ci",
    "kinds",
    multiple=True,
    type=click.Choice(CI_KINDS),
    help="Which; repeat.  [default: github, gitlab, shell]",
)
@click.option("--python", metavar="VERSION", help="Python of the jobs.  [default: the one running here]")
@click.option(
    "--install", metavar="REQUIREMENT", help="What jobs install.  [default: kbuild from where this one came from]"
)
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
    """Write kbuild.yml and the jobs that build after training into the Kedro project of this folder.

    GitHub and GitLab start theirs themselves; all run the same ci/kbuild.sh, which any other system can start, too.

    .gitignore gets the lines that it lacks for what runs leave in the project.

    Files that were edited are kept, and shown with what would change; a second time nothing changes.
    """
    root = find_project(Path.cwd())
    if root is None or "kedro" not in read_pyproject(root):
        raise ConfigurationError("there is no Kedro project here", hint="go to the folder of its pyproject.toml")
    config = project_config()
    if push := push or config.push:
        check_push(push)
    is_local = isinstance(config.trigger, LocalTrigger)
    source = find_install_source(root, run=run, direct_url=read_direct_url())
    today = datetime.datetime.now(datetime.UTC).date()
    request = InitRequest(
        push=push,
        trigger=trigger or ("local" if is_local else "none"),
        python=python or ".".join(platform.python_version_tuple()[:2]),
        install=install or source.requirement,
        project=find_project_install(root),
        expires=accepted_until(root) or today + _ACCEPTED,
        # Somebody's own policy stays the only one.
        policy=not any(place.startswith("pyproject.toml") for place, _ in config.audit),
        kinds=kinds or USUAL,
    )
    changes = plan_changes(root, make_files(request), force=force)
    for change in changes:
        # What is new is named below, and can be read where it lies.
        if change.diff and (dry_run or change.action != "created"):
            click.echo(change.diff, nl=False, err=not dry_run or as_json)
    if not dry_run:
        apply(root, changes)
    _tell(changes, dry_run=dry_run, as_json=as_json)
    if not as_json and not dry_run:
        told = (
            f"next: kedro run, then sh {SCRIPT} @latest, which is what the jobs run; kbuild doctor says what is missing"
        )
        click.echo(folded(told, sys.stderr, indent=2), err=True)
    changed = {change.path for change in changes if change.action in ("created", "updated")}
    if install is None and source.local is not None and changed & {*JOBS}:
        _tell_local(source)


def _tell_local(source: InstallSource) -> None:
    told = (
        f"kbuild is installed from {source.local} here, which other machines do not have; give their jobs what pip can "
        "reach, such as:"
    )
    click.echo(folded(told, sys.stderr, indent=2), err=True)
    click.echo(f"  kbuild init --install {shlex.quote(source.instead)}", err=True)


def _tell(changes: list[FileChange], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({change.path: change.action for change in changes}))
    for change in changes:
        if change.action == "kept":
            told = f"{change.path} was edited and is kept; {change.advice}"
            click.echo(folded(told, sys.stderr, indent=2), err=True)
        elif not as_json and not dry_run:
            click.echo(f"{change.action} {change.path}")
