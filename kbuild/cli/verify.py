"""``kbuild verify``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from kbuild.cli.config import ProjectConfig, env_option
from kbuild.cli.find import found_image
from kbuild.cli.options import json_option, make_tools
from kbuild.cli.show import Show
from kbuild.errors import OutputError, VerificationFailed
from kbuild.image.cache import using_cache
from kbuild.verify.image import verify_image
from kbuild.verify.tags import write_verdict
from kbuild.workflow import Tools


@click.command("verify")
@click.argument("image")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds to get ready.")
@click.option("--rebuild", is_flag=True, help="Do not start it: build it again from its lock and model, and compare.")
@click.option("--reuse-downloads", is_flag=True, help="With --rebuild: take packages from the cache, checked again.")
@click.option(
    "--report", "proof", type=click.Path(path_type=Path), help="With --rebuild: write what was found as JSON."
)
@env_option
@json_option
def command(
    image: str, timeout: float, rebuild: bool, reuse_downloads: bool, proof: Path | None, as_json: bool
) -> None:
    """Start IMAGE, ask it the model's own input example, compare with the prediction recorded in training, stop it.

    IMAGE is what "kbuild run" takes. The exit code is 0 when the answers are equal.

    With --rebuild nothing is started: what the image says it was made from is built again in a clean cache, and the
    exit code is 0 when that gives the same digest.
    """
    show = Show()
    tools, config = make_tools(show)
    if rebuild:
        _rebuild(image, tools, config, show, reuse_downloads=reuse_downloads, report=proof, as_json=as_json)
        return
    with using_cache(tools.cache), found_image(image, tools, config) as (built, reference):
        try:
            with show("verify") as progress:
                report = verify_image(built, tools.run, cache=tools.cache, timeout=timeout, progress=progress)
        except VerificationFailed:
            _tell_untagged(show, write_verdict(built, "failed", tools.store))
            raise
        _tell_untagged(show, write_verdict(built, "passed" if report.compared else "answered", tools.store))
    if report.compared:
        show.say("the image predicts what the trained model did")
    else:
        show.say("the image answers; the model recorded no prediction to compare with", style="yellow")
    click.echo(
        json.dumps({"image": f"{reference.familiar}", "digest": str(built.digest), **asdict(report)})
        if as_json
        else str(built.digest)
    )


def _rebuild(
    image: str,
    tools: Tools,
    config: ProjectConfig,
    show: Show,
    *,
    reuse_downloads: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    from kbuild.cli.rebuild import rebuild

    with using_cache(tools.cache), found_image(image, tools, config) as (built, reference):
        verdict = rebuild(built, tools, config, show, reuse_downloads=reuse_downloads)
    text = json.dumps({"name": reference.familiar, **verdict.to_json()}, indent=None if report is None else 2)
    if report is not None:
        write_report(report, text)
    click.echo(text if as_json else verdict.diff.to_text().rstrip() if not verdict.same else str(built.digest))
    if not verdict.same:
        raise VerificationFailed(
            f"building {verdict.claims.model} again gives {verdict.diff.after}, not {verdict.diff.before}",
            hint="what differs is printed; another version of kbuild's tools may explain it (see the report)",
        )
    show.say("built again from its lock and model, it has the same digest")


def write_report(path: Path, text: str) -> None:
    """Write a report; raises OutputError."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _tell_untagged(show: Show, untagged: str | None) -> None:
    if untagged is not None:
        show.say(f"the verdict is not written to MLflow: {untagged}", style="yellow")
