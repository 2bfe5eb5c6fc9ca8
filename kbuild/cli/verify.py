"""``kbuild verify``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from kbuild.cli.config import env_option
from kbuild.cli.find import found_image
from kbuild.cli.options import json_option, make_tools
from kbuild.cli.show import Show
from kbuild.errors import VerificationFailed
from kbuild.verify.image import verify_image
from kbuild.verify.tags import write_verdict


@click.command("verify")
@click.argument("image")
@click.option("--timeout", type=click.FloatRange(min=1), default=120.0, show_default=True, help="Seconds to get ready.")
@env_option
@json_option
def command(image: str, timeout: float, as_json: bool) -> None:
    """Start IMAGE, ask it the model's own input example, compare with the prediction recorded in training, stop it.

    IMAGE is what "kbuild run" takes. The exit code is 0 when the answers are equal.
    """
    show = Show()
    tools, config = make_tools(show)
    with found_image(image, tools, config) as (built, reference):
        try:
            with show("verify") as progress:
                report = verify_image(
                    built, reference, tools.run, cache=tools.cache, timeout=timeout, progress=progress
                )
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


def _tell_untagged(show: Show, untagged: str | None) -> None:
    if untagged is not None:
        show.say(f"the verdict is not written to MLflow: {untagged}", style="yellow")
