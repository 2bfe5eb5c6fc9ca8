"""The signature and the input example of a model, from the data it was trained on and the parameters of its run."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kbuild.answers import compare_texts
from kbuild.errors import KbuildError, RecordingError
from kbuild.recording.input.delivery import deliver, find_change, silent_mlflow, without_spark_connect
from kbuild.recording.input.forms import carry
from kbuild.recording.input.labels import tell_lost
from kbuild.recording.input.polars import is_polars
from kbuild.recording.input.rows import grow_counts, take_first, tell_more, tell_times
from kbuild.recording.input.signature import Carried, make_carried, try_carried
from kbuild.recording.input.used import USED_HINT, find_used, is_used, narrow
from kbuild.recording.output.answer import advise_array, is_empty_answer, tell_index, write_answer

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    from kbuild.training.pyfunc import KedroPipelineModel

_SHOWN = 30
_SCALARS = (bool, int, float, str, datetime.datetime)
_EMPTY = (
    "The inference pipeline answers the example with nothing, so nothing of its answers was compared: let "
    "training: {example_rows: …} in kbuild.yml name so many rows that it gives some"
)
_NO_DATA_HINT = "pass signature and input_example in log_model_kwargs, or signature=None to log without"


class _UnansweredError(RecordingError):
    """The nodes of inference fail on the rows that they are given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """MLflow's signature and input example, either of which the user may have refused (None).

    ``known`` is the example as training's catalog gives it, ``own`` the pipeline's own answer to that, as the scoring
    server writes it; None where no example is known. ``notes`` are what to tell of that answer. ``between`` says of
    what the nodes of that run handed on in the catalog how it came out otherwise.
    """

    signature: ModelSignature | None
    input_example: Any
    known: Any = None
    own: str | None = None
    notes: tuple[str, ...] = ()
    between: Mapping[str, str] = field(default_factory=dict)


def make_example(
    model: KedroPipelineModel, data: Any, *, has_data: bool, log_model_kwargs: Mapping[str, Any], rows: int
) -> Example:
    """Infer what the user did not give: ``signature`` and ``input_example`` are "auto" unless in ``log_model_kwargs``.

    ``model`` has its artifacts loaded, and is told the form of its input; ``data`` is the training input, where
    ``has_data``. The signature's inputs come of all data, its outputs of the example, its parameters of the run's.
    With the signature "used", the columns that the pipeline reads are its input.
    Where the pipeline fails on the first ``rows`` or answers them with nothing, as one does that looks back over more
    of them, the example has more.
    Raises RecordingError when there is nothing to infer from, the pipeline cannot answer its own training data, or no
    request can bring such data.
    """

    def make(count: int) -> Example:
        kwargs = log_model_kwargs
        return _make(model, data, has_data=has_data, log_model_kwargs=kwargs, rows=count, keeps=bool(rows))

    grows = has_data and get_own_example(log_model_kwargs) is None
    counts = grow_counts(data, rows or 1) if grows else [rows or 1]
    empty: int | None = None
    for count in counts:
        try:
            made = make(count)
        except _UnansweredError:
            if count == counts[-1] and empty is None:
                raise
            continue
        if made.own is None or not is_empty_answer(made.own):
            more = (tell_more(rows, count),) if made.own is not None and count > counts[0] else ()
            return replace(made, notes=(*made.notes, *more))
        empty = count if empty is None else empty
    made = make(empty or counts[0])  # once more: the model keeps the form of the example that was made last
    return replace(made, notes=(*made.notes, _EMPTY))


def _make(
    model: KedroPipelineModel, data: Any, *, has_data: bool, log_model_kwargs: Mapping[str, Any], rows: int, keeps: bool
) -> Example:
    """The example of so many rows, which ``keeps`` says to keep where the user gave none."""
    given = log_model_kwargs.get("input_example", "auto")
    signature = log_model_kwargs.get("signature", "auto")
    mine = None if _is_auto(given) or given is False else given
    example, params = get_own_example(log_model_kwargs), mine[1] if isinstance(mine, tuple) else None
    if not has_data:
        data = example
    if not _is_auto(signature) and not is_used(signature):
        wanted = _is_auto(given) and has_data and keeps
        return _make_chosen(model, data if has_data else None, mine, signature or None, rows if wanted else 0)
    if data is None:
        raise RecordingError(
            f"no data of the inference input {model.input_name!r} is left to infer the model's signature from",
            hint=f"give {model.input_name!r} a file in the catalog; or {_NO_DATA_HINT}",
        )
    known = take_rows(data, rows)
    whole = None
    if example is not None:
        check_columns(example, data, used=is_used(signature))
    if is_used(signature):
        used, whole = find_used(model.input_name, known, lambda value: _ask(model, value, params))
        data, known = narrow(data, used), narrow(known, used)
        if isinstance(example, pd.DataFrame | dict):
            for key, names in used.items() if isinstance(used, dict) else [(None, used)]:
                of = (each if key is None else each.get(key) for each in (example, data))
                check_columns(*of, used=True, needed=names)
            example = narrow(example, used)
    carried = make_carried(data, known)
    model.form = carried.form
    if mine is not None:
        known, example = read_own(example, data, carried)
    elif keeps and _is_auto(given):
        example = carried.example
    output = _ask(model, known, params)
    if whole is not None and mine is None and (fault := compare_texts(whole, write_answer(output)).fault):
        raise RecordingError(
            f"with the columns that the pipeline was seen to read alone, it answers otherwise: {fault}",
            hint=USED_HINT,
        )
    made = _infer(model, carried.schema, output)
    kept = (example, params) if isinstance(mine, tuple) else example
    if example is None:
        return Example(signature=made, input_example=None)
    return Example(
        signature=made,
        input_example=kept,
        known=known,
        own=write_answer(output),
        notes=(*tell_lost(data), *tell_index(output), *tell_times(data)),
    )


def get_own_example(log_model_kwargs: Mapping[str, Any]) -> Any:
    """The user's own ``input_example`` without parameters beside it; None for none."""
    given = log_model_kwargs.get("input_example", "auto")
    if _is_auto(given) or given is False:
        return None
    return given[0] if isinstance(given, tuple) and given else given


def check_columns(example: Any, data: Any, *, used: bool, needed: Sequence[Any] | None = None) -> None:
    """Raise RecordingError for a table of other columns than the input's; it may lack some where ``used`` is asked."""
    if not isinstance(example, pd.DataFrame) or not isinstance(data, pd.DataFrame):
        return
    have, want = example.columns.tolist(), data.columns.tolist()
    lost = [label for label in (want if needed is None else needed) if label not in have] if needed or not used else []
    strange = [] if needed else [label for label in have if label not in want]
    told = [f"lacks {', '.join(map(repr, lost[:_SHOWN]))}"] if lost else []
    told += [f"has {', '.join(map(repr, strange[:_SHOWN]))}, which the inference input has not"] if strange else []
    if told:
        raise RecordingError(
            f"the input_example in log_model_kwargs {' and '.join(told)}",
            hint=f"its columns are: {', '.join(map(str, want[:_SHOWN]))}{', …' if len(want) > _SHOWN else ''}",
        )


def is_chosen(log_model_kwargs: Mapping[str, Any]) -> bool:
    """Whether the signature is the user's own, or refused."""
    signature = log_model_kwargs.get("signature", "auto")
    return not _is_auto(signature) and not is_used(signature)


def read_own(example: Any, data: Any, carried: Carried) -> tuple[Any, Any]:
    """The user's example as the first node gets it, and as MLflow is to keep it."""
    same = type(example) is type(data)
    try:
        kept = carry(carried.form, example) if same and carried.form is not None else example
        given = deliver(kept, carried.schema, carried.form)
    except Exception as error:
        text = " ".join(str(getattr(error, "message", None) or error).split())[:300]
        raise RecordingError(
            f"the input_example in log_model_kwargs is not like the training data: {text}",
            hint="leave it out, or give rows of the inference input as the catalog loads it",
        ) from error
    return (example if same and find_change(example, given) is None else given), kept


def _make_chosen(
    model: KedroPipelineModel, data: Any, mine: Any, signature: ModelSignature | None, rows: int
) -> Example:
    """With a signature of the user's, or none: the input's form is kept where the example then arrives as it is."""
    if mine is None and not rows:
        return Example(signature=signature, input_example=None)
    example, params = mine if isinstance(mine, tuple) else (mine, None)
    if data is None:
        return Example(signature=signature, input_example=mine)
    known = take_rows(data, rows or 1)
    carried = try_carried(data, known, None if signature is None else signature.inputs)
    model.form = None if carried is None else carried.form
    if mine is not None and type(example) is not type(data):
        return Example(signature=signature, input_example=mine)
    if mine is None:
        example = _keep(known) if carried is None else carried.example
    else:
        known, example = example, example if model.form is None else carry(model.form, example)
    if example is None:
        return Example(signature=signature, input_example=None)
    output = _ask(model, known, params)
    kept = (example, params) if isinstance(mine, tuple) else example
    own = write_answer(output)
    return Example(
        signature=signature,
        input_example=kept,
        known=known,
        own=own,
        notes=(*tell_lost(data), *tell_index(output), *tell_times(data)),
    )


def _keep(known: Any) -> Any:
    """What MLflow can keep as an example, of a value that nothing is known to carry."""
    if isinstance(known, pd.DataFrame):
        return known.reset_index(drop=True)
    return known if isinstance(known, np.ndarray | list | dict | str | bytes | bool | int | float) else None


def take_rows(data: Any, rows: int) -> Any:
    """The first rows of a table, array or list, or of each in a dict of them; other values whole."""
    if isinstance(data, pd.DataFrame | pd.Series):
        return take_first(data, rows)
    if isinstance(data, list) or (isinstance(data, np.ndarray) and data.ndim):
        return data[:rows]
    if type(data).__module__.partition(".")[0] == "polars" and hasattr(data, "head"):
        return take_first(data, rows) if is_polars(data) else data.head(rows)
    if isinstance(data, dict) and any(isinstance(each, pd.DataFrame | np.ndarray) for each in data.values()):
        return {name: take_rows(each, rows) if hasattr(each, "shape") else each for name, each in data.items()}
    return data


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


def _ask(model: KedroPipelineModel, known: Any, params: Any) -> Any:
    """The pipeline's own answer; the nodes get a copy, which they may change."""
    try:
        return model.ask(copy.deepcopy(known), params)
    except KbuildError:
        raise
    except Exception as error:  # the nodes are the user's code, which may raise anything
        notes = " ".join(getattr(error, "__notes__", []))
        raise _UnansweredError(
            f"the inference pipeline fails on its own training data: {type(error).__name__}: {error} {notes}".strip(),
            hint="run the inference pipeline by itself: kedro run --pipelines <its name>",
        ) from error


def _infer(model: KedroPipelineModel, inputs: Schema, output: Any) -> ModelSignature:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import Schema

    try:
        with silent_mlflow(), without_spark_connect():
            rest = infer_signature(None, output, get_signature_parameters(model, model.loaded_inputs) or None)
            if rest.outputs is not None:
                Schema.from_json(rest.outputs.to_json())  # whoever loads the model has to read it
    except Exception as error:  # MLflow raises anything of what it was not made for
        text = " ".join(str(getattr(error, "message", None) or error).split())
        raise RecordingError(
            f"MLflow cannot infer a signature of the answer, a {type(output).__name__}: {text}",
            hint=advise_array(output) or _NO_DATA_HINT,
        ) from error
    return ModelSignature(inputs=inputs, outputs=rest.outputs, params=rest.params)
