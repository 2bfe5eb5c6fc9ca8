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
    text = _write_records(predictions)
    if text is not None:
        return f'{{"predictions": {text}}}'.encode()
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


def _write_records(table: Any) -> str | None:
    """``to_dict(orient="records")`` as JSON, for a table of numbers and truth values; None for any other."""
    if type(table) is not pd.DataFrame or not table.size:
        return None
    names = table.columns.tolist()
    if len({*names}) != len(names) or any(type(name) is not str for name in names):
        return None
    # Extension types have dtypes of another class, and a missing value of their own.
    if not all(type(kind).__module__.startswith("numpy") and kind.kind in "fiub" for kind in table.dtypes):
        return None
    # A column at a time takes half as long as a dict a row: no number's text has the separator in it.
    columns = [json.dumps(table[name].tolist())[1:-1].split(", ") for name in names]
    row = "{" + ", ".join(json.dumps(name).replace("%", "%%") + ": %s" for name in names) + "}"
    return f"[{', '.join(map(row.__mod__, zip(*columns, strict=True)))}]"
