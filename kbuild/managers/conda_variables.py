"""Variables that a model's environment sets and an image does not (``variables`` of conda's environment.yml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def unset_variables(conda_env: Mapping[str, Any]) -> str | None:
    """What to say of them, None where there are none.

    conda sets them when an environment is activated, which nothing does in an image: a variable can name code to load,
    so that none goes into one by the way of a model's file.
    """
    variables = conda_env.get("variables")
    if not isinstance(variables, Mapping) or not variables:
        return None
    names = ", ".join(sorted(map(str, variables)))
    return (
        f"variables of the conda environment are not set in the image: {names}; where the model needs them, give them"
        " to the container (-e, kbuild run --variable) or state them with ENV in a template of your own"
    )
