"""Models for the scoring server's tests, in memory or saved, with the signatures that requests can meet."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # MLflow and Kedro warn of their own type hints and dependencies while they are imported.
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.pyfunc.scoring_server
    import pandas as pd
    from kedro.io import DataCatalog, MemoryDataset
    from kedro.pipeline import Pipeline, node
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.pyfunc.model import _PythonModelPyfuncWrapper

from kbuild.training.pyfunc import KedroPipelineModel

MIXED = {"x": "double", "n": "long", "flag": "boolean", "text": "string"}
NUMBERS = {"a": "double", "b": "float", "c": "long"}
ONE = {"only": "double"}
OPTIONAL = {"x": "double", "maybe": "double"}
DATED = {"x": "double", "when": "datetime", "blob": "binary", "small": "integer"}
PARAMS = [
    {"name": "scale", "default": 2.0, "shape": None, "type": "double"},
    {"name": "times", "default": 3, "shape": None, "type": "long"},
    {"name": "word", "default": "é", "shape": None, "type": "string"},
]
SIGNATURES: dict[str, Any] = {
    "mixed": (MIXED, PARAMS),
    "numbers": (NUMBERS, None),
    "scored": (NUMBERS, PARAMS),
    "one": (ONE, None),
    "optional": (OPTIONAL, None),
    "dated": (DATED, None),
    "tensor": ("tensor", None),
    "bare": (None, None),
}


def echo(table: Any, scale: float, times: int, word: str) -> Any:
    """Tells what came in: values, dtypes, order, index; so a table that was read otherwise is answered otherwise."""
    if not isinstance(table, pd.DataFrame):
        return {"type": type(table).__name__, "text": str(table)}
    told = table.copy()
    if "n" in told and (told["n"] == 13).any():
        raise ValueError("13 is not served")
    for name in table.columns:
        told[f"{name} dtype"] = str(table[name].dtype)
    told["index"] = [str(value) for value in table.index]
    told["params"] = f"{scale!r} {times!r} {word!r}"
    if len(table.columns) == 3:
        # Numbers alone, so that the short way writes the answer too.
        return table.assign(sum=table.sum(axis=1) * scale, big=table["c"] > 1)
    return told


def make_kedro_model(folder: Path, func: Callable[..., Any] = echo, **kwargs: Any) -> KedroPipelineModel:
    """A loaded model of one node, which gets the table and PARAMS; ``folder`` keeps its params."""
    catalog = DataCatalog({f"params:{param['name']}": MemoryDataset(param["default"]) for param in PARAMS})
    names = ["table", *(f"params:{param['name']}" for param in PARAMS)]
    pipeline = Pipeline([node(func, names, "told", name="echo")])
    folder.mkdir(parents=True, exist_ok=True)
    return KedroPipelineModel(pipeline=pipeline, catalog=catalog, input_name="table", **kwargs)


def make_signature(name: str) -> ModelSignature | None:
    """One of SIGNATURES."""
    types, params = SIGNATURES[name]
    if types is None:
        return None
    if types == "tensor":
        return ModelSignature.from_dict(
            {"inputs": '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'}
        )
    columns = [
        {"name": column, "type": kind, "required": not (name == "optional" and column == "maybe")}
        for column, kind in types.items()
    ]

    told = {"inputs": json.dumps(columns)}
    if params:
        told["params"] = json.dumps(params)
    return ModelSignature.from_dict(told)


def make_model(name: str, folder: Path, func: Callable[..., Any] = echo) -> Any:
    """A PyFuncModel as ``mlflow.pyfunc.load_model`` gives it, without the disk in between."""
    python_model = make_kedro_model(folder, func)
    python_model.load_artifacts(python_model.extract_pipeline_artifacts(folder))
    signature = make_signature(name)
    flavors = {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "x"}}
    meta = Model(signature=signature, flavors=flavors)
    wrapper = _PythonModelPyfuncWrapper(python_model, None, signature)
    return mlflow.pyfunc.PyFuncModel(model_meta=meta, model_impl=wrapper)


def save_model(name: str, folder: Path, **kwargs: Any) -> None:
    """The same as an MLflow model in ``folder``."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    python_model = make_kedro_model(folder.parent / "params", **kwargs)
    mlflow.pyfunc.save_model(
        folder,
        python_model=python_model,
        artifacts=python_model.extract_pipeline_artifacts(folder.parent / "params"),
        signature=make_signature(name),
        pip_requirements=["mlflow"],
    )
