"""``kbuild verify``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import click

from kbuild.api.find import existing_index, found_image
from kbuild.api.project import ProjectConfig
from kbuild.api.verifying import VerifyOptions, tell_untagged, verify
from kbuild.cache.folder import using_cache
from kbuild.cli.config import env_option
from kbuild.cli.options import image_argument, json_option, open_here, platform_option
from kbuild.cli.show import SHORT, Show
from kbuild.errors import OutputError, PackedOtherwise, VerificationFailed
from kbuild.image.engine import BuiltImage
from kbuild.platform import Platform
from kbuild.untrusted import plain
from kbuild.verify.rebuild import RebuildReport
from kbuild.verify.verdict_tag import write_rebuild_verdict
from kbuild.workflow import Tools

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
    if exact and (rtol is not None or atol is not None):
        raise click.UsageError("--exact allows no difference: leave out --rtol and --atol")

    show = Show()
    session = open_here(show)
    tools, config = session.tools, session.config
    if rebuild:
        from kbuild.api.rebuild import rebuild as build_again

        def again(built: BuiltImage) -> RebuildReport:
            report = build_again(
                built, tools, config, show, reuse_downloads=reuse_downloads, model=model, lockfile=lockfile
            )
            untagged = write_rebuild_verdict(built, report.verdict, tools.store)
            if model is None:
                tell_untagged(session, untagged)
            return report

        _rebuild(image, tools, config, show, platform, again, report=proof, as_json=as_json)
        return
    if model is not None or lockfile is not None:
        raise click.UsageError("--model and --lockfile are for --rebuild")
    asked = VerifyOptions(timeout=timeout, rtol=rtol, atol=atol, exact=exact, platform=platform)
    verified = verify(image, asked, session=session)
    report = verified.report
    if report.compared:
        show.say(f"the image predicts what the trained model did, {report.tolerance}")
        if report.verdict != "passed":
            kept = f"the model's own tolerance ({report.own}) it does not keep"
            show.complain(f"{kept}: its run is tagged {report.verdict!r}, not 'passed'", style="yellow")
        show.say(f"largest difference: {report.largest or 'none, every value is equal'}")
    else:
        show.say("the image answers; the model recorded no prediction to compare with", style="yellow")
    name = f"sha256:{verified.digest.hex[:SHORT]}"
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


def _rebuild(
    image: str | None,
    tools: Tools,
    config: ProjectConfig,
    show: Show,
    platform: Platform | None,
    again: Callable[[BuiltImage], RebuildReport],
    *,
    report: Path | None,
    as_json: bool,
) -> None:
    with (
        using_cache(tools.cache, limit=tools.cache_limit),
        nullcontext() if image is None else existing_index(image, tools) as index,
    ):
        if index is not None and platform is None:
            verdicts = {str(each): again(built) for each, built in index.images.items()}
            value = {
                "name": image,
                "image": str(index.digest),
                "same": all(verdict.same for verdict in verdicts.values()),
                "platforms": {each: verdict.to_json() for each, verdict in verdicts.items()},
            }
            digest = str(index.digest)
        else:
            with found_image(image, tools, config, show, platform) as (built, reference):
                verdicts = {str(platform or ""): again(built)}
            value = {"name": reference.familiar, **next(iter(verdicts.values())).to_json()}
            digest = str(built.digest)
    text = json.dumps(value, indent=None if report is None else 2)
    if report is not None:
        write_report(report, text)
    differing = [verdict for verdict in verdicts.values() if verdict.verdict == "differs"]
    repacked = [verdict for verdict in verdicts.values() if verdict.verdict == "repacked"]
    differences = "\n".join(verdict.diff.to_text(everything=True).rstrip() for verdict in differing)
    click.echo(text if as_json else plain(differences) or digest)
    if differing:
        first = differing[0]
        raise VerificationFailed(
            f"building {first.claims.model} again gives {first.diff.after}, not {first.diff.before}",
            hint="what differs is printed; another version of kbuild's tools may explain it (see the report)",
        )
    if repacked:
        theirs, ours = (text or "a packer that it does not name" for text in repacked[0].packed_by)
        raise PackedOtherwise(
            f"same content, packed otherwise by {theirs}: {repacked[0].diff.before}; here {ours} gives"
            f" {repacked[0].diff.after}",
            hint="every file, label and setting is equal; build it anew to have the digest that others get",
        )
    show.say("built again from its lock and model, it has the same digest")


def write_report(path: Path, text: str) -> None:
    """Write a report; raises OutputError."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
