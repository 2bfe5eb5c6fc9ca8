"""What is served, for ``/metadata`` and ``kbuild_model_info``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from kbuild._version import __version__
from kbuild.serving.answer.model_facts import Facts

# What the build writes into the image's environment, and what whoever runs it may add.
_VARIABLES = {
    "model_uri": "KBUILD_MODEL_URI",
    "model_digest": "KBUILD_MODEL_DIGEST",
    "lock_digest": "KBUILD_LOCK_DIGEST",
    "image_digest": "KBUILD_IMAGE_DIGEST",
    "slim": "KBUILD_SLIM",
}


def make_info(facts: Facts, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What is known, by names that are fit for labels; what is unknown is left out."""
    known = {
        "kbuild": __version__,
        "mlflow": facts.mlflow_version,
        "model_id": facts.model_id,
        "run_id": facts.run_id,
        **{name: environment.get(variable) for name, variable in _VARIABLES.items()},
    }
    return {name: value for name, value in known.items() if value}


def name_model(facts: Facts, environment: Mapping[str, str] = os.environ) -> tuple[str, str | None]:
    """Name and version: as KBUILD_MODEL_NAME, KBUILD_MODEL_VERSION and KBUILD_MODEL_URI have them, else as the MLmodel
    does, which was written before a registry numbered it."""
    uri = environment.get("KBUILD_MODEL_URI", "")
    registered, _, version = uri.removeprefix("models:/").partition("/") if uri.startswith("models:/") else ("", "", "")
    name = environment.get("KBUILD_MODEL_NAME") or (registered if version else "") or facts.name or "model"
    return name, environment.get("KBUILD_MODEL_VERSION") or version or facts.model_id


def make_metadata(facts: Facts, environment: Mapping[str, str] = os.environ) -> bytes:
    """``make_info`` and the signature, as JSON."""
    signature = {"inputs": facts.inputs, "outputs": facts.outputs, "params": facts.params}
    return json.dumps({**make_info(facts, environment), "signature": signature}).encode()
