"""``kbuild inspect``."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from kbuild.api.find import existing_image, no_image
from kbuild.cache.folder import using_cache
from kbuild.cli.config import env_option
from kbuild.cli.options import image_argument, json_option, make_tools, platform_option
from kbuild.cli.show import Show
from kbuild.errors import ImageNotFound
from kbuild.image.compare.contents import read_config
from kbuild.image.engine import BuiltImage
from kbuild.image.oci.layout import read_manifest
from kbuild.image.store.listing import list_here
from kbuild.platform import Platform
from kbuild.untrusted import plain

_BAR = 20  # signs of the largest layer's bar


@click.command("inspect")
@image_argument
@platform_option
@env_option
@json_option
def command(image: str | None, platform: Platform | None, as_json: bool) -> None:
    """What IMAGE says of itself: digest, platform, what it starts, labels, annotations, layers and their sizes.

    IMAGE is a name or digest that "kbuild image" printed, an OCI layout or its tar; without one it is the image that
    was built here last. Of one in a registry only the manifest and the config are fetched.
    """
    tools, _ = make_tools(Show())
    if image is None:
        built = list_here(tools.cache / "images")
        if not built:
            raise ImageNotFound("no image was built here yet", hint="build one with: kbuild image")
        image = str(built[0].digest)
    with using_cache(tools.cache, limit=tools.cache_limit), existing_image(image, tools, platform) as found:
        if found is None:
            raise no_image(image, tools)
        facts = _facts(found[0])
    click.echo(json.dumps(facts) if as_json else plain(_text(facts)))


def _facts(image: BuiltImage) -> dict[str, Any]:
    platform, config = read_config(image.layout, image.digest)
    manifest = read_manifest(image.layout, image.digest)
    return {
        "digest": str(image.digest),
        "config_digest": str(image.config_digest),
        "platform": str(platform),
        "size": image.size,
        "entrypoint": config.get("Entrypoint"),
        "user": config.get("User"),
        "labels": config.get("Labels") or {},
        "annotations": dict(manifest.annotations),
        "layers": [
            {
                "digest": str(layer.digest),
                "diff_id": str(layer.diff_id),
                "size": layer.size,
                "created_by": layer.created_by,
            }
            for layer in image.layers
        ],
    }


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{key:<14} {facts[key]}" for key in ("digest", "config_digest", "platform")]
    lines.append(f"{'size':<14} {facts['size'] / 1e6:.1f} MB packed, in {len(facts['layers'])} layers")
    lines += [f"{key:<14} {facts[key]}" for key in ("entrypoint", "user")]
    for kind in ("labels", "annotations"):
        # Most annotations say what the label of that name says, for tools that read no config.
        known = {} if kind == "labels" else facts["labels"]
        told = [(key, value) for key, value in sorted(facts[kind].items()) if known.get(key) != value]
        lines += [kind, *(f"  {key}={value}" for key, value in told)]
    lines.append("layers")
    largest = max((each["size"] for each in facts["layers"]), default=0) or 1
    sign = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
    for each in facts["layers"]:
        bar = sign * max(1, round(_BAR * each["size"] / largest))
        lines.append(f"  {each['digest'][:19]} {each['size'] / 1e6:8.1f} MB  {bar:<{_BAR}}  {each['created_by']}")
    return "\n".join(lines)
