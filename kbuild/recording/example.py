"""The signature and the input example of a model, from the data it was trained on and the parameters of its run."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kbuild.errors import KbuildError, RecordingError

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

    from kbuild.training.pyfunc import KedroPipelineModel

_SCALARS = (bool, int, float, str, datetime.datetime)
_NO_DATA_HINT = "pass signature and input_example in log_model_kwargs, or signature=None to log without"


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """MLflow's signature and input example, either of which the user may have refused (None)."""

    signature: ModelSignature | None
    input_example: Any


def make_example(
    model: KedroPipelineModel, data: Any, *, has_data: bool, log_model_kwargs: Mapping[str, Any], rows: int
) -> Example:
    """Infer what the user did not give: ``signature`` and ``input_example`` are "auto" unless in ``log_model_kwargs``.

    ``model`` has its artifacts loaded; ``data`` is the training input, where ``has_data``. The signature's inputs come
    of all data, its outputs of the example, its parameters of the run's.
    Raises RecordingError when there is nothing to infer from, or the pipeline cannot answer its own training data.
    """
    given = log_model_kwargs.get("input_example", "auto")
    example = given
    if _is_auto(given):
        example = take_rows(data, rows) if has_data and rows else None
    elif given is False:
        example = None
    signature = log_model_kwargs.get("signature", "auto")
    if not _is_auto(signature):
        return Example(signature=signature or None, input_example=example)
    if not has_data:
        data = example[0] if isinstance(example, tuple) else example
    if data is None:
        raise RecordingError(
            f"no data of the inference input {model.input_name!r} is left to infer the model's signature from",
            hint=f"give {model.input_name!r} a file in the catalog; or {_NO_DATA_HINT}",
        )
    asked = take_rows(data, max(rows, 1))
    return Example(signature=_infer(model, data, asked if asked is not None else data), input_example=example)


def take_rows(data: Any, rows: int) -> Any:
    """The first rows of a table, array or list; other values whole; None for what MLflow cannot keep as example."""
    if isinstance(data, pd.DataFrame):
        return data.head(rows).reset_index(drop=True)
    if isinstance(data, np.ndarray | list):
        return data[:rows]
    if isinstance(data, dict | str | bytes | bool | int | float):
        return data
    return None


def get_signature_parameters(model: KedroPipelineModel, values: Mapping[str, Any]) -> dict[str, Any]:
    """The run's parameters that MLflow can put into a signature: scalars, and lists of scalars of one type."""
    parameters = {name: values[f"params:{name}"] for name in model.parameter_names}
    return {name: value for name, value in parameters.items() if _fits_signature(value)}


def _fits_signature(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and len({type(each) for each in value}) == 1 and isinstance(value[0], _SCALARS)
    return isinstance(value, _SCALARS)


def _is_auto(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value == "auto")


def _infer(model: KedroPipelineModel, data: Any, asked: Any) -> ModelSignature:
    from mlflow.exceptions import MlflowException
    from mlflow.models import infer_signature

    try:
        output = model.predict(None, asked)
    except KbuildError:
        raise
    except Exception as error:  # the nodes are the user's code, which may raise anything
        notes = " ".join(getattr(error, "__notes__", []))
        raise RecordingError(
            f"the inference pipeline fails on its own training data: {type(error).__name__}: {error} {notes}".strip(),
            hint="run the inference pipeline by itself: kedro run --pipelines <its name>",
        ) from error
    with warnings.catch_warnings():
        # MLflow advises against integer columns; here they are what the model was trained on.
        warnings.filterwarnings("ignore", message=".*integer column", category=UserWarning)
        try:
            return infer_signature(data, output, get_signature_parameters(model, model.loaded_inputs) or None)
        except MlflowException as error:
            kinds = f"{type(data).__name__} to {type(output).__name__}"
            raise RecordingError(
                f"MLflow cannot infer a signature ({kinds}): {error.message}", hint=_NO_DATA_HINT
            ) from error
