"""Names of images that are made from what is known of their models."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kbuild.errors import InvalidReference
from kbuild.image.oci.image_reference import ImageReference
from kbuild.model.bundle import ModelBundle
from kbuild.model.model_reference import ModelReference

PLACEHOLDERS = ("name", "version", "run_id", "model_id")
"""What may stand in braces: the model's name, its registered version, its run, its own id."""

_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_LISTED = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
_SAMPLE = {"name": "name", "version": "1", "run_id": "0", "model_id": "0"}


def check_name(text: str) -> ImageReference:
    """What ``text`` is like once it is filled in; raises InvalidReference, before any work, for what never can be."""
    other = re.search(r"\{\w*\}", _PLACEHOLDER.sub("", text))
    if other is not None:
        raise InvalidReference(f"{text!r}: {other[0]} is not a placeholder", hint=f"there are {_LISTED}")
    return fill_name(text, _SAMPLE)


def check_push(text: str) -> None:
    """As ``check_name`` for a place to push to: a registry alone, which reads as a repository of docker.io, is none."""
    check_name(text)
    host = text.partition(":")[0]
    if "/" not in text and (host == "localhost" or "." in host):
        raise InvalidReference(f"{text!r} names a registry, and no repository of it", hint=f"--push {text}/NAME")


def has_placeholder(text: str) -> bool:
    """Whether several models can get different names from it."""
    return _PLACEHOLDER.search(text) is not None


def names_version(text: str | None) -> bool:
    """Whether a registered version is part of the name."""
    return text is not None and "{version}" in text


def fill_name(text: str, values: Mapping[str, str | None]) -> ImageReference:
    """The reference that ``text`` means for one model; raises InvalidReference where the model lacks a value."""
    for name in _PLACEHOLDER.findall(text):
        if not values.get(name):
            raise InvalidReference(
                f"{text!r}: the model has no {name.replace('_', ' ')}",
                hint=_instead(name, values),
            )
    return ImageReference.parse(_PLACEHOLDER.sub(lambda match: str(values[match[1]]), text))


def name_values(bundle: ModelBundle, reference: ModelReference) -> dict[str, str | None]:
    """What placeholders stand for; ``name`` and ``version`` are the registered ones of a reference that names them."""
    name = reference.name if reference.kind == "registered" else bundle.facts.name
    return make_values(name=name, version=reference.version, run_id=bundle.facts.run_id, model_id=bundle.facts.model_id)


def make_values(
    *, name: str | None, version: str | None, run_id: str | None, model_id: str | None
) -> dict[str, str | None]:
    """The values by their placeholders; of a name what an image's may have."""
    plain = re.sub("[^a-z0-9]+", "-", (name or "").lower()).strip("-")
    return {"name": plain or None, "version": version, "run_id": run_id, "model_id": model_id}


def _instead(lacking: str, values: Mapping[str, str | None]) -> str:
    others = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS if each != lacking and values.get(each))
    use = f"use {others}" if others else "write it out"
    return f"{use}, or name the registered model: models:/NAME, models:/NAME@ALIAS" if lacking == "version" else use
