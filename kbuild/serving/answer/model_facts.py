"""What the MLmodel says of the model, for pages and for warming up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbuild.answers import DEFAULT, Tolerance


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the MLmodel says of the model; columns and params as MLflow's JSON signature has them."""

    mlflow_version: str
    model_id: str | None
    run_id: str | None
    inputs: list[dict[str, Any]] | None
    outputs: list[dict[str, Any]] | None
    params: list[dict[str, Any]] | None
    example: bytes | None
    recorded: bytes | None
    tolerance: Tolerance = DEFAULT
    name: str | None = None


def make_facts(
    mlmodel: Mapping[str, Any], signature: Mapping[str, Any], folder: Path, mlflow_version: str | None
) -> Facts:
    """From a parsed MLmodel and its parsed signature; raises ValueError for a tolerance that is none."""
    example = (mlmodel.get("saved_input_example_info") or {}).get("serving_input_path")
    record = (mlmodel.get("metadata") or {}).get("kbuild") or {}
    return Facts(
        mlflow_version=str(mlflow_version),
        model_id=mlmodel.get("model_id"),
        run_id=mlmodel.get("run_id"),
        inputs=signature.get("inputs"),
        outputs=signature.get("outputs"),
        params=signature.get("params"),
        example=_content(folder, example),
        recorded=_content(folder, record.get("prediction")),
        tolerance=Tolerance.from_json(record.get("tolerance")),
        name=record.get("registered_as") or mlmodel.get("artifact_path"),
    )


def read_facts(loaded: Any, folder: Path) -> Facts:
    """From a loaded PyFuncModel and its folder."""
    import mlflow

    metadata = loaded.metadata
    stated = {} if metadata.signature is None else metadata.signature.to_dict()
    signature = {side: None if text is None else json.loads(text) for side, text in stated.items()}
    mlmodel = {
        "model_id": getattr(metadata, "model_id", None),
        "run_id": metadata.run_id,
        "artifact_path": metadata.artifact_path,
        "saved_input_example_info": metadata.saved_input_example_info,
        "metadata": metadata.metadata,
    }
    return make_facts(mlmodel, signature, folder, str(mlflow.__version__))


def _content(folder: Path, name: str | None) -> bytes | None:
    file = None if name is None else folder / name
    return file.read_bytes() if file is not None and file.is_file() else None
