"""``kbuild image``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from kbuild.cli.options import (
    build_options,
    compression_option,
    engine_option,
    json_option,
    make_image_request,
    make_tools,
    model_argument,
)
from kbuild.cli.show import Show
from kbuild.image.oci.reference import ImageReference
from kbuild.workflow import Delivery, ImageResult, build_image, fill_push


@click.command("image")
@model_argument
@click.option("--tag", "-t", help="Name of the image, such as churn:1.")
@engine_option
@build_options
@compression_option
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Also write an OCI layout folder, or FILE.tar.")
@click.option("--load", is_flag=True, help="Also load it into the Docker engine.")
@click.option(
    "--push",
    metavar="REFERENCE",
    help="Also push it, such as to registry.example/churn:1; {run_id} and {model_id} are filled in.",
)
@click.option("--no-cache", is_flag=True, help="Build again even if this very plan was built before.")
@json_option
def command(
    model: str,
    tag: str | None,
    engine: str,
    output: Path | None,
    load: bool,
    push: str | None,
    no_cache: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build the image that serves MODEL and print name@digest.

    MODEL is a run id, runs:/ID/NAME, models:/NAME/VERSION, models:/NAME@ALIAS or a model folder.
    """
    show = Show()
    tools, config = make_tools(show)
    request = make_image_request(config, model, engine, options)
    delivery = Delivery(
        tag=parse_tag(tag or config.tag),
        output=output,
        load=load,
        push=push,
    )
    if push is not None:
        fill_push(push, "0", "0")  # what is no reference is told before the work, not after it
    result = build_image(request, delivery, tools, reuse=not no_cache)
    if result.reused:
        show.say("nothing has changed since this image was built (--no-cache builds again)")
    if result.untagged is not None:
        show.say(f"the run is not tagged with this image: {result.untagged}", style="yellow")
    click.echo(json.dumps(to_json(result, show.seconds)) if as_json else result.reference)


def parse_tag(text: str | None) -> ImageReference | None:
    """The name that an image is to have; raises InvalidReference."""
    return None if text is None else ImageReference.parse(text)


def to_json(result: ImageResult, seconds: dict[str, float]) -> dict[str, Any]:
    """The object that ``--json`` prints; sizes in bytes."""
    return {
        "reference": result.reference,
        "digest": str(result.image.digest),
        "image_id": str(result.image.config_digest),
        "layout": str(result.layout),
        "engine": result.image.engine,
        "model_digest": str(result.model_digest),
        "lock_digest": str(result.lock_digest),
        "plan_digest": str(result.plan.digest),
        "size": result.image.size,
        "layers": [
            {"digest": str(layer.digest), "diff_id": str(layer.diff_id), "size": layer.size, "by": layer.created_by}
            for layer in result.image.layers
        ],
        "pushed": result.pushed,
        "tagged": result.untagged is None,
        "seconds": seconds,
    }
