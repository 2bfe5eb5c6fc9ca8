"""Loading a model of kbuild's own from its files, without importing MLflow.

What it does is what ``mlflow.pyfunc.load_model`` does for such a model (``mlflow/pyfunc/__init__.py`` and
``mlflow/pyfunc/model.py``). A model with anything else in its MLmodel is left to MLflow.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from kbuild.serving.answer.fast import FastPath, plan_fast_path
from kbuild.serving.answer.model_facts import Facts, make_facts

# With these MLflow refuses to load what is pickled, in words of its own.
_REFUSALS = ("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "MLFLOW_ALLOW_MODEL_CODE_EXECUTION")
# The one in C, where PyYAML was built with it, is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLAVOR_KEYS = {
    "artifacts", "cloudpickle_version", "code", "env", "loader_module", "python_model", "python_version", "streamable",
}  # fmt: skip
_SIDES = ("inputs", "outputs", "params")
_DISTRIBUTIONS = ("mlflow", "mlflow-skinny")


@dataclass(frozen=True, kw_only=True, slots=True)
class LeanModel:
    """What serving needs of a model: its facts, and the short way to its predictions."""

    facts: Facts
    fast: FastPath


def load_lean(folder: Path, environment: Mapping[str, str] = os.environ) -> LeanModel | None:
    """The model in ``folder``, None where only MLflow can load it or answer for it.

    Raises whatever the model's code raises.
    """
    try:
        from kbuild.served.pipeline import load_served
    except ImportError:
        return None  # the model carries an older kbuild
    if any(name in environment for name in _REFUSALS):
        return None
    described = _read_plain(folder)
    if described is None:
        return None
    flavor, artifacts, signature, mlmodel = described
    if flavor.get("code"):
        # Where MLflow puts it, and once more when MLflow loads the model too.
        sys.path.insert(0, str(folder / flavor["code"]))
    model = load_served(folder / flavor["python_model"], artifacts)
    fast = None if model is None else plan_fast_path(model, signature["inputs"], signature["params"])
    if fast is None:
        return None
    return LeanModel(facts=make_facts(mlmodel, signature, folder, _mlflow_version()), fast=fast)


_Described = tuple[dict[str, Any], dict[str, str], dict[str, Any], dict[str, Any]]


def _read_plain(folder: Path) -> _Described | None:
    """The pyfunc flavor, its artifacts' paths, the signature as MLflow's JSON has it, and the MLmodel.

    None where any of them has something that is not known here.
    """
    try:
        mlmodel = yaml.load((folder / "MLmodel").read_text("utf-8"), _LOADER)  # noqa: S506  both are safe loaders
        flavor = mlmodel["flavors"]["python_function"]
        artifacts = {name: str(folder / each["path"]) for name, each in (flavor.get("artifacts") or {}).items()}
        signature = {side: _parse(mlmodel["signature"].get(side)) for side in _SIDES}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None  # MLflow says what is wrong
    plain = (
        flavor.keys() <= _FLAVOR_KEYS
        and flavor.get("loader_module") == "mlflow.pyfunc.model"
        and isinstance(flavor.get("python_model"), str)
        and not flavor.get("streamable")
        and not mlmodel.get("is_signature_from_type_hint")
        and not mlmodel.get("type_hint_from_example")
        and not (mlmodel.get("metadata") or {}).get("mlflow.model.isExternal")
        and _mlflow_version() is not None
    )
    return (flavor, artifacts, signature, mlmodel) if plain else None


def _parse(text: str | None) -> Any:
    return None if not text else json.loads(text)


def _mlflow_version() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
