"""A signature that the input survives: inferred by MLflow, and seen to bring what training knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from kbuild.errors import PredictionError, RecordingError
from kbuild.recording.input.delivery import deliver, find_change, silent_mlflow, without_spark_connect
from kbuild.recording.input.dicts import carry_rows, find_names, find_witnesses
from kbuild.recording.input.forms import carry, describe, find_any

if TYPE_CHECKING:
    from mlflow.types import Schema

_HINT = (
    "pass a signature and an input_example of tables in log_model_kwargs, and let the first inference node make of "
    "them what the pipeline needs"
)
_ROWS = ("records", "mapping", "tables")


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """How a request brings the input: its form, MLflow's schema of it, and the example as MLflow is to keep it.

    ``given`` is what the first node gets when that example is posted.
    """

    form: dict[str, Any] | None
    schema: Schema | None
    example: Any
    given: Any


def make_carried(data: Any, known: Any) -> Carried:
    """For the training input ``data`` and its example ``known``, which is to arrive as it is.

    Raises RecordingError saying what no request can bring, or what changes on the way, and nothing else.
    """
    try:
        return _make_carried(data, known, True)
    except RecordingError:
        raise
    except Exception as error:  # of pandas, NumPy, MLflow and the classes of the values: there is no end of kinds
        raise RecordingError(
            f"no request can bring the inference input, a {type(data).__name__}: {_text(error)}"
            f"{_find_column(data, known)}",
            hint=_HINT,
        ) from error


def _find_column(data: Any, known: Any) -> str:
    """Of a table, the first column that fails by itself as well, as words to add."""
    if not isinstance(data, pd.DataFrame) or not isinstance(known, pd.DataFrame):
        return ""
    for place, label in enumerate(data.columns):
        if data.shape[1] > 1:
            try:
                _make_carried(data.iloc[:, [place]], known.iloc[:, [place]], False)
                continue
            except Exception:  # noqa: BLE001, S110  which of them it is, is all that is asked
                pass
        return f" (it is the column {label!r})"
    return ""


def _make_carried(data: Any, known: Any, strict: bool) -> Carried:
    form = describe(data)
    problem = ""
    for attempt in (_infer, _infer_any):
        tried = attempt(form, data, known)
        if tried is None:
            break
        schema, example = tried
        if _is_empty(known):
            return Carried(form=form, schema=schema, example=example, given=known)
        try:
            given = deliver(example, schema, form)
        except Exception as error:  # noqa: BLE001  MLflow raises anything of what it was not made for
            problem = problem or f"it raises {_text(error)}{_find_column(data, known)}"
            continue
        change = (find_change(known, given) or _find_late_change(form, schema, data, example)) if strict else None
        if change is None:
            return Carried(form=form, schema=schema, example=example, given=given)
        problem = change or problem
    raise RecordingError(f"MLflow does not hand on the inference input as training knows it: {problem}", hint=_HINT)


def _find_late_change(form: dict[str, Any] | None, schema: Schema, data: Any, example: Any) -> str | None:
    """What a request changes in dicts that come after the example's: they may have other keys and types."""
    if form is None or form["kind"] != "records":
        return None
    rows = find_witnesses(data)
    carried = carry(form, rows)
    try:
        given = deliver(
            carry_rows(carried, find_names(data)) if isinstance(example, pd.DataFrame) else carried, schema, form
        )
    except Exception as error:  # noqa: BLE001  as above
        return f"it raises {_text(error)}"
    return find_change(rows, given)


def try_carried(data: Any, known: Any, schema: Schema | None) -> Carried | None:
    """By a schema of the user's, or none at all: None where no form brings the example as training knows it."""
    try:
        form = describe(data, typed=schema is not None)
        example = carry(form, known)
        given = deliver(example, schema, form)
    except Exception:  # noqa: BLE001  the schema may be of something else
        return None
    if find_change(known, given) is not None:
        return None
    return Carried(form=form, schema=schema, example=example, given=given)


def _is_empty(value: Any) -> bool:
    return isinstance(value, pd.DataFrame | pd.Series) and not len(value)


def _infer(form: dict[str, Any] | None, data: Any, known: Any) -> tuple[Schema, Any]:
    return _schema(carry(form, data), find_any(form)), carry(form, known)


def _infer_any(form: dict[str, Any] | None, data: Any, known: Any) -> tuple[Schema, Any] | None:
    """What MLflow has no type for, left alone by it; None where there is no such thing."""
    if form is not None and form["kind"] in _ROWS:
        names = find_names(carry(form, data))
        return _any_schema(names, form.get("optional", ())), carry_rows(carry(form, known), names)
    if names := find_any(form, nested=True):
        return _schema(carry(form, data), names), carry(form, known)
    return None


def _any_schema(names: list[str], optional: Collection[str]) -> Schema:
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    return Schema([ColSpec(AnyType(), name=name, required=name not in optional) for name in names])


def _schema(carried: Any, of_any: list[str]) -> Schema:
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    if not of_any:
        return infer(carried)
    typed = carried.drop(columns=of_any)
    inferred = {each.name: each for each in infer(typed).inputs} if len(typed.columns) else {}
    return Schema([inferred.get(name) or ColSpec(AnyType(), name=name) for name in carried.columns])


def infer(inputs: Any) -> Schema:
    """MLflow's schema of a value; raises RecordingError where it has none."""
    from mlflow.models import infer_signature

    with silent_mlflow(), without_spark_connect():
        try:
            return infer_signature(inputs).inputs
        except Exception as error:
            kind = type(inputs).__name__
            raise RecordingError(f"MLflow cannot infer a signature of a {kind}: {_text(error)}", hint=_HINT) from error


def _text(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "message", None) or error).split())
    return text[:300] if isinstance(error, PredictionError) else f"{type(error).__name__}: {text}"[:300]
