"""Predictions to the bytes that ``mlflow.pyfunc.scoring_server.predictions_to_json`` would write, without MLflow.

MLflow writes with ``json.dump``, which is Python code; ``json.dumps`` gives the same text from C.
"""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import numpy as np
import pandas as pd

_TIMES = (datetime.date, datetime.datetime, datetime.time)


def write_predictions(predictions: Any) -> bytes:
    """``{"predictions": …}``; raises TypeError for what only MLflow knows how to write, or nobody."""
    records = _records(predictions)
    if records is not None:
        return json.dumps({"predictions": records}, check_circular=False).encode()
    return json.dumps({"predictions": _plain(predictions)}, cls=_Encoder).encode()


def _plain(predictions: Any) -> Any:
    """``mlflow.utils.proto_json_utils._get_jsonable_obj``."""
    if isinstance(predictions, np.ndarray):
        return predictions.tolist()
    if isinstance(predictions, pd.Series):
        predictions = pd.DataFrame(predictions)
    return predictions.to_dict(orient="records") if isinstance(predictions, pd.DataFrame) else predictions


class _Encoder(json.JSONEncoder):
    """``mlflow.utils.proto_json_utils.NumpyEncoder``, but for arrays of bytes and pydantic's models."""

    def default(self, o: Any) -> Any:
        if isinstance(o, np.ndarray):
            if o.dtype == object:
                return [_convert(value) for value in o.tolist()]
            if o.dtype.kind == "S":
                raise TypeError
            return o.tolist()
        made = _convert(o)
        return super().default(o) if made is o else made


def _convert(value: Any) -> Any:
    """The value itself where it is none of MLflow's."""
    if isinstance(value, np.ndarray):
        return _Encoder().default(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes | bytearray):
        return base64.encodebytes(value).decode("ascii")
    return value.isoformat() if isinstance(value, _TIMES) else value


def _records(table: Any) -> list[dict[str, Any]] | None:
    """``to_dict(orient="records")`` for a table of numbers and truth values; None for any other."""
    if type(table) is not pd.DataFrame:
        return None
    names = table.columns.tolist()
    if len({*names}) != len(names) or any(type(name) is not str for name in names):
        return None
    # Extension types have dtypes of another class, and a missing value of their own.
    if not all(type(kind).__module__.startswith("numpy") and kind.kind in "fiub" for kind in table.dtypes):
        return None
    return [dict(zip(names, row, strict=True)) for row in zip(*(table[name].tolist() for name in names), strict=True)]
