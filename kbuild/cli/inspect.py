"""``kbuild inspect``."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from kbuild.api.inspecting import Inspected, inspect
from kbuild.audit.sizes.measure import layer_name
from kbuild.audit.sizes.values import LayerSize
from kbuild.cli.bars import layer_lines, size_lines
from kbuild.cli.config import env_option
from kbuild.cli.options import complete_either, json_option, open_here, platform_option
from kbuild.cli.show import SHORT, Show
from kbuild.offered.change import short_digests
from kbuild.plan.make import LABEL_SIGNATURE
from kbuild.platform import Platform
from kbuild.progress import how_many
from kbuild.tracking.image_tags import Tag
from kbuild.untrusted import BrokenText, folded, parse_json, plain

_COLUMN = 14
# The image's own digest, and a name with one: name@sha256:1234 is none.
_NAMED = re.compile(r"(?P<name>(?P<indent> *)[^=]+?)(?: +|=)(?P<value>\S+)")
_SHOWN_DEFAULT = 60  # characters


@click.command("inspect")
@click.argument("image", metavar="[IMAGE|MODEL]", required=False, shell_complete=complete_either)
@click.option(
    "--packages/--no-packages", default=None, help="Sizes by package.  [default: where the image's layers are here]"
)
@click.option("--all", "every", is_flag=True, help="Every package, not only the largest.")
@platform_option
@env_option
@json_option
def command(image: str | None, packages: bool | None, every: bool, platform: Platform | None, as_json: bool) -> None:
    """What IMAGE says of itself: digest, platform, what it starts, labels, layers, and which packages make it large.

    IMAGE is a name or digest that "kbuild image" printed, an OCI layout or its tar; without one it is the image that
    was built here last. Of one in a registry only the manifest and the config are fetched, with --packages its layers,
    too. Of a MODEL it tells what was recorded in training, and which image its run names.
    """
    show = Show()
    found = inspect(image, packages=packages, platform=platform, session=open_here(show))
    if as_json:
        click.echo(json.dumps(found.facts))
    elif found.kind == "model":
        click.echo(_fitted(_model_lines(found.facts)))
        _tell_next(image or "", found.facts, show)
    else:
        named = [_line("name", ", ".join(found.names))] if found.names else []
        click.echo(_fitted([*named, *_image_lines(found.facts)]))
        click.echo("\n".join(_sizes(found, every=every)))
        if found.sizes is None and packages is None:
            show.say("its layers are in a registry; --packages fetches them and tells sizes by package")


def _fitted(lines: Iterable[str]) -> str:
    """As they are for a file or a pipe; a terminal that is too narrow shows the first figures of digests and ids, but
    of what names an image, which somebody may paste, all."""
    text = plain("\n".join(lines))
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    shown = []
    for line in text.split("\n"):
        named = _NAMED.fullmatch(line)
        if len(line) > width and named and (named["name"] == "digest" or "@sha256:" in named["value"]):
            shown += [named["name"], f"{named['indent']}  {named['value']}"]
        else:
            told = line if len(line) <= width else short_digests(line)
            shown.append(folded(told, sys.stdout, indent=_COLUMN + 1))
    return "\n".join(shown)


def _image_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    for key in ("digest", "config_digest", "platform"):
        yield _line(key.replace("_", " "), facts[key])
    unpacked = "" if facts["unpacked"] is None else f", {facts['unpacked'] / 1e6:.1f} MB unpacked"
    yield _line("size", f"{facts['size'] / 1e6:.1f} MB packed{unpacked}, in {how_many(len(facts['layers']), 'layer')}")
    starts = facts["entrypoint"]
    yield _line("entrypoint", shlex.join(map(str, starts)) if isinstance(starts, list) else starts)
    yield _line("user", facts["user"])
    yield from _said(facts)
    served = _signature(facts["labels"].get(LABEL_SIGNATURE))
    yield from _columns(served)
    for kind in ("labels", "annotations"):
        # Most annotations say what the label of that name says, for tools that read no config.
        known = {} if kind == "labels" else facts["labels"]
        told = [(key, value) for key, value in sorted(facts[kind].items()) if known.get(key) != value]
        told = [(key, value) for key, value in told if key != LABEL_SIGNATURE or not served]
        yield from [kind, *(f"  {key}={value}" for key, value in told)] if told else []


def _said(facts: Mapping[str, Any]) -> Iterator[str]:
    """What commands of this machine said of it; nothing of what none did."""
    date = f", {facts['audit_date']}" if facts["audit_date"] else ""
    told = {
        "of": ", ".join(f"models:/{each}" for each in facts["models"]),
        "verified": facts["verified"],
        "built again": facts["rebuilt"],
        "audit": facts["audit"] and f"{facts['audit']}{date}",
        "pushed to": ", ".join(facts["pushed"]),
    }
    yield from (_line(name, value) for name, value in told.items() if value)


def _sizes(found: Inspected, *, every: bool) -> list[str]:
    if found.sizes is not None:
        return size_lines(found.sizes, every=every)
    layers = [
        LayerSize(digest=each["digest"], name=layer_name(each["created_by"]), packed=each["size"], packages=())
        for each in found.facts["layers"]
    ]
    return layer_lines(layers, unpacked=False)


def _model_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    for key in ("model", "model_digest", "run", "logged", "python", "mlflow"):
        if facts[key] is not None:
            yield _line(key.replace("_", " "), facts[key])
    yield _line("flavors", ", ".join(facts["flavors"]))
    yield _line("size", f"{facts['size'] / 1e6:.1f} MB in {how_many(facts['files'], 'file')}")
    yield from _columns(facts["signature"] or {})
    if facts["tags"]:
        yield "its run says"
        yield from (f"  {key}={value}" for key, value in sorted(facts["tags"].items()))


def _columns(signature: Mapping[str, Any]) -> Iterator[str]:
    for part, columns in signature.items():
        told = [each for each in columns if isinstance(each, dict)] if isinstance(columns, list) else []
        yield from [part, *(f"  {each.get('name', '-')}: {_type(each)}" for each in told)] if told else []


def _signature(label: str | None) -> Mapping[str, Any]:
    """What the label holds; empty where an image says something else under its name, which is shown as it is."""
    try:
        held = parse_json(label or "{}")
    except BrokenText:
        return {}
    return held if isinstance(held, dict) and any(_columns(held)) else {}


def _type(column: Mapping[str, Any]) -> str:
    needed = "" if column.get("required", True) else ", may be left out"
    kind = column["tensor-spec"] if column.get("type") == "tensor" and "tensor-spec" in column else column.get("type")
    if "default" not in column:
        return f"{kind}{needed}"
    value = json.dumps(column["default"], ensure_ascii=False)
    shown = value if len(value) <= _SHOWN_DEFAULT else f"{value[:_SHOWN_DEFAULT]}…"
    return f"{'list of ' if column.get('shape') else ''}{kind}, else {shown}"


def _tell_next(typed: str, facts: Mapping[str, Any], show: Show) -> None:
    digest = str(facts["tags"].get(Tag.IMAGE_DIGEST) or "")
    if digest:
        show.next({f"kbuild inspect {digest[: len('sha256:') + SHORT]}": "the image that its run names"})
    else:
        show.next({f"kbuild image {shlex.quote(typed)}": "build its image"})


def _line(name: str, value: object) -> str:
    return f"{name:<{_COLUMN}} {'' if value is None else value}".rstrip()
