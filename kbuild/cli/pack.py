"""``kbuild pack``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from kbuild.api.packing import pack
from kbuild.api.request import BuildOptions
from kbuild.cli.options import build_options, json_option, open_here, optional_model_argument
from kbuild.cli.show import Show


@click.command("pack")
@optional_model_argument
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("model.tar.gz"),
    show_default=True,
    help="Where to write it; its name ends with .tar.gz, .tar.zst or .tar.",
)
@click.option("--no-cache", is_flag=True, help="Pack again even if this very plan was packed before.")
@build_options
@json_option
def command(model: str | None, output: Path, no_cache: bool, as_json: bool, **options: Any) -> None:
    """Pack MODEL with its Python and packages into one archive, and print its path and digest.

    It holds what the image holds, from the same files, and runs from whatever folder it is unpacked to, on any Linux of
    its platform with a C library no older than the base's: bin/kbuild-score IN OUT scores tables, bin/python is the
    model's Python. Packed again, anywhere, it has the same bytes.
    """
    show = Show()
    result = pack(model, output, BuildOptions(**options), no_cache=no_cache, session=open_here(show))
    # Of one that is packed now the phase has told it.
    size = f"{result.size / 1e6:.0f} MB; " if result.reused else ""
    show.say(f"{size}it runs wherever it is unpacked")
    folder = shlex.quote(result.path.name.partition(".")[0] or "model")
    show.next(
        {
            f"mkdir {folder} && tar -xf {shlex.quote(str(result.path))} -C {folder}": "unpack it",
            f"{folder}/bin/kbuild-score IN OUT": "score tables",
        }
    )
    told = {
        "path": str(result.path),
        "digest": str(result.digest),
        "size": result.size,
        "model_digest": str(result.model_digest),
        "lock_digest": str(result.lock_digest),
        "plan_digest": str(result.plan_digest),
        "reused": result.reused,
        "seconds": show.seconds,
    }
    click.echo(json.dumps(told) if as_json else f"{result.path}\t{result.digest}")
