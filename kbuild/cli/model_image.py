"""``kbuild image --as model``."""

from __future__ import annotations

import json

import click
from click.core import ParameterSource

from kbuild.api.packing import image_of_files
from kbuild.api.request import ImageOptions
from kbuild.cli.options import open_here
from kbuild.cli.show import Show

_MEANT = {
    "model",
    "kind",
    "as_json",
    "tag",
    "output",
    "load",
    "push",
    "base",
    "platform",
    "labels",
    "compression",
    "no_cache",
    "env",
}


def image_of_model(model: str | None, options: ImageOptions, *, as_json: bool) -> None:
    """Build it, say where it is, and print name@digest; raises click's UsageError for options of what serves."""
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name not in _MEANT and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} is of images that serve; --as model has files alone")
    show = Show()
    made = image_of_files(model, options, session=open_here(show))
    kept = f"pushed as {made.pushed}" if made.pushed else "kept on this machine"
    show.say(f"{made.image.size / 1e6:.0f} MB, the model's files in /models; {kept}")
    told = {
        "reference": made.reference,
        "digest": str(made.digest),
        "image_id": str(made.image.config_digest),
        "layout": str(made.layout),
        "model_digest": str(made.model_digest),
        "size": made.image.size,
        "pushed": made.pushed,
        "seconds": show.seconds,
        "platforms": {
            str(platform): {"digest": str(image.digest), "image_id": str(image.config_digest), "size": image.size}
            for platform, image in ({} if made.index is None else made.index.images).items()
        },
    }
    click.echo(json.dumps(told) if as_json else made.reference)
