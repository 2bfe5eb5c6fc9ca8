"""Names of images that are made from what is known of their models."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from kbuild.errors import InvalidReference
from kbuild.image.oci.reference import ImageReference
from kbuild.model.bundle import ModelBundle

PLACEHOLDERS = ("name", "version", "run_id", "model_id")
"""What may stand in braces: the model's name, its registered version, its run, its own id."""

# Written by MLflow into the download of a registered model: which version it was, an alias resolved.
_REGISTERED = "registered_model_meta"
_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_SAMPLE = {"name": "name", "version": "1", "run_id": "0", "model_id": "0"}


def check_name(text: str) -> ImageReference:
    """What ``text`` is like once it is filled in; raises InvalidReference, before any work, for what never can be."""
    return fill_name(text, _SAMPLE)


def has_placeholder(text: str) -> bool:
    """Whether several models can get different names from it."""
    return _PLACEHOLDER.search(text) is not None


def fill_name(text: str, values: Mapping[str, str | None]) -> ImageReference:
    """The reference that ``text`` means for one model; raises InvalidReference where the model lacks a value."""
    for name in _PLACEHOLDER.findall(text):
        if not values.get(name):
            raise InvalidReference(
                f"{text!r}: the model has no {name.replace('_', ' ')}",
                hint="use another placeholder: " + ", ".join(f"{{{each}}}" for each in PLACEHOLDERS),
            )
    return ImageReference.parse(_PLACEHOLDER.sub(lambda match: str(values[match[1]]), text))


def name_values(bundle: ModelBundle) -> dict[str, str | None]:
    """What placeholders stand for; ``name`` is the registered one where the model came from there, else its own."""
    meta = _registered(bundle)
    name = re.sub("[^a-z0-9]+", "-", str(meta.get("model_name") or bundle.facts.name or "").lower()).strip("-")
    version = meta.get("model_version")
    return {
        "name": name or None,
        "version": None if version is None else str(version),
        "run_id": bundle.facts.run_id,
        "model_id": bundle.facts.model_id,
    }


def _registered(bundle: ModelBundle) -> Mapping[str, object]:
    try:
        value = yaml.safe_load((bundle.root / _REGISTERED).read_bytes())
    except (OSError, yaml.YAMLError):
        return {}  # no download of a registered model
    return value if isinstance(value, dict) else {}
