"""Predictions to the bytes that ``mlflow.pyfunc.scoring_server.predictions_to_json`` would write.

MLflow writes with ``json.dump``, which is Python code; ``json.dumps`` gives the same text from C.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd


def write_predictions(predictions: Any, encoder: type[json.JSONEncoder], plain: Any) -> bytes:
    """``{"predictions": …}``; ``encoder`` and ``plain`` are MLflow's NumpyEncoder and _get_jsonable_obj."""
    records = _records(predictions)
    if records is not None:
        return json.dumps({"predictions": records}, check_circular=False).encode()
    return json.dumps({"predictions": plain(predictions, pandas_orient="records")}, cls=encoder).encode()


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
