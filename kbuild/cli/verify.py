"""``kbuild verify``."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from kbuild.api.verifying import VerifiedImage, VerifyOptions, verify
from kbuild.cli.config import env_option
from kbuild.cli.options import image_argument, json_option, open_here, platform_option
from kbuild.cli.show import SHORT, Show
from kbuild.errors import OutputError
from kbuild.platform import Platform
from kbuild.untrusted import plain

if TYPE_CHECKING:
    from kbuild.api.rebuilding import Rebuilt

_LIMIT = click.FloatRange(min=0)


@click.command("verify")
@image_argument
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds to get ready.")
@click.option("--rebuild", is_flag=True, help="Do not start it: build it again from its lock and model, and compare.")
@click.option("--reuse-downloads", is_flag=True, help="With --rebuild: take packages from the cache, checked again.")
@click.option(
    "--report", "proof", type=click.Path(path_type=Path), help="With --rebuild: write what was found as JSON."
)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="FOLDER",
    help="With --rebuild: the folder of the model, for an image of one that no run has.",
)
@click.option(
    "--lockfile",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --rebuild: the lock it was built with, where neither the run nor this machine keeps it.",
)
@click.option("--rtol", type=_LIMIT, help="Relative difference of floats.  [default: the model's own, else 1e-6]")
@click.option("--atol", type=_LIMIT, help="Absolute difference of floats.  [default: the model's own, else 1e-9]")
@click.option("--exact", is_flag=True, help="Allow no difference, not of one bit.")
@platform_option
@env_option
@json_option
def command(
    image: str | None,
    timeout: float,
    rtol: float | None,
    atol: float | None,
    exact: bool,
    rebuild: bool,
    reuse_downloads: bool,
    proof: Path | None,
    model: Path | None,
    lockfile: Path | None,
    platform: Platform | None,
    as_json: bool,
) -> None:
    """Start IMAGE, ask it the model's own input example, compare with the prediction recorded in training, stop it.

    IMAGE is what "kbuild run" takes. The exit code is 0 when the answers are the same: structure, types, texts and
    integers exactly, floats within --rtol and --atol, since the processor here is not the one that trained. Without
    them it is what the project set for its models ([tool.kbuild.training] tolerance). The run's tag kbuild.verify says
    "passed" by that tolerance alone, and "tolerated: within ..." where only wider options allow the answer.

    With --rebuild nothing is started: what the image says it was made from is built again in a clean cache, and the
    exit code is 0 when that gives the same digest, 53 when it gives the same content and only another compressor packed
    it; of an image index every platform's image, unless one is named.
    """
    if not all(math.isfinite(limit) for limit in (rtol or 0.0, atol or 0.0)):
        raise click.UsageError("--rtol and --atol are numbers: any answer would do, or none")
    told = click.get_current_context().get_parameter_source("timeout") is ParameterSource.COMMANDLINE
    if rebuild and (told or exact or rtol is not None or atol is not None):
        raise click.UsageError("--rebuild starts nothing: leave out --timeout, --rtol, --atol and --exact")
    if not rebuild and (reuse_downloads or proof is not None):
        raise click.UsageError("--reuse-downloads and --report are for --rebuild")
    if exact and (rtol is not None or atol is not None):
        raise click.UsageError("--exact allows no difference: leave out --rtol and --atol")

    show = Show()
    session = open_here(show)
    if rebuild:
        from kbuild.api.rebuilding import RebuildOptions
        from kbuild.api.rebuilding import rebuild as build_again

        options = RebuildOptions(reuse_downloads=reuse_downloads, model=model, lockfile=lockfile, platform=platform)
        _show_rebuilt(build_again(image, options, session=session), show, report=proof, as_json=as_json)
        return
    if model is not None or lockfile is not None:
        raise click.UsageError("--model and --lockfile are for --rebuild")
    asked = VerifyOptions(timeout=timeout, rtol=rtol, atol=atol, exact=exact, platform=platform)
    # One platform's image of several has no name of its own.
    typed = image if platform is None else None
    _show_verified(verify(image, asked, session=session), show, typed=typed, as_json=as_json)


def _show_verified(verified: VerifiedImage, show: Show, *, typed: str | None, as_json: bool) -> None:
    report = verified.report
    if report.compared:
        if report.verdict != "passed":
            kept = f"the model's own tolerance ({report.own}) it does not keep"
            show.complain(f"{kept}: its run is tagged {report.verdict!r}, not 'passed'", style="yellow")
        show.say(f"largest difference: {report.largest or 'none, every value is equal'}")
    else:
        show.say("the model recorded no prediction to compare with", style="yellow")
    name = shlex.quote(typed or f"sha256:{verified.digest.hex[:SHORT]}")
    show.next(
        {
            f"kbuild run {name}": "serve it here",
            f"kbuild verify {name} --rebuild": "does building it again give the same bytes?",
        }
    )
    click.echo(
        json.dumps(
            {"image": verified.image, "digest": str(verified.digest), "verdict": report.verdict, **asdict(report)}
        )
        if as_json
        else str(verified.digest)
    )


def _show_rebuilt(rebuilt: Rebuilt, show: Show, *, report: Path | None, as_json: bool) -> None:
    told = rebuilt.to_json()
    if report is not None:
        write_report(report, json.dumps(told, indent=2))
    differing = [each for each in rebuilt.reports.values() if each.verdict == "differs"]
    differences = "\n".join(each.diff.to_text(everything=True).rstrip() for each in differing)
    click.echo(json.dumps(told) if as_json else plain(differences) or str(rebuilt.digest))
    rebuilt.raise_for_verdict()
    show.say("built again from its lock and model, it has the same digest")


def write_report(path: Path, text: str) -> None:
    """Write a report; raises OutputError."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
