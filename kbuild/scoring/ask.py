"""The model that is served, asked for tables: the same code that answers ``/invocations``.

A table whose columns have the signature's very types is given to the model as the server's short way does; any other
goes MLflow's own way, whose schema enforcement says what may be cast and what is wrong. Both are what the server does
with a Parquet body.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from kbuild.answers import compare_texts
from kbuild.errors import InvalidModel
from kbuild.scoring.columns import Tensor, as_request, cast_column, choose_listed, find_writers, is_of
from kbuild.scoring.errors import InputRefused, RowsFailed
from kbuild.serving.answer.answer import write_predictions
from kbuild.serving.answer.columns import Unusual
from kbuild.serving.answer.load_model import LeanModel, load_lean
from kbuild.serving.answer.model import prefer_model_code
from kbuild.serving.answer.model_facts import Facts, read_facts
from kbuild.serving.answer.params import ParamReader
from kbuild.serving.answer.reply import JSON

_ARROW = {
    "double": pa.float64(),
    "float": pa.float32(),
    "long": pa.int64(),
    "integer": pa.int32(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "binary": pa.binary(),
    "datetime": pa.timestamp("ns"),
}
_MARKS = {";": "';'", "\t": "tabs", "|": "'|'"}
"""What people part fields by, too."""
_SEVERAL = (
    "the model takes several tables in a request: a row is such a request, and has each table as a list of its rows "
    "(Parquet's lists of structs); tables as they are go to the server or to predict, see kbuild docs inputs"
)
# What MLflow says first, with the data and the schema; the reason comes after both.
_ENFORCING = "Failed to enforce schema of data "


class Model:
    """The model of a folder, loaded when it is first asked; ``params`` go with every row."""

    def __init__(self, folder: Path, params: dict[str, Any] | None = None) -> None:
        prefer_model_code(folder)
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # as MLflow's server sets it
        self._folder = folder
        self._lean: LeanModel | None = None
        self._loaded: Any = None
        try:
            self._lean = load_lean(folder)
        except Exception as error:  # loading runs the model's code: anything can come out of it
            raise self._does_not_load(error) from error
        self.facts: Facts = self._lean.facts if self._lean is not None else read_facts(self._mlflow(), folder)
        columns = [each for each in self.facts.inputs or [] if isinstance(each.get("name"), str)]
        self._tensors = Tensor.all_of(self.facts.inputs or [])
        self.types: dict[str, str] = {} if self._tensors else {each["name"]: str(each.get("type")) for each in columns}
        self._required = [each["name"] for each in columns if each.get("required", True)]
        self._writers = find_writers(self._form())
        self._ask_with(params)

    def asked_with(self, params: dict[str, Any]) -> Model:
        """The same model, loaded once, whose rows go with other parameters."""
        other = copy.copy(self)
        other._ask_with(params)
        return other

    def _ask_with(self, params: dict[str, Any] | None) -> None:
        self._params = params or None
        self._fast: Callable[[Any], Any] | None = None
        if self._lean is not None:
            predict, reader = self._lean.fast.predict, ParamReader(self.facts.params or None)
            with contextlib.suppress(Unusual):  # MLflow says what is wrong with them
                reader.read(params or None)
                self._fast = lambda table: predict(None, table, params=reader.read(params or None))

    def check_columns(self, names: list[str], path: str) -> None:
        """Raises InputRefused for a table that lacks columns."""
        missing = [name for name in self._required if name not in names]
        if missing:
            parted = next((words for mark, words in _MARKS.items() if len(names) == 1 and mark in names[0]), None)
            hint = f"it has {', '.join(names)}"
            if parted:
                hint = f"its fields are parted by {parted}: write it anew with commas"
            elif (self._form() or {}).get("kind") == "tables":
                hint = f"{_SEVERAL}; {hint}"
            elif self._tensors:
                hint = f"the model's tensors are columns of lists, or of numbers, by these names; {hint}"
            raise InputRefused(f"{path} lacks columns that the model reads: {', '.join(missing)}", hint=hint)

    def check_rows_alone(self) -> str | None:
        """Why it cannot be told that a row is answered alike in any company, None where it was seen.

        Raises InvalidModel where it is not: its answers would depend on how the table is cut.
        """
        if self._fast is None or self._lean is None or self.facts.example is None:
            return "its example cannot be asked the short way"
        try:
            table, _ = self._lean.fast.read(self.facts.example, JSON)
        except Exception:  # noqa: BLE001  MLflow's own form of request
            return "its example does not have plain columns"
        if len(table) < 2:
            return "its example has one row"
        try:
            whole = self.ask(table.copy())
            alone = [self.ask(table.iloc[[number]].reset_index(drop=True)) for number in range(len(table))]
        except InvalidModel:
            raise
        except Exception as error:  # noqa: BLE001  the model's own code
            return f"its example is not answered: {_reason(error)}"
        together = write_predictions(whole), write_predictions(pd.concat(alone, ignore_index=True))
        fault = compare_texts(*together, self.facts.tolerance).fault
        if fault is not None:
            raise InvalidModel(
                f"the model's answer to a row depends on the rows beside it: {fault}",
                hint="a batch is cut into parts, which would change the answers",
            )
        return None

    def find_unfit(self, frame: Any) -> dict[int, str]:
        """Rows with nothing where the model takes whole numbers or truth values, by their place: why."""
        found: dict[int, str] = {}
        for name, kind in self.types.items():
            if name in frame.columns and kind in ("long", "integer", "boolean"):
                for place in np.flatnonzero(frame[name].isna().to_numpy()):
                    found.setdefault(int(place), f"{name} is missing; the model takes {kind}")
        return found

    def ask(self, frame: Any) -> Any:
        """The answer as a table of one row for each, of ``chosen`` columns; raises whatever the model raises."""
        if self._tensors:
            return _as_table(self._ask_mlflow(self._as_tensors(frame)), len(frame))
        table = self._shaped(frame)
        answer = self._fast(table) if self._fast is not None and self._is_exact(table) else self._ask_mlflow(table)
        return _as_table(answer, len(frame))

    def arrow(self, table: Any) -> Any:
        """The answer as Arrow has it, by the types that the signature says, so that all parts have the same."""
        stated = {
            each.get("name"): _ARROW[each["type"]] for each in self.facts.outputs or [] if each.get("type") in _ARROW
        }
        if len(table.columns) == 1 and set(stated) == {None}:
            stated = {table.columns[0]: stated[None]}
        columns = {}
        for name in table.columns:
            try:
                columns[name] = pa.array(table[name], type=stated.get(name), from_pandas=True)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                said = f"; its signature says {stated[name]}" if name in stated else ""
                raise InvalidModel(
                    f"the answer's {name} cannot be written: {' '.join(str(error).split())[:200]}{said}"
                ) from error
        return pa.table(columns)

    def no_answers(self) -> Any:
        """A table of the answer's columns without a row; raises RowsFailed where the signature does not say them."""
        outputs = [each for each in self.facts.outputs or [] if each.get("type") in _ARROW]
        if not outputs:
            raise RowsFailed("no row was answered, and the model's signature does not say what an answer has")
        return pa.table({each.get("name") or "prediction": pa.array([], _ARROW[each["type"]]) for each in outputs})

    def _shaped(self, frame: Any) -> Any:
        """The model's columns in its order, cast where no bit is lost."""
        if not self.types:
            return frame
        brought = {
            name: as_request(frame[name], kind, self._writers.get(name))
            for name, kind in self.types.items()
            if name in frame.columns
        }
        return pd.DataFrame({name: cast_column(column, self.types[name]) for name, column in brought.items()})

    def _form(self) -> Any:
        """What the model's input was in training; None for a model that is none of kbuild's, or needs none."""
        if self._lean is not None:
            return getattr(getattr(self._lean.fast.predict, "__self__", None), "form", None)
        with contextlib.suppress(Exception):  # a model of another kind
            return getattr(self._mlflow().unwrap_python_model(), "form", None)
        return None

    def chosen(self, frame: Any) -> Any:
        """The table's columns that are the model's tensors, or its list; all for a table. Raises InputRefused."""
        if not self._tensors:
            return choose_listed(frame, self.facts.inputs or [])
        return frame[[name for each in self._tensors for name in each.columns_of(frame)]]

    def _as_tensors(self, frame: Any) -> Any:
        made = {each.name: each.of_table(frame) for each in self._tensors}
        return made.get(None, made)

    def _is_exact(self, table: Any) -> bool:
        return all(is_of(table[name], self.types[name]) for name in table.columns)

    def _mlflow(self) -> Any:
        if self._loaded is None:
            import mlflow.pyfunc

            try:
                self._loaded = mlflow.pyfunc.load_model(str(self._folder))
            except Exception as error:  # the same
                raise self._does_not_load(error) from error
        return self._loaded

    def _ask_mlflow(self, table: Any) -> Any:
        model = self._mlflow()
        return model.predict(table) if self._params is None else model.predict(table, params=self._params)

    def _does_not_load(self, error: Exception) -> InvalidModel:
        reason = " ".join(str(error).split())
        return InvalidModel(f"the model in {self._folder} does not load: {type(error).__name__}: {reason}")


def answer_rows(model: Model, frame: Any, *, to_first: bool = False) -> tuple[list[int], Any, dict[int, str]]:
    """Places of the rows that were answered, their answers in that order (None without any), and why others were not.

    Where a table fails its halves are asked, down to the rows that are the reason; ``to_first`` asks no further than
    the first row that has no answer.
    """
    frame = model.chosen(frame)
    unfit = model.find_unfit(frame)
    end = min(unfit, default=len(frame)) if to_first else len(frame)
    left = [place for place in range(end) if place not in unfit]
    answers: list[Any] = []
    good: list[int] = []
    # No function within this one: it would hold itself, and the table until the collector comes round.
    asked = [left] if left else []
    while asked:
        places = asked.pop()
        try:
            table = frame if len(places) == len(frame) else frame.iloc[places].reset_index(drop=True)
            answers.append(model.ask(table))
            good.extend(places)
        except InvalidModel:
            raise
        except Exception as error:  # noqa: BLE001  the model's own code: anything can come out of it
            if len(places) == 1:
                unfit[places[0]] = _reason(error)
                if to_first:
                    break
                continue
            half = len(places) // 2
            asked += [places[half:], places[:half]]
    return good, pa.concat_tables([model.arrow(each) for each in answers]) if answers else None, unfit


def answers_of_all(model: Model, answers: Any, good: list[int], rows: int) -> Any:
    """The answers that ``answer_rows`` gives for each of so many rows in order, with nothing where there is none."""
    at = np.full(rows, -1, dtype=np.int64)
    at[good] = np.arange(len(good))
    return (model.no_answers() if answers is None else answers).take(pa.array(at, mask=at < 0))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if text.startswith("{"):
        with contextlib.suppress(ValueError):
            text = str(json.loads(text).get("message", text))
    if text.startswith(_ENFORCING):
        text = text.rpartition(". Error: ")[2]
    return f"{type(error).__name__}: {text}"[:300]


def _as_table(answer: Any, rows: int) -> Any:
    if isinstance(answer, dict):
        answer = pd.DataFrame(answer) if all(_length(value) == rows for value in answer.values()) else None
    elif isinstance(answer, pd.Series):
        answer = answer.to_frame(answer.name or "prediction")
    elif isinstance(answer, np.ndarray | list) and len(answer) == rows:
        if isinstance(answer, np.ndarray) and answer.ndim == 2:
            answer = pd.DataFrame(answer, columns=[f"prediction_{number}" for number in range(answer.shape[1])])
        elif isinstance(answer, list) and answer and all(isinstance(each, dict) for each in answer):
            answer = pd.DataFrame(answer)
        else:
            each = answer.tolist() if isinstance(answer, np.ndarray) and answer.ndim > 2 else list(answer)
            answer = pd.DataFrame({"prediction": each})
    if not isinstance(answer, pd.DataFrame) or len(answer) != rows:
        found = f"{len(answer)} rows" if isinstance(answer, pd.DataFrame) else type(answer).__name__
        raise InvalidModel(
            f"the model does not answer with one row for each: {found} to {rows}",
            hint="a batch has an answer for each row: ask such a model by requests, or predict",
        )
    return answer.rename(columns=str).reset_index(drop=True)


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list | np.ndarray | pd.Series) else None
