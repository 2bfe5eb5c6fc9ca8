"""``kbuild lock``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from kbuild.api.building import lock
from kbuild.api.request import LockOptions, check_named_base
from kbuild.api.session import pin_model
from kbuild.cli.options import base_option, json_option, lock_options, open_here, optional_model_argument
from kbuild.cli.show import Show


@click.command("lock")
@optional_model_argument
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("conda-lock.yml"),
    show_default=True,
    help="Where to write the lockfile.",
)
@base_option
@click.option("--force", is_flag=True, help="Resolve again even if a fresh lock is there.")
@lock_options
@json_option
def command(model: str | None, output: Path, base: str | None, force: bool, as_json: bool, **options: Any) -> None:
    """Pin every package of MODEL by url and sha256, at the versions it was trained with.

    The lockfile is conda-lock's; it is also stored with the run and used by "kbuild image" while nothing changes.
    """
    show = Show()
    asked = LockOptions(**options)
    session = open_here(show)
    check_named_base(base or session.config.base)
    pinned = pin_model(model, session)
    locked = lock(pinned, asked, output=output, base=base, force=force, session=session)
    managers = [package.manager for package in locked.lockfile.packages]
    show.say(f"{managers.count('conda')} conda and {managers.count('pip')} pip packages, each by url and sha256")
    given = "" if model is None else f" {shlex.quote(model)}"
    show.next(
        {
            f"kbuild image{given} --locked": "build the image of exactly these",
            f"kbuild audit {shlex.quote(str(output))}": "what is wrong with them",
        }
    )
    result = {
        "lockfile": str(output),
        "model": pinned,
        "digest": str(locked.lockfile.digest),
        "packages": len(managers),
        "origin": locked.origin,
        "seconds": show.seconds,
    }
    click.echo(json.dumps(result) if as_json else str(output))
