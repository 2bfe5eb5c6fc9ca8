"""``kbuild image --as model`` and ``--as modelpack``."""

from __future__ import annotations

import json

import click
from click.core import ParameterSource

from kbuild.api.packing import image_of_files, modelpack
from kbuild.api.request import ImageOptions
from kbuild.cli.options import open_here
from kbuild.cli.show import Show

_OF_BOTH = {"model", "kind", "as_json", "tag", "output", "push", "labels", "compression", "no_cache", "env"}
_OF_IMAGES = _OF_BOTH | {"load", "base", "platform"}


def image_of_model(model: str | None, options: ImageOptions, *, as_json: bool) -> None:
    """Build it, say where it is, and print name@digest; raises click's UsageError for options of what serves."""
    _check_options(_OF_IMAGES, "images that serve; --as model has files alone")
    show = Show()
    made = image_of_files(model, options, session=open_here(show))
    kept = f"pushed as {made.pushed}" if made.pushed else "kept on this machine"
    show.say(f"{made.image.size / 1e6:.1f} MB, the model's files in /models; {kept}")
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


def modelpack_of_model(model: str | None, options: ImageOptions, *, as_json: bool) -> None:
    """The same of an artifact."""
    _check_options(_OF_BOTH, "images; --as modelpack is none")
    show = Show()
    made = modelpack(model, options, session=open_here(show))
    where = [text for text in (made.pushed and f"pushed as {made.pushed}", made.layout and str(made.layout)) if text]
    show.say(f"{made.size / 1e6:.1f} MB, the model's files as a ModelPack artifact; {', '.join(where)}")
    told = {
        "reference": made.reference,
        "digest": str(made.digest),
        "config_digest": str(made.config_digest),
        "layout": None if made.layout is None else str(made.layout),
        "model_digest": str(made.model_digest),
        "size": made.size,
        "pushed": made.pushed,
        "seconds": show.seconds,
    }
    click.echo(json.dumps(told) if as_json else made.reference)


def _check_options(meant: set[str], told: str) -> None:
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        if option.name not in meant and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} is of {told}")
